"""The loop on one machine: the world moves, labels come in, and by itself a better version gets to everybody.

The same on pictures, with a spike at the end, is the demo's story (test_nuclei_story.py); on rows it is short enough to
be killed anywhere.
"""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

import psutil
import pytest

pytestmark = pytest.mark.timeout(1200)

PROJECT = """
[project]
name = "line"

[control]
port = 0

[serve]
port = 0

[models.line]
task = "classification"
train = "model:train"
labels = ["no", "yes"]
data = { source = "model:rows", label = "y", features = ["a", "b"] }

[models.line.serve.log]
inputs = "body"

[models.line.release]
ladder = [50, 100]
units = [40]
seconds = [1]
guard = [{ metric = "errors", tolerance = 0.2 }, { metric = "quality", tolerance = 0.1, tau = 0.1 }]
maturity = 0.2

[models.line.drift]
window = 100

[models.line.retrain]
on = ["drift"]
watch = 1
cooldown = 600
least = 200
margin = 0.05
forget = 0.2
"""

MODEL = """
import os
from pathlib import Path

import numpy as np


def rows():
    yes, no = ("no", "yes") if os.environ.get("WRONG") else ("yes", "no")
    generator = np.random.default_rng(1)
    for a, b in generator.normal(size=(400, 2)):
        yield {"a": float(a), "b": float(0.3 * b), "y": yes if a > 0 else no}


def train(ctx):
    die = Path(__file__).with_name("die")
    if die.exists():
        die.unlink()
        os.kill(os.getpid(), 9)
    from sklearn.linear_model import LogisticRegression

    X, y = ctx.data.arrays("train")
    model = LogisticRegression().fit(X, y)
    ctx.report(accuracy=model.score(*ctx.data.arrays("validation")))
    return model
"""


class Users:
    """People whose b is larger than that of the training data, and matters; they say what would have been right."""

    def __init__(self, url):
        self.parts = urlsplit(url)
        self.failed, self.seen = [], []
        """(version, whether it was right)."""
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._live)
        self.thread.start()

    def _live(self):
        connection = http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=60)
        draw = random.Random(7)
        while not self.stop.is_set():
            a, b = draw.gauss(0, 1), draw.gauss(0, 1.5)
            truth = "yes" if a + b > 0 else "no"
            unit = f"user-{len(self.seen)}"
            headers, body = self._post(connection, "/predict/line", [{"a": a, "b": b}], {"rung-unit": unit})
            if body is None:
                continue
            self.seen.append((int(headers["rung-version"]), body["predictions"][0][0]["label"] == truth))
            self._post(connection, "/feedback", {"id": headers["rung-prediction-id"], "label": truth}, {})
            # So many a second, beside what trains on the same two cores.
            self.stop.wait(0.01)
        connection.close()

    def _post(self, connection, path, body, headers):
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.failed.append(repr(error))
            connection.close()
            return {}, None
        if reply.status != 200:
            self.failed.append((path, reply.status, content[:200]))
            return {}, None
        return reply.headers, json.loads(content)

    def end(self):
        self.stop.set()
        self.thread.join(60)


