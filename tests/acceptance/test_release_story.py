"""The recorded run: a bad version is taken back by its guard, a good one climbs to everybody, and nobody notices.

Real images, real networks, the real project: users send pictures of nuclei, look at the mask and say how good it was
(the overlap with the truth, which they know). Version 2 was trained on the wrong kind of microscopy; it goes out
at 5 %. Version 3 was trained on both kinds and climbs. The run illustrates: its images are few and some are crops of
one slide, so what the guards can detect is claimed from simulation only (tests/unit/fleet).
"""

import http.client
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "nuclei_dsb2018"
HOME, AWAY = "fluo_256", "stained_256x320"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.data,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_dir(), reason="the images do not lie beside the repository"),
]

PROJECT = """
[project]
name = "nuclei"

[control]
port = 0

[serve]
port = 0

[models.nuclei]
task = "segmentation"
train = "story:train"
metric = "val_iou"
params = { epochs = 5, rate = 5e-3 }
data = { source = "story:rows", label = "mask", features = ["image"], split = "split", key = ["id"] }
run = { threads = 1 }  # beside other tests two threads wait for each other more than they work

[models.nuclei.release]
ladder = [20, 50, 100]
units = [100, 250]
seconds = [3]
guard = [{ metric = "errors", tolerance = 0.05 }, { metric = "quality", tolerance = 0.1, tau = 0.1 }]
maturity = 0.2
"""

FUNCTIONS = """
import os

import model


def rows():
    for row in model.rows(*os.environ["DOMAINS"].split(",")):
        del row["domain"]
        yield row


train = model.train
"""


def rung(*args, cwd, timeout=120, **environment):
    command = [sys.executable, "-m", "rung", *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class Users:
    """People who send pictures, each once, and say how good the mask was."""

    def __init__(self, url, samples, threads=4):
        self.parts = urlsplit(url)
        self.samples = samples
        self.numbers = itertools.count()
        self.stop = threading.Event()
        self.failed = []
        self.seen = []
        """(unit, version, overlap with the truth)."""
        self.pool = ThreadPoolExecutor(threads)
        self.work = [self.pool.submit(self._live) for _ in range(threads)]

    def _live(self):
        connection = http.client.HTTPConnection(self.parts.hostname, self.parts.port, timeout=30)
        while not self.stop.is_set():
            number = next(self.numbers)
            sample = self.samples[number % len(self.samples)]
            try:
                self._ask(connection, f"user-{number}", sample)
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
                connection.close()
        connection.close()

    def _ask(self, connection, unit, sample):
        headers = {"content-type": "image/png", "accept": "image/png", "rung-unit": unit}
        connection.request("POST", "/predict/nuclei", sample.image, headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            self.failed.append((reply.status, body[:200]))
            return
        with Image.open(io.BytesIO(body)) as mask:
            seen = np.asarray(mask) > 0
        truth = sample.mask > 0
        overlap = float((seen & truth).sum() / max((seen | truth).sum(), 1))
        self.seen.append((unit, int(reply.headers["rung-version"]), overlap))
        event = {"id": reply.headers["rung-prediction-id"], "score": overlap, "source": "user"}
        connection.request("POST", "/feedback", json.dumps(event), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            self.failed.append(("feedback", answer.status))

    def end(self):
        self.stop.set()
        for one in self.work:
            one.result(60)
        self.pool.shutdown()


def until(holds, seconds, what):
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, what()
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with three versions, the first released, and `rung up`."""
    folder = tmp_path_factory.mktemp("story")
    (folder / "rung.toml").write_text(PROJECT)
    (folder / "story.py").write_text(FUNCTIONS)
    for name in ("model.py", "dataset.py", "checksums.csv"):
        shutil.copyfile(ROOT / "examples" / "nuclei" / name, folder / name)
    for domains, epochs in [(HOME, 5), (AWAY, 8), (f"{HOME},{AWAY}", 6)]:
        wanted = ["--set", f"epochs={epochs}"]
        rung("train", "nuclei", *wanted, cwd=folder, timeout=600, DOMAINS=domains, RUNG_DATA=str(DATA))
    rung("release", "nuclei", 1, "--because", "the first", cwd=folder)
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "rung", "up"], cwd=folder, stdout=log, stderr=log)
    try:
        state = folder / ".rung" / "up.json"
        until(lambda: state.exists() and "nuclei" in rung("ps", cwd=folder), 120, (folder / "up.log").read_text)
        yield folder, json.loads(state.read_text())["url"]
    finally:
        process.terminate()
        process.wait(60)
        print((folder / "up.log").read_text()[-6000:])


def test_a_bad_version_is_taken_back_and_a_good_one_climbs(project):
    sys.path.insert(0, str(ROOT / "examples" / "nuclei"))
    import dataset

    folder, url = project
    found = dataset.find(DATA)
    samples = [one for domain in (HOME, AWAY) for one in found.select(domain, "test")]
    users = Users(url, samples)

    def ledger():
        return json.loads(rung("history", "nuclei", "--json", cwd=folder))

    def latest(kind):
        return lambda: next((one for one in ledger() if one["move"]["kind"] == kind), None)

    def state():
        counts = Counter(version for _, version, _ in users.seen)
        return rung("experiment", "nuclei", cwd=folder) + f"\n{counts}\n" + (folder / "up.log").read_text()[-3000:]

    try:
        rung("release", "nuclei", 2, "--to", 5, cwd=folder)
        back = until(latest("rollback"), 400, state)
        asked = list(users.seen)
        rung("release", "nuclei", 3, "--ladder", cwd=folder)
        climbed = until(latest("promote"), 400, state)
        time.sleep(2)
    finally:
        users.end()

    # Version 2 touched few, was taken back by the guard that looks at quality, and is latched.
    assert back["move"]["by"] == "controller"
    assert back["move"]["rule"] == "quality"
    assert len(back["latched"]) == 1
    touched = {unit for unit, version, _ in asked if version == 2}
    everybody = {unit for unit, _, _ in asked}
    # 5 % of a few thousand, by lot: within three standard deviations.
    allowed = 0.05 + 3 * (0.05 * 0.95 / len(everybody)) ** 0.5
    assert 100 <= len(touched) <= allowed * len(everybody), (len(touched), len(everybody))
    # Version 3 went through every stage and answers everybody.
    stages = [one["rollout"]["stage"] for one in ledger() if one["rollout"] and one["rollout"]["candidate"] == 3]
    assert sorted(set(stages)) == [0, 1]
    assert climbed["arms"][0]["version"] == 3
    assert {version for _, version, _ in users.seen[-20:]} == {3}
    # Nobody noticed.
    assert users.failed == []
    # Every move explains itself.
    for one in ledger():
        assert one["move"]["by"]
        if one["move"]["by"] == "controller":
            assert one["move"]["reason"]
            assert one["move"]["evidence"]
    scores = {v: np.mean([score for _, version, score in users.seen if version == v]) for v in (1, 2, 3)}
    print(
        f"overlap by version {scores}; {len(touched)} of {len(everybody)} units met version 2; {len(users.seen)} in all"
    )
    print(rung("history", "nuclei", cwd=folder))
    assert scores[2] < scores[1] - 0.1 < scores[3]
