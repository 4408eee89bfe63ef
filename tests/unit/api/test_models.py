def test_models_and_versions(api):
    assert [(one["name"], one["version"]) for one in api.get("/models").json()] == [("tiny", n) for n in (1, 2, 3)]
    assert [one["version"] for one in api.get("/models/tiny").json()] == [1, 2, 3]
    manifest = api.get("/models/tiny/versions/2").json()
    assert (manifest["version"], manifest["runtime"]) == (2, "onnx")
