def test_a_retraining_is_asked_for_and_shown(api):
    assert api.get("/models/tiny/retrainings").json() == []
    made = api.post("/models/tiny/retrainings", json={"by": "ana", "reason": "new prices"}).json()
    assert (made["number"], made["request"]["cause"], made["request"]["by"]) == (1, "manual", "ana")
    assert api.get("/models/tiny/retrainings").json() == [made]
    kinds = {job["kind"] for job in api.get("/jobs").json()}
    assert kinds == {"retrain.extract", "retrain.validate", "retrain.train", "retrain.gate", "retrain.release"}


def test_what_cannot_be_trained_is_told(api):
    reply = api.post("/models/other/retrainings", json={})
    assert reply.status_code == 400
    assert "'other' is no model that rung.toml says how to train; there are tiny" in reply.json()["error"]
    assert api.post("/models/tiny/retrainings", json={"since": 3}).status_code == 400
    assert api.post("/models/Bad Name/retrainings", json={}).status_code == 400
