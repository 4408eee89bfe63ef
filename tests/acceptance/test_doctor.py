"""`rung doctor` as a person runs it."""

import orjson

from rung.testing import models


def test_a_project_is_measured_and_told_what_is_next(rung, tmp_path):
    (tmp_path / "rung.toml").write_text('[project]\nname = "p"\n')
    rung("models", "register", models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny")

    done = rung("doctor", "--seconds", "0.3", "--json")
    report = orjson.loads(done.stdout)
    figures = report["figures"]
    found = {one["what"]: one for one in report["findings"]}
    assert done.returncode == int(report["worst"] == "problem")
    assert {"processor", "memory", "disk space", "disk speed", "cold start", "access", "rung"} <= found.keys()
    assert 0 < figures["start"] < 60
    assert figures["writes_limit"] > 1
    assert figures["disk"]["sync"] > 0
    assert 0 <= figures["cpu"] <= 1
    # The replica that was started for a moment has left nothing behind.
    assert not (tmp_path / ".rung/log").exists()
    assert not (tmp_path / ".rung/keys").exists()
    assert not list(tmp_path.glob(".rung-doctor-*"))


def test_a_problem_is_exit_code_1_with_its_way_out(rung, tmp_path):
    (tmp_path / "rung.toml").write_text('[serve]\nhost = "0.0.0.0"\n')

    done = rung("doctor", "--seconds", "0.1", "--no-start")
    assert done.returncode == 1
    assert "data port (0.0.0.0) lets other machines in and asks for no key" in done.stdout
    assert "access: rung keys create NAME" in done.stdout
