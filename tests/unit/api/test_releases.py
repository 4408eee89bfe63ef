def test_a_release_is_moved_and_its_ledger_read(api):
    first = api.post("/models/tiny/release", json={"version": 1, "by": "ana", "reason": "the first"}).json()
    assert (first["epoch"], first["move"]["by"], first["move"]["reason"]) == (1, "ana", "the first")

    canary = api.post("/models/tiny/release", json={"version": 2, "percent": 5}).json()
    assert {arm["name"]: arm["share"] for arm in canary["arms"]} == {
        "stable": 900000,
        "canary": 50000,
        "baseline": 50000,
    }
    busy = api.post("/models/tiny/rollout", json={"version": 3})
    assert (busy.status_code, "under way" in busy.json()["error"]) == (409, True)

    back = api.post("/models/tiny/rollback", json={"by": "guard"}).json()
    assert [arm["version"] for arm in back["arms"]] == [1]
    assert api.post("/models/tiny/release", json={"version": 3, "percent": 150}).status_code == 400

    assert [one["epoch"] for one in api.get("/models/tiny/releases").json()] == [1, 2, 3]
    (then,) = api.get("/models/tiny/releases", params={"at": canary["at"]}).json()
    assert then == canary
    assert api.get("/models/tiny/releases", params={"at": "2001-01-01T00:00:00Z"}).json() == []
    assert [one["epoch"] for one in api.get("/releases").json()] == [3]


def test_the_other_moves(api):
    split = {"shares": {"1": 95, "2": 5}, "segments": [{"attribute": "header:team", "values": ["x"], "arm": "v2"}]}
    assert [arm["name"] for arm in api.post("/models/tiny/split", json=split).json()["arms"]] == ["v1", "v2"]
    assert api.post("/models/tiny/promote", json={"version": 1}).json()["move"]["kind"] == "promote"
    shadow = api.post("/models/tiny/shadow", json={"version": 2}).json()
    assert shadow["arms"][1]["role"] == "shadow"
    assert api.post("/models/tiny/promote", json={}).json()["arms"][0]["version"] == 2
    ladder = api.post("/models/tiny/rollout", json={"version": 3, "ladder": [0, 5, 100]}).json()
    assert ladder["rollout"]["ladder"] == [0, 5, 100]
    assert api.post("/models/tiny/rollout", json={"version": 3, "ladder": [50, 5]}).status_code in (400, 409)


def test_how_an_experiment_stands(api):
    assert api.get("/models/tiny/experiment").status_code == 409
    assert api.get("/models/other/experiment").status_code == 404
    api.post("/models/tiny/release", json={"version": 1})
    api.post("/models/tiny/release", json={"version": 2, "percent": 5})
    found = api.get("/models/tiny/experiment").json()
    assert (found["percent"], found["over"]) == (5, False)
    assert {one["name"]: one["outcome"] for one in found["guards"]} == {
        "errors": "inconclusive",
        "latency": "inconclusive",
    }
    assert found["next"]["action"] == "wait"
