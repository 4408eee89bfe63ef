"""`rung up`: a project's processes as a user starts, shows, hurts and stops them."""

import os
import signal
import socket
import threading
import time

import httpx2
import orjson
import psutil
import pytest

from rung.testing.models import tiny

from .projects import PATIENCE, Project, load


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


def test_a_project_is_started_shown_and_stopped(project):
    began = time.monotonic()
    project.up()
    took = time.monotonic() - began
    assert project.predict() == 200
    assert httpx2.get(f"{project.url}/readyz").status_code == 200
    status = project.ps()

    roles = {role["name"]: role for role in status["roles"]}
    assert list(roles) == ["supervisor", "control", "replica-1", "worker-1"]
    assert all(role["state"] == "ready" and role["rss"] and role["pid"] for role in roles.values())
    rss, pss = (sum(role[kind] for role in roles.values()) / 1e6 for kind in ("rss", "pss"))
    print(
        f"up in {took:.2f} s; {rss:.0f} MB RSS, {pss:.0f} MB PSS: "
        + ", ".join(f"{name} {role['rss'] / 1e6:.0f}/{role['pss'] / 1e6:.0f}" for name, role in roles.items())
    )
    # Loosely: the tests share two cores, and the figure that is promised holds on a quiet machine.
    assert took < 20
    assert rss < 330
    (model,) = status["models"]
    assert (model["model"], model["version"], model["loaded"], model["requests"]) == ("tiny", 1, ["replica-1"], 1)
    assert status["problems"] == []

    # One set of functions: what the API moves, the command line and the replica see.
    moved = httpx2.post(f"{project.control}/models/tiny/release", json={"version": 1, "by": "ana"}, timeout=PATIENCE)
    assert moved.json()["epoch"] == 1
    job = httpx2.post(f"{project.control}/jobs", json={"kind": "models.verify", "arguments": {"model": "tiny"}}).json()
    project.until(lambda: httpx2.get(f"{project.control}/jobs/{job['id']}").json()["state"] == "done")
    shown = project.rung("ps").stdout
    assert "tiny   1        stable  stable  100 %  1 of 1" in shown
    assert "models.verify" in shown
    assert httpx2.get(f"{project.control}/readyz", timeout=PATIENCE).status_code == 200
    assert httpx2.get(f"{project.control}/status", timeout=PATIENCE).json()["url"] == project.url

    family = project.family()
    assert len(family) == 3
    down = project.rung("down").stdout
    assert down.startswith("stopped demo in")
    assert project.end() == 0
    assert gone(family)
    order = [line["role"] for line in map(orjson.loads, project.log.splitlines()) if line.get("action") == "stopped"]
    assert order[-1] == "replica-1", "who answers ends last"
    assert "demo is not up" in project.rung("ps").stdout
    assert project.rung("down").stdout == "nothing is up in this folder\n"


def test_whatever_is_killed_comes_back_and_serving_does_not_notice_the_others(project):
    project.up()
    with load(project.url) as outcomes:
        for name in ("worker-1", "control"):
            before = project.role(name)
            os.kill(before["pid"], signal.SIGKILL)
            project.until(
                lambda name=name: project.role(name)["restarts"] == 1 and project.role(name)["state"] == "ready"
            )
            after = project.role(name)
            assert after["pid"] != before["pid"]
            assert after["reason"] == "ended by SIGKILL"
    assert set(outcomes) == {200}
    assert httpx2.get(f"{project.control}/healthz").status_code == 200, "at the same address"

    os.kill(project.role("replica-1")["pid"], signal.SIGKILL)
    project.back("replica-1")
    assert project.predict() == 200
    assert "a role ended and is started again" in project.log


def outage(project: Project, seconds: float) -> list[object]:
    """The control plane is dead for so long, under load. Its supervisor is stopped, so that it is not started again."""
    project.process.send_signal(signal.SIGSTOP)
    os.kill(project.role("control")["pid"], signal.SIGKILL)
    try:
        with load(project.url) as outcomes:
            until = time.monotonic() + seconds
            status = project.ps()
            roles = {role["name"]: role for role in status["roles"]}
            assert status["models"][0]["requests"] > 0, "ps shows it all the same"
            assert roles["replica-1"]["state"] == "ready"
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{project.control}/healthz")
            project.rung("release", "tiny", "1")
            threading.Event().wait(max(until - time.monotonic(), 0))
    finally:
        project.process.send_signal(signal.SIGCONT)
    project.back("control")
    return outcomes


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=[pytest.mark.nightly, pytest.mark.timeout(300)])])
def test_serving_does_not_need_the_control_plane(project, seconds):
    project.up("--workers", 0)
    outcomes = outage(project, seconds)

    assert len(outcomes) > 100
    assert set(outcomes) == {200}
    assert httpx2.get(f"{project.control}/releases", timeout=PATIENCE).json()[0]["epoch"] == 1
    assert project.end() == 0


