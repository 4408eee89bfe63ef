def test_a_job_is_submitted_seen_cancelled_and_tried_again(api):
    request = {"kind": "echo", "arguments": {"x": [1]}, "priority": 5, "idempotency_key": "once"}
    job = api.post("/jobs", json=request).json()
    assert (job["state"], job["arguments"], job["priority"]) == ("ready", {"x": [1]}, 5)
    assert api.post("/jobs", json=request).json()["id"] == job["id"]
    child = api.post("/jobs", json={"kind": "echo", "after": [job["id"]]}).json()
    assert child["state"] == "waiting"

    assert [one["id"] for one in api.get("/jobs").json()] == [child["id"], job["id"]]
    assert [one["id"] for one in api.get("/jobs", params={"state": "waiting"}).json()] == [child["id"]]
    cancelled = api.post(f"/jobs/{job['id']}/cancel", json={"reason": "a slip"}).json()
    assert (cancelled["state"], cancelled["error"]) == ("cancelled", "a slip")
    assert api.get(f"/jobs/{child['id']}").json()["state"] == "cancelled"
    assert api.post(f"/jobs/{job['id']}/retry").json()["state"] == "ready"