def rung(*args, cwd, **environment):
    command = [sys.executable, "-m", "rung", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=os.environ | environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(holds, seconds, what):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what()
        time.sleep(0.5)
    return found


class Up:
    """The project's `rung up`, started again by `start` at the port that it had."""

    def __init__(self, folder):
        self.folder, self.port = folder, 0
        self.start()

    def start(self):
        with (self.folder / "up.log").open("wb") as log:
            command = [sys.executable, "-m", "rung", "up", "--port", str(self.port)]
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        until(lambda: "is up" in self.log(), 60, self.log)
        self.url = json.loads((self.folder / ".rung" / "up.json").read_text())["url"]
        self.port = urlsplit(self.url).port

    def log(self):
        return (self.folder / "up.log").read_text()

    def end(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def project(tmp_path):
    """A trained project that is up."""
    folder = tmp_path / "line"
    folder.mkdir()
    (folder / "rung.toml").write_text(PROJECT)
    (folder / "model.py").write_text(MODEL)
    rung("train", cwd=folder)
    up = Up(folder)
    try:
        yield up
    finally:
        up.end()
        print(up.log()[-4000:])


class Story:
    """The project with its users, until a version that was trained anew answers everybody."""

    def __init__(self, up, patience):
        self.folder = up.folder
        self.patience = patience
        self.users = Users(up.url)

    def asked(self, *args):
        return json.loads(rung(*args, "--json", cwd=self.folder))

    def ledger(self):
        return self.asked("history", "line")

    def promoted(self):
        there = self.asked("retrains", "line")
        ended = [step for step, one in there[0]["decisions"].items() if one["outcome"] != "pass"] if there else []
        assert not ended, rung("retrains", "line", 1, cwd=self.folder)
        return [link["move"]["kind"] for link in self.ledger()][-1:] == ["promote"]

    def state(self):
        return rung("retrains", "line", cwd=self.folder) + (self.folder / "up.log").read_text()[-3000:]

    def play(self):
        """Answers that came after the promotion."""
        until(self.promoted, self.patience, self.state)
        # Replicas hear of it a moment after the ledger has it; until then half of the users get the old one.
        until(lambda: {version for version, _ in self.users.seen[-30:]} == {2}, 60, self.state)
        before = len(self.users.seen)
        until(lambda: len(self.users.seen) > before + 200, 60, self.state)
        return self.users.seen[before:]

    def check(self, after):
        """One retraining, one version, one rollout; and it helped."""
        (one,) = self.asked("retrains", "line")
        assert one["request"]["cause"] == "drift"
        assert list(one["decisions"]) == ["extract", "validate", "train", "gate", "release"]
        assert {decision["outcome"] for decision in one["decisions"].values()} == {"pass"}
        moves = [(link["move"]["by"], link["move"]["kind"]) for link in self.ledger()]
        assert moves == [("loop", "release"), ("loop", "release"), ("controller", "promote")]
        assert {one["version"] for one in self.asked("models", "list")} == {1, 2}
        old = [right for version, right in self.users.seen if version == 1]
        new = [right for version, right in after]
        assert {version for version, _ in after} == {2}
        assert sum(old) / len(old) < 0.8 < 0.9 < sum(new) / len(new)


@pytest.mark.nightly
def test_drift_is_noticed_and_a_better_version_gets_to_everybody_and_a_bad_one_back(project):
    story = Story(project, 240)
    try:
        story.check(story.play())
        # Somebody who means well releases what was learned from the wrong labels, past the gate.
        rung("train", cwd=story.folder, WRONG="1")
        rung("release", "line", 3, "--stages", "25,100", cwd=story.folder)
        until(lambda: story.ledger()[-1]["move"]["kind"] == "rollback", 120, story.state)
    finally:
        story.users.end()
    back = story.ledger()[-1]
    assert (back["move"]["by"], back["move"]["rule"]) == ("controller", "quality")
    assert back["arms"][0]["version"] == 2
    assert len(back["latched"]) == 1
    # The decision lies in the ledger, beside the move that rests on it.
    evidence = story.ledger()[1]["move"]["evidence"]
    assert evidence["retraining"] == 1
    assert any("newest requests" in verdict["why"] for verdict in evidence["gate"]["verdict"]["verdicts"])
    assert story.users.failed == []
    shown = rung("retrains", "line", 1, cwd=story.folder)
    assert "On the newest requests: The new model is not worse" in shown


class Killer:
    """Ends any process of a project with signal 9 now and then, once `begins` says so.

    Nobody but a person starts a supervisor again, which the killer does at once.
    """

    def __init__(self, up, kills, seed, begins):
        self.up, self.left, self.begins = up, kills, begins
        self.draw = random.Random(seed)
        self.killed = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._live)
        self.thread.start()

    def _live(self):
        while not self.begins() and not self.stop.wait(0.2):
            pass
        while self.left and not self.stop.wait(self.draw.uniform(1.0, 6.0)):
            try:
                # In a fixed order of age, so that a seed means about the same each time.
                supervisor = psutil.Process(self.up.process.pid)
                family = [supervisor, *supervisor.children(recursive=True)]
                victim = self.draw.choice(sorted(family, key=lambda one: one.create_time()))
                words = " ".join(victim.cmdline()[-3:])
                victim.send_signal(signal.SIGKILL)
            except (psutil.Error, IndexError):
                continue
            self.left -= 1
            self.killed.append(words)
            if victim == supervisor:
                self.up.process.wait(60)
                self.up.start()

    def end(self):
        self.stop.set()
        self.thread.join(60)


@pytest.mark.parametrize(
    ("kills", "seed", "at"),
    [
        (3, 1, "retrains/*/*/request.json"),
        *(pytest.param(4, seed, "", marks=pytest.mark.nightly) for seed in range(2, 7)),
    ],
)
def test_killed_anywhere_it_still_ends_right(project, kills, seed, at):
    # What trains lives for half a second: a random kill would hardly ever hit it.
    (project.folder / "die").touch()
    story = Story(project, 600)
    killer = Killer(project, kills, seed, lambda: not at or any((story.folder / ".rung" / "data").glob(at)))
    try:
        after = story.play()
    finally:
        killer.end()
        story.users.end()
        print(killer.killed)
    story.check(after)
    assert not (project.folder / "die").exists()
    # With one replica, and that killed, callers find nobody; no caller is told of a fault in the server.
    told = [failure for failure in story.users.failed if not isinstance(failure, str)]
    assert all(status == 503 for _, status, _ in told), told