def test_nothing_outlives_a_killed_supervisor_and_the_next_one_starts(project):
    project.up("--workers", 0)
    family = project.family()
    project.end(signal.SIGKILL)
    psutil.wait_procs(family, 5)
    assert gone(family)

    shown = project.rung("ps").stdout
    assert "was killed" in shown
    project.up("--workers", 0, "--replicas", 2)
    assert project.predict() == 200
    # Two replicas share the port: each has its own besides, and one may end.
    status = project.ps()
    assert status["models"][0]["loaded"] == ["replica-1", "replica-2"]
    os.kill(project.role("replica-1")["pid"], signal.SIGKILL)
    project.back("replica-1")
    for _ in range(20):
        assert project.predict() == 200

    again = project.rung("up", "--port", "0", "--control-port", "0", check=False)
    assert again.returncode == 2
    assert f"is up already (process {project.process.pid})" in again.stderr
    # From the keyboard, as from `rung down`; who is asked twice hurries.
    assert project.end(signal.SIGINT) == 0


def test_a_project_without_a_model_comes_up_and_takes_its_first(tmp_path):
    project = Project(tmp_path)
    (tmp_path / "rung.toml").write_text("[workers]\ncount = 0\n")
    project.up()
    try:
        reply = httpx2.get(f"{project.url}/readyz")
        assert (reply.status_code, reply.json()["error"]) == (503, "no model was found")
        assert any("no model was found" in problem for problem in project.ps()["problems"])
        project.rung("models", "register", tiny(tmp_path / "tiny.onnx"))
        project.until(lambda: httpx2.get(f"{project.url}/readyz").status_code == 200)
        assert project.predict() == 200
    finally:
        assert project.end() == 0


@pytest.mark.parametrize(
    ("text", "args", "said"),
    [
        (None, (), "there is no rung.toml in"),
        ("", (), "is empty: write at least"),
        ("[project]\nnaem = 'x'", (), "rung.toml:2: there is no `naem` in [project]; did you mean `name`?"),
        ("[project]", ("--host", "0.0.0.0"), "RUNG_CONTROL_KEY"),
        ("[project]\nstore = 'oracle:x'", (), "'oracle' is no database that rung knows"),
        ("[project]", ("--role", "king"), "is no role"),
        ("[project]", ("--port", "{taken}"), "cannot listen on 127.0.0.1:{taken}: Address already in use"),
        ("[project]", ("--port", "0", "--control-port", "{taken}"), "choose another with --control-port"),
    ],
)
def test_what_cannot_start_says_why(tmp_path, text, args, said):
    if text is not None:
        (tmp_path / "rung.toml").write_text(text)
    project = Project(tmp_path)
    with socket.socket() as other:
        # As another project's replica would: its port is not shared with strangers.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        done = project.rung(
            "up", *(arg.format(taken=taken) for arg in args), check=False, RUNG_PORT="0", RUNG_CONTROL_PORT="0"
        )

    assert done.returncode == 2
    assert said.format(taken=taken) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".rung" / "up.json").exists()


def test_one_role_alone_needs_no_supervisor(project):
    key = "a-key-that-nobody-guesses"
    project.up("--role", "control", ready=False, RUNG_CONTROL_KEY=key)
    url = orjson.loads(project.process.stdout.readline())["url"]

    assert httpx2.get(f"{url}/models", timeout=PATIENCE).status_code == 401
    assert (
        httpx2.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE).json()[0]["name"]
        == "tiny"
    )
    assert project.end() == 0


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_fifty_starts_over_stale_files(project):
    times = []
    for number in range(50):
        began = time.monotonic()
        project.up("--workers", 0)
        times.append(time.monotonic() - began)
        family = project.family()
        project.end(signal.SIGKILL if number % 2 else signal.SIGTERM)
        psutil.wait_procs(family, 5)
        assert gone(family), number
    print(f"up in {min(times):.2f} s at best, {sorted(times)[25]:.2f} s in the middle, {max(times):.2f} s at worst")
