"""What people feel of work that can wait: the latencies of an open load, with a backlog that never ends and without.

    python bench/beside.py [--model segmentation|small|tiny] [--rate 20] [--seconds 10] [--rounds 5]

Requests come by a Poisson process at a fixed rate, whatever becomes of those before, and a latency counts from when a
request was due. Rounds with and without a backlog take turns, so that what else the machine does falls on both.
"""

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2
import numpy as np

from rung.catalog import models as catalog
from rung.domain.errors import NotReady
from rung.offline.door import Ask, Broken, Door
from rung.store.blobs import DiskStore
from rung.testing import models

CHUNK = 100
RAW = "application/octet-stream"
MODELS = {
    "segmentation": models.segmentation,
    "small": lambda path: models.segmentation(path, size=64, channels=12),
    "tiny": models.tiny,
}
"""Some 30 ms of a core, 3 ms, and less than a thread hop."""


class Project:
    """A project with one model, up."""

    def __init__(self, folder: Path, model: str) -> None:
        (folder / "rung.toml").write_text(f'[project]\nname = "beside"\n\n[models.{model}]\n')
        artifact = MODELS[model](folder / f"{model}.onnx")
        manifest = catalog.register(DiskStore(folder / ".rung/repository"), artifact, name=model)
        spec = manifest.signature.inputs[0]
        shape = tuple(1 if size == -1 else size for size in spec.shape)
        self.model, self.body = model, np.zeros(shape, np.float32).tobytes()
        command = [sys.executable, "-m", "rung", "up", "--port", "0", "--control-port", "0", "--json"]
        self._log = (folder / "up.log").open("wb")
        self._process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=self._log)
        said = json.loads(self._process.stdout.readline())
        self.url, self.jobs = said["url"], f"{said['control']}/models/{model}/jobs"
        self._requests: list[str] = []

    def backlog(self, items: int) -> None:
        one = {"base64": base64.b64encode(self.body).decode(), "type": RAW}
        for _ in range(items // CHUNK):
            body = {"items": [one] * CHUNK, "accept": RAW}
            self._requests.append(httpx2.post(self.jobs, json=body, timeout=120).json()["id"])

    def done(self) -> int:
        found = [httpx2.get(f"{self.jobs}/{one}", timeout=60).json() for one in self._requests]
        return sum(one["counts"].get("done", 0) for one in found)

    def clear(self) -> None:
        for one in self._requests:
            httpx2.post(f"{self.jobs}/{one}/cancel", json={}, timeout=60)
        self._requests.clear()

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._log.close()


async def load(project: Project, rate: float, seconds: float, seed: int) -> np.ndarray:
    """Latencies of one round, in milliseconds; of a request that was refused infinity."""
    rng, door, found = random.Random(seed), Door(lambda: [project.url]), []
    ask = Ask(f"/predict/{project.model}", (("content-type", RAW), ("accept", RAW)), project.body)

    async def one(due: float) -> None:
        try:
            reply = await door.ask(ask, 30.0)
            took = (time.perf_counter() - due) * 1e3 if reply.status == 200 else np.inf
        except (NotReady, Broken):
            took = np.inf
        found.append(took)

    begin = due = time.perf_counter()
    tasks = []
    while due - begin < seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        tasks.append(asyncio.create_task(one(due)))
    await asyncio.gather(*tasks)
    door.close()
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="segmentation", choices=MODELS)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of people")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=500, help="backlog at the begin of a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), options.model)
        try:
            asyncio.run(load(project, options.rate, 2.0, 0))
            began = time.perf_counter()
            project.backlog(options.items)
            while (done := project.done()) < options.items // CHUNK * CHUNK and time.perf_counter() - began < 60.0:
                time.sleep(0.1)
            alone = done / (time.perf_counter() - began)
            project.clear()
            time.sleep(1.0)
            latencies: dict[bool, list[np.ndarray]] = {False: [], True: []}
            answered = 0.0
            for number in range(options.rounds):
                for beside in (False, True):
                    if beside:
                        project.backlog(options.items)
                    before = project.done()
                    latencies[beside].append(asyncio.run(load(project, options.rate, options.seconds, number)))
                    if beside:
                        answered += project.done() - before
                    project.clear()
                    time.sleep(0.5)
        finally:
            project.end()
    print(
        f"{options.model}, {options.rate:g} requests/s, {os.cpu_count()} cores, {options.rounds}x {options.seconds:g} s"
    )
    for beside, name in ((False, "alone"), (True, "beside a backlog")):
        every = np.concatenate(latencies[beside])
        p50, p90, p99 = np.percentile(every, (50, 90, 99))
        rounds = ", ".join(f"{np.percentile(one, 99):.1f}" for one in latencies[beside])
        print(f"{name:<18}{len(every):>7} p50 {p50:7.2f}  p90 {p90:7.2f}  p99 {p99:7.2f} ms   p99 of rounds: {rounds}")
    ratio = np.percentile(np.concatenate(latencies[True]), 99) / np.percentile(np.concatenate(latencies[False]), 99)
    spent = options.rounds * options.seconds
    print(f"p99 with / without: {ratio:.3f}; items/s beside: {answered / spent:.1f}, with nobody else: {alone:.1f}")


if __name__ == "__main__":
    main()
