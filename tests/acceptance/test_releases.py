"""Releases as an operator moves them and as callers see them: the real command, a real server."""

import http.client
import json
import threading
import time
from datetime import datetime

import numpy as np
import pytest

from rung.catalog import models as catalog
from rung.catalog import releases
from rung.cli import main
from rung.store.blobs import DiskStore
from rung.testing import models

ONES = json.dumps([[1, 1, 1, 1]]).encode()
QUICK = {"RUNG_POLL_SECONDS": "0.2"}


@pytest.fixture
def repository(tmp_path):
    """Three versions of `m`: each multiplies by its number + 1."""
    store = DiskStore(tmp_path / ".rung" / "repository")
    for factor in (2.0, 3.0, 4.0):
        catalog.register(store, models.scale(tmp_path / "m.onnx", factor), name="m")
    return store


@pytest.fixture
def move(rung):
    """`move("release", "m", 2)`: the command in a process of its own, which has to work; what it printed."""

    def run(*args):
        done = rung(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys):
    """`type_in("release", "m", 2) -> (exit code, output, errors)`: the same command here, which is quicker."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        monkeypatch.setattr("sys.argv", ["rung", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


class Client:
    """One keep-alive connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, unit="", path="/predict/m", body=ONES, **headers):
        """(status, version, factor or error)."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if unit:
            named["rung-unit"] = unit
        self.connection.request("POST", path, body, {"content-type": "application/json", **named})
        reply = self.connection.getresponse()
        answer = json.loads(reply.read())
        if reply.status != 200:
            return reply.status, 0, answer["error"]
        if "outputs" in answer:
            return 200, int(answer["model_version"]), answer["outputs"][0]["data"][0]
        return 200, int(reply.headers["rung-version"]), answer["predictions"][0][0]

    def version(self, unit="", **how):
        status, version, factor = self.ask(unit, **how)
        assert (status, factor) == (200, version + 1.0)
        return version

    def close(self):
        self.connection.close()


@pytest.fixture
def client():
    made = []

    def connect(served):
        made.append(Client(served.port))
        return made[-1]

    yield connect
    for one in made:
        one.close()


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not (held := holds()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)
    return held


UNITS = [f"user-{number}" for number in range(200)]


def placed(client, **how):
    return {unit: client.version(unit, **how) for unit in UNITS}


def test_from_a_canary_to_everybody_and_back(serve, move, client, repository):
    assert "m epoch 1" in move("release", "m", 1, "--because", "the first")
    served = serve(repository.root)
    caller = client(served)
    assert set(placed(caller).values()) == {1}

    # A canary.
    printed = move("release", "m", 2, "--to", 20)
    written = time.monotonic()
    assert "stable v1 60 %, canary v2 20 %, baseline v1 20 %" in printed
    until(lambda: 2 in placed(caller).values())
    print(f"the canary answered {time.monotonic() - written:.2f} s after `rung release` ended")
    assert time.monotonic() - written < 5.0
    before = placed(caller)
    assert 15 <= sum(version == 2 for version in before.values()) <= 70
    # Every door goes by the same arms.
    tensors = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
    assert placed(caller, path="/v2/models/m/infer", body=json.dumps(tensors).encode()) == before

    # The same after a restart, and in another replica beside it.
    assert served.end() == 0
    again, beside = client(serve(repository.root)), client(serve(repository.root))
    assert placed(again) == before == placed(beside)

    # A tester picks.
    stable = next(unit for unit, version in before.items() if version == 1)
    assert again.version(stable, rung_arm="canary") == 2
    status, _, error = again.ask(stable, rung_arm="v9")
    assert status == 400
    assert "rung-arm is 'v9'; there are ['baseline', 'canary', 'stable']" in error

    # And back, in how long? Beyond half a second, the start of a process is this machine's other work.
    began = time.monotonic()
    move("releases")
    slow = max(0.0, time.monotonic() - began - 0.5)
    canary = next(unit for unit, version in before.items() if version == 2)
    taken = []
    while len(taken) < 3 and (not taken or min(taken) >= 2.0 + slow):
        if taken:
            releases.release(repository, "m", 2, percent=20.0, force=True)
            canary = until(lambda: next((unit for unit, version in placed(again).items() if version == 2), None))
        taken.append(roll_back(move, again, canary))
    print(f"`rung releases`, which moves nothing, took {slow + 0.5:.2f} s")
    assert min(taken) < 2.0 + slow
    # Taken back, it comes again by force alone.
    with pytest.raises(AssertionError, match="taken back before"):
        move("release", "m", 2)


def roll_back(move, caller, unit):
    """Seconds from typing `rung rollback` to the last answer that the candidate gives to this unit."""
    answers = []
    stop = threading.Event()

    def watch():
        while not stop.is_set():
            version = caller.version(unit)
            answers.append((time.monotonic(), version))

    watcher = threading.Thread(target=watch)
    watcher.start()
    until(lambda: answers)
    began = time.monotonic()
    assert "rollback by" in move("rollback", "m", "--because", "it hurts")
    ended = time.monotonic()
    until(lambda: answers[-1][1] == 1)
    stop.set()
    watcher.join()
    last = max(at for at, version in answers if version == 2)
    assert {version for at, version in answers if at > last} == {1}
    print(
        f"no canary answer {last - began:.2f} s after `rung rollback` was typed; its process took {ended - began:.2f} s"
    )
    return last - began


def test_split_and_segments(serve, move, client, repository):
    assert "v1 v1 70 %, v2 v2 30 %" in move(
        "release", "m", "--split", "1=70,2=30", "--unit", "json:user", "--segment", "header:plan=beta,team:2"
    )
    caller = client(serve(repository.root, env=QUICK))
    body = {unit: json.dumps({"user": unit, "inputs": [[1, 1, 1, 1]]}).encode() for unit in UNITS}

    def now():
        return {unit: caller.version(body=body[unit]) for unit in UNITS}

    first = now()
    assert 30 <= sum(version == 2 for version in first.values()) <= 95
    assert {caller.version(body=body[unit], plan=plan) for unit in UNITS[:20] for plan in ("beta", "team")} == {2}
    assert {unit: caller.version(body=body[unit], plan="free") for unit in UNITS} == first
    move("release", "m", "--split", "1=40,2=60")
    until(lambda: now() != first)
    second = now()
    assert all(second[unit] == 2 for unit, version in first.items() if version == 2), "only the needed share moves"
    assert sum(second[unit] != version for unit, version in first.items()) < 100
    assert caller.version(body=body[UNITS[0]], plan="beta") == 2, "the audience stays"


def test_the_ledger_says_what_answered_when(type_in, repository):
    def move(*args):
        code, out, err = type_in(*args)
        assert code == 0, err
        return out

    assert "m has no release yet: its latest version answers" in move("history", "m")
    assert "no releases in" in move("releases")
    move("release", "m", 1)
    move("release", "m", 2, "--ladder", "--because", "trained on May")
    move("promote", "m")
    move("rollback", "m", "--because", "complaints")
    lines = move("history", "m").splitlines()
    assert [line.split()[2] for line in lines if line.startswith("m epoch")] == ["1", "2", "3", "4"]
    for part in ("shadow by", "trained on May", "stays loaded: v1", "rollback by", "complaints"):
        assert any(part in line for line in lines), part
    assert move("releases").splitlines()[1].split()[:5] == ["m", "4", "stable", "1", "100"]

    chain = json.loads(move("history", "m", "--json"))
    assert [one["move"]["kind"] for one in chain] == ["release", "shadow", "promote", "rollback"]
    for one in chain:
        at = datetime.fromisoformat(one["at"])
        assert f"epoch {one['epoch']} was in force" in move("history", "m", "--at", at.isoformat())
        assert (
            json.loads(move("history", "m", "--json", "--at", at.astimezone().replace(tzinfo=None).isoformat())) == one
        )
    assert "had no release at" in move("history", "m", "--at", "2020-01-01")
    assert "epoch 4 was in force" in move("history", "m", "--at", "2200-01-01T14:03")

    releases_folder = repository.root / "releases" / "m"
    first = releases_folder / "000000000001.json"
    first.write_bytes(first.read_bytes().replace(b'"kind":"release"', b'"kind":"promote"'))
    code, _, err = type_in("history", "m")
    assert code != 0
    assert "the ledger of m is broken at epoch 2" in err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (["release", "m", "9"], "there is no version 9 of m"),
        (["release", "typo", "1"], "there is no model typo; there are m"),
        (["release", "m", "1", "--to", "150"], "must rise and be percentages from 0 to 100"),
        (["release", "m", "2", "--to", "nan"], "must rise and be percentages from 0 to 100"),
        (["release", "m", "2", "--to", "5", "--shadow"], "--to and --shadow do not go together"),
        (["release", "m"], "name one version, or give the shares of several with --split 1=95,2=5"),
        (["release", "m", "--split", "1=50,2=40"], "percentages that sum to 100"),
        (["release", "m", "--split", "1=nan,2=5"], "percentages that sum to 100"),
        (["release", "m", "--split", "1:50"], "is not VERSION=PERCENT"),
        (["release", "m", "--split", "1=50,1=50"], "names a version twice"),
        (["release", "m", "--split", "1=50,2=50", "--segment", "plan=beta"], "is not ATTRIBUTE=VALUE,VALUE:VERSION"),
        (["release", "m", "--split", "1=50,2=50", "--segment", "plan=beta:2"], "is none of header:NAME"),
        (["release", "m", "1", "--unit", "user"], "is none of header:NAME, cookie:NAME, json:NAME, address"),
        (["release", "m", "1", "--stages", "5,high"], "are not percentages"),
        (["promote", "m"], "no candidate of m is under way: say which version to promote"),
        (["rollback", "m"], "m has no release: there is nothing to go back to"),
        (["history", "typo"], "there is no model typo"),
        (["history", "m", "--at", "noon"], "is no time: write 14:03"),
        (["history", "m", "--at", "0001-01-01"], "is no time: write 14:03"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_said_in_a_sentence(typed, says, repository, type_in):
    code, _, err = type_in(*typed)
    assert code == 2
    said = " ".join(err.split())
    assert says in said
    assert "Traceback" not in said
    assert releases.current(repository, "m") is None


def test_a_version_that_answers_is_not_deleted(type_in, repository):
    assert type_in("release", "m", 3)[0] == 0
    code, _, err = type_in("models", "delete", "m", 3)
    assert code == 2
    assert "version 3 of m answers as stable in its release (epoch 1)" in err
    assert type_in("models", "delete", "m", 1)[0] == 0


# --- what a shadow costs ------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [2, pytest.param(12, marks=[pytest.mark.nightly, pytest.mark.timeout(300)])])
def test_a_shadow_fails_nobody_and_what_it_adds(serve, client, tmp_path, rounds):
    """Paired rounds, off and on in turn, at a rate that leaves the live version idle half of the time."""
    store = DiskStore(tmp_path / "repository")
    for channels in (8, 9):
        model = models.segmentation(tmp_path / "m.onnx", 64, channels)
        catalog.register(store, model, name="m")
    releases.release(store, "m", 1)
    served = serve(store.root, env={"RUNG_POLL_SECONDS": "0.05"})
    callers = [client(served) for _ in range(2)]
    tensor = np.random.default_rng(1).random((1, 3, 64, 64), np.float32).tobytes()
    raw = {"content-type": "application/octet-stream", "accept": "application/octet-stream", "rung-unit": "ana"}

    def ask(caller):
        caller.connection.request("POST", "/predict/m", tensor, raw)
        reply = caller.connection.getresponse()
        reply.read()
        assert (reply.status, reply.headers["rung-version"]) == (200, "1")

    def metric(name):
        caller = callers[0]
        caller.connection.request("GET", "/metrics")
        lines = caller.connection.getresponse().read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def measure(seconds=1.0):
        took, errors, lock = [], [], threading.Lock()
        end = time.monotonic() + seconds

        def run(caller, due):
            while due < end:
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    ask(caller)
                except Exception as error:  # noqa: BLE001 - counted
                    errors.append(repr(error))
                with lock:
                    took.append(time.monotonic() - due)
                due += 0.02

        threads = [
            threading.Thread(target=run, args=(one, end - seconds + 0.01 * at)) for at, one in enumerate(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        return took

    epoch, times, copies = 1, {False: [], True: []}, 0.0
    measure(0.3)
    for _ in range(rounds):
        for on in (False, True):
            if on:
                epoch = releases.shadow(store, "m", 2).epoch
                until(lambda now=epoch: metric("rung_release_epoch") == now)
            times[on].append(measure())
            if on:
                copies += metric("rung_shadow_copies_total")
                epoch = releases.rollback(store, "m", latch=False).epoch
                until(lambda now=epoch: metric("rung_release_epoch") == now)
    assert copies > 0
    for percent in (50, 99):
        off, on = (float(np.percentile(np.concatenate(times[one]), percent)) * 1e3 for one in (False, True))
        pairs = [
            float(np.percentile(b, percent) / np.percentile(a, percent) - 1)
            for a, b in zip(times[False], times[True], strict=True)
        ]
        print(f"live p{percent}: {off:.2f} ms without, {on:.2f} ms with a shadow; median pair {np.median(pairs):+.1%}")
    print(f"{sum(map(len, times[True]))} requests with a shadow, {copies:.0f} copied or shed, 0 failed")
