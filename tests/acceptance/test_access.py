"""Keys, limits and certificates as whoever runs rung meets them."""

import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import orjson
import pytest

from rung.store.access import KeyStore
from rung.store.blobs import DiskStore
from rung.testing import models

from .projects import Project

CERTIFICATES = Path(__file__).parents[1] / "certificates"
WITHIN = 5.0
"""Seconds in which a key is followed everywhere."""
ROW = np.zeros(16, np.float32).tobytes()


def ask(url: str, token: str = "", **headers: str) -> httpx2.Response:
    if token:
        headers["authorization"] = f"Bearer {token}"
    headers["content-type"] = "application/octet-stream"
    return httpx2.post(f"{url}/predict/tiny", content=ROW, headers=headers)


def key(folder: Path, name: str, **fields) -> str:
    """Make a key in the project there, as `rung keys create` does."""
    return KeyStore(DiskStore(folder / ".rung/access")).create(name, at=time.time(), by="test", **fields)[0]


def within(seconds: float, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.05)


def test_keys_are_followed_while_it_serves(serve, rung, tmp_path):
    url = serve(models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny").url
    assert ask(url).status_code == 200

    made = rung("keys", "create", "web", "--model", "t*", "--rate", "1000", "--expires", "1d")
    token = made.stdout.strip()
    assert "from now on the data port asks for a key" in made.stderr
    within(WITHIN, lambda: ask(url).status_code == 401)
    refused = ask(url)
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["error"] == "A valid key is needed: send `Authorization: Bearer KEY`."
    assert ask(url, token).status_code == ask(url, **{"x-api-key": token}).status_code == 200
    assert ask(url, token + "a").status_code == 401
    assert {httpx2.get(f"{url}/{path}").status_code for path in ("livez", "readyz", "metrics", "v2/health/ready")} == {
        200
    }
    assert httpx2.get(f"{url}/v2/models/tiny").status_code == 401

    (tmp_path / "row.bin").write_bytes(ROW)
    asked = rung("predict", f"{url}/predict/tiny", "row.bin", "--out", "out", env={"RUNG_API_KEY": token})
    assert asked.returncode == 0, asked.stderr
    assert "A valid key is needed" in rung("predict", f"{url}/predict/tiny", "row.bin", "--out", "out").stderr

    slow, other = key(tmp_path, "slow", rate=0.5), key(tmp_path, "other", models=("nuclei",))
    within(WITHIN, lambda: ask(url, other).status_code == 403)
    assert "is not for the model 'tiny'" in ask(url, other).json()["error"]
    assert ask(url, slow).status_code == 200
    over = ask(url, slow)
    assert (over.status_code, over.headers["retry-after"]) == (429, "2")
    # Loading and unloading takes more than a caller's key.
    load = httpx2.post(f"{url}/v2/repository/models/tiny/unload", headers={"x-api-key": token})
    assert load.status_code == 403

    began = time.monotonic()
    assert "revoked the key of web" in rung("keys", "revoke", "web", "--because", "leaked").stdout
    within(WITHIN, lambda: ask(url, token).status_code == 401)
    assert time.monotonic() - began < WITHIN
    assert "has been revoked" in ask(url, token).json()["error"]
    shown = rung("keys", "list", "--all").stdout
    assert ": leaked" in shown
    assert token.rpartition("_")[2] not in shown + "".join(
        path.read_text()
        for path in (tmp_path / ".rung").rglob("*")
        if path.is_file() and path.suffix in (".json", ".jsonl")
    )
    audit = orjson.loads(rung("audit", "--json").stdout)
    assert [line["what"].split()[1:3] for line in audit] == [["keys", "create"], ["keys", "revoke"]]


def test_a_refused_move_of_a_release_is_told_and_remembered(tmp_path, rung):
    (tmp_path / "rung.toml").write_text('[project]\nname = "p"\n')
    rung("models", "register", models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny")
    tokens = {role: key(tmp_path, role, role=role) for role in ("viewer", "deployer")}
    command = [sys.executable, "-m", "rung", "up", "--role", "control", "--control-port", "0", "--json"]
    with (tmp_path / "up.err").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log)
    try:
        url = orjson.loads(process.stdout.readline())["url"]

        def promote(token: str) -> httpx2.Response:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return httpx2.post(f"{url}/models/tiny/promote", json={"version": 1}, headers=headers)

        assert [promote(token).status_code for token in ("", tokens["viewer"], tokens["deployer"])] == [401, 403, 200]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
    lines = orjson.loads(rung("audit", "--json").stdout)[-3:]
    assert [(line["outcome"], line.get("by", "")) for line in lines] == [
        ("refused", ""),
        ("refused", "viewer"),
        ("done", "deployer"),
    ]
    assert "takes the role deployer" in (tmp_path / "up.err").read_text()
    assert "deployer" in rung("history", "tiny").stdout


def test_a_quota_is_let_through_once_by_all_replicas_together(tmp_path):
    text = '[project]\nname = "p"\n[workers]\ncount = 0\n[models.tiny.serve]\nreplicas = { min = 2 }\n'
    (tmp_path / "rung.toml").write_text(text)
    project = Project(tmp_path)
    project.rung("models", "register", models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny")
    token = key(tmp_path, "web", quota=90)
    project.up()
    try:
        deadline, passed, last = time.monotonic() + 30, 0, ""
        while "used up its 90 requests" not in last:
            assert time.monotonic() < deadline, last
            reply = ask(project.url, token)
            assert reply.status_code in (200, 429), reply.text
            passed += reply.status_code == 200
            if reply.status_code == 429:
                last = reply.json()["error"]
                assert int(reply.headers["retry-after"]) >= 1
        assert passed == 90
    finally:
        project.end()


@pytest.mark.nightly
def test_a_revoked_key_is_refused_everywhere_within_five_seconds(tmp_path):
    text = '[project]\nname = "p"\n[models.tiny.serve]\nreplicas = { min = 3 }\n'
    (tmp_path / "rung.toml").write_text(text)
    project = Project(tmp_path)
    project.rung("models", "register", models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny")
    key(tmp_path, "another")
    token = key(tmp_path, "ana", role="deployer")
    project.up()
    try:
        doors = [role["url"] for role in project.state()["roles"] if role["role"] == "replica"]
        headers = {"authorization": f"Bearer {token}"}

        def answers() -> list[int]:
            found = [ask(url, token).status_code for url in (*doors, project.url)]
            return [*found, httpx2.get(f"{project.control}/models", headers=headers).status_code]

        assert len(doors) == 3
        within(WITHIN, lambda: answers() == [200] * 5)
        began = time.monotonic()
        project.rung("keys", "revoke", "ana")
        within(WITHIN, lambda: answers() == [401] * 5)
        print(f"refused everywhere after {time.monotonic() - began:.1f} s, the command's own start among them")
    finally:
        project.end()


def test_the_connection_is_encrypted_and_a_new_certificate_is_taken_up(serve, tmp_path):
    place = tmp_path / "server.pem"
    shutil.copy(CERTIFICATES / "first.pem", place)
    served = serve(models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny", "--tls-certificate", place)
    assert served.url.startswith("https://")

    def answered(name: str) -> bool:
        context = ssl.create_default_context(cafile=CERTIFICATES / f"{name}.pem")
        try:
            with httpx2.Client(verify=context) as client:
                reply = client.post(
                    f"{served.url}/predict/tiny", content=ROW, headers={"content-type": "application/octet-stream"}
                )
        except httpx2.ConnectError:
            return False
        return reply.status_code == 200 and len(reply.content) == 12

    assert answered("first")
    assert not answered("second")
    with pytest.raises(httpx2.HTTPError):
        httpx2.get(served.url.replace("https", "http"))
    shutil.copy(CERTIFICATES / "second.pem", tmp_path / "new.pem")
    (tmp_path / "new.pem").replace(place)
    within(WITHIN, lambda: answered("second"))
    # What cannot be used is said, and the old one stays.
    shutil.copy(CERTIFICATES / "expired.pem", place)
    within(WITHIN, lambda: "expired at 2020-01-01" in served.stderr())
    assert answered("second")


def test_a_certificate_that_cannot_be_used_ends_the_start(rung, tmp_path):
    file = models.tiny(tmp_path / "tiny.onnx")
    done = rung("serve", file, "--port", "0", "--tls-certificate", CERTIFICATES / "expired.pem")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith("rung: tls_certificate: ")
    done = rung("serve", file, "--port", "0", "--tls-key", CERTIFICATES / "first.pem")
    assert done.stderr.splitlines()[-1] == (
        "rung: tls_key without tls_certificate: name the file of the certificate as well"
    )


def _load(port: int, senders: list[tuple[str, float]], seconds: float) -> list[list[tuple[int, float]]]:
    """Status and seconds of each answer, sender by sender: each a process, so that no sender slows another."""
    command = [sys.executable, Path(__file__).with_name("sender.py"), str(port)]
    running = [
        subprocess.Popen([*command, token, str(rate), str(seconds)], stdout=subprocess.PIPE) for token, rate in senders
    ]
    return [[(status, took) for status, took in orjson.loads(one.communicate(timeout=90)[0])] for one in running]


def _fair(serve, tmp_path, seconds: float, rounds: int) -> list[tuple[float, float]]:
    """p99 of the others in milliseconds, beside one tenant at its limit and at 20 times that, round by round."""
    served = serve(models.tiny(tmp_path / "tiny.onnx"), "--name", "tiny")
    loud, *others = key(tmp_path, "loud", rate=20.0), key(tmp_path, "b"), key(tmp_path, "c")
    within(WITHIN, lambda: all(ask(served.url, token).status_code == 200 for token in others))
    quiet = [(token, 50.0) for token in others]
    pairs = []
    for _ in range(rounds):
        _, *alone = _load(served.port, [(loud, 20.0), *quiet], seconds)
        noisy, *beside = _load(served.port, [(loud, 400.0), *quiet], seconds)
        assert {status for answers in (*alone, *beside) for status, _ in answers} == {200}
        statuses = [status for status, _ in noisy]
        assert set(statuses) == {200, 429}
        # Its burst, and its rate for as long as it went on.
        assert statuses.count(200) <= 20 + 20 * (seconds + 5)
        pairs.append(
            tuple(
                float(np.percentile([took * 1e3 for answers in some for _, took in answers], 99))
                for some in (alone, beside)
            )
        )
    return pairs


def test_one_tenant_at_20_times_its_limit_costs_the_others_no_answer(serve, tmp_path):
    _fair(serve, tmp_path, 1.5, 1)


@pytest.mark.nightly
def test_one_tenant_at_20_times_its_limit_hardly_slows_the_others(serve, tmp_path):
    pairs = _fair(serve, tmp_path, 6.0, 9)
    ratio = float(np.median([beside / alone for alone, beside in pairs]))
    print(f"p99 of the others in ms, one tenant at its limit and at 20 times that: {pairs}; ratio {ratio:.2f}")
    assert ratio <= 1.2
