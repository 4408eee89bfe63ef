"""The whole loop on this machine, with real pictures: it notices, trains anew, releases, takes back what hurts.

    python examples/nuclei/story.py [--data DIR] [--out DIR] [--quick]

A model is trained on fluorescence and served. Users come; then a new lab sends stained tissue, which the model has
never seen, and puts its masks right. Nobody touches anything: the drift is noticed, a new version is trained on the
corrected masks, compared with the old one, and released step by step. Then somebody releases a version that was
trained on the wrong slides, past the gate, and its guard takes it back. At last more users come than ever at once:
replicas are added, one is killed, and they go again.

Ends with 0 when all of that happened, fluorescence is still answered with a mean IoU of 0.75, stained tissue with 0.65,
and no request failed. The tiles that users send are cut from few slides, flipped and turned, and each counts as a unit:
the story illustrates and does not prove.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
from dataset import BESIDE_THE_REPOSITORY, DataError, Dataset, find  # noqa: E402
from replicas import Replicas  # noqa: E402
from rich.console import Console  # noqa: E402
from service import ServiceError, get, predict  # noqa: E402
from timeline import Mark, draw  # noqa: E402
from users import Tile, Users, cut  # noqa: E402

__all__ = ["main"]

NAME, HOME, AWAY = "nuclei", "fluo_256", "stained_256x320"
FILES = ("model.py", "dataset.py", "checksums.csv")
GOALS = {HOME: 0.75, AWAY: 0.65}
MOST = 3
"""Replicas, by loop.toml."""
QUICK, SLOW = 0.15, 3.0
"""Seconds between two requests of one of two users."""
FEW = 16
"""Pictures of each kind that `--quick` measures by: their IoU is told and not judged."""
CROWD = 12
"""Users more, in the spike."""
PATIENCE = 400.0
"""Seconds that anything of the story may take."""
QUICKER = {
    "epochs = 10": "epochs = 2",
    "units = [50]": "units = [25]",
    "seconds = [3]": "seconds = [1]",
    "tolerance = 0.1 }": "tolerance = 0.2 }",
    "window = 60": "window = 40",
    "watch = 5": "watch = 3",
    "least = 210": "least = 80",
    "requests:130": "requests:60",
    "down_seconds = 6": "down_seconds = 3",
}
"""What `--quick` changes in loop.toml: smaller windows, shorter waits, less training. No step is left out."""


class Story:
    """What the acts share."""

    def __init__(self, options: argparse.Namespace, console: Console) -> None:
        self.console = console
        self.quick: bool = options.quick
        self.pause = QUICK / 3 if options.quick else QUICK
        self.out: Path = options.out
        self.project = options.out / "project"
        self.begun = time.time()
        self.marks: list[Mark] = []
        self.problems: list[str] = []
        self.scores: dict[int, dict[str, float]] = {}
        """Version -> kind of picture -> mean IoU on its test pictures."""
        self.data: Dataset
        self.environment: dict[str, str]
        self.wrong: subprocess.Popen[str] | None = None
        """The training on the wrong slides, from its start on."""
        self.control = ""
        """URL of the control API, while the project is up."""

    def say(self, text: str, mark: str = "") -> None:
        """Print a line with the time; `mark` is its name in the picture."""
        self.console.print(f"[dim]{time.time() - self.begun:5.0f} s[/]  {text}", soft_wrap=True)
        if mark:
            self.marks.append(Mark(time.time(), mark))

    def rung(self, *arguments: object, shown: bool = False, **environment: str) -> str:
        """Run a command of rung in the project."""
        command = self.begin(*arguments, shown=shown, **environment)
        try:
            return _said(command)
        finally:
            command.terminate()

    def begin(self, *arguments: object, shown: bool = False, **environment: str) -> "subprocess.Popen[str]":
        """Start a command of rung in the project."""
        words = [str(argument) for argument in arguments]
        if shown:
            self.say(f"$ rung {' '.join(words)}")
        return subprocess.Popen(
            [sys.executable, "-m", "rung", *words],
            cwd=self.project,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def retrainings(self) -> list[Any]:
        """What `rung retrains` shows, without a process for each look: whoever trains needs the cores."""
        return list(get(self.control, f"/models/{NAME}/retrainings"))

    def last_move(self) -> Any:
        """The last line of the ledger that `rung history` shows."""
        return get(self.control, f"/models/{NAME}/releases")[-1]

    def until(self, holds: Callable[[], Any], what: str) -> Any:
        """Wait for something to be so."""
        end = time.monotonic() + PATIENCE
        while not (found := holds()):
            if time.monotonic() > end:
                raise ServiceError(f"{what} did not happen within {PATIENCE:.0f} seconds")
            time.sleep(1)
        return found


def _said(command: "subprocess.Popen[str]") -> str:
    """Wait for the end of a command of rung; what it said."""
    said, complaint = command.communicate()
    if command.returncode:
        words = " ".join(map(str, command.args[2:]))  # type: ignore[index]
        raise ServiceError(f"{words} failed: {complaint.strip() or said.strip()[-2000:]}")
    return said


def prepare(story: Story, options: argparse.Namespace) -> None:
    """The pictures, and a project of its own."""
    story.data = find(options.data)
    if not all(story.data.select(domain, split) for domain in (HOME, AWAY) for split in ("train", "val", "test")):
        raise DataError(f"there are not both kinds of pictures in {story.data.where}")
    story.environment = dict(os.environ)
    if story.quick:
        story.environment["NUCLEI_MOST"] = "64"
    if story.data.kind == "folder":
        folder = options.data or os.environ.get("RUNG_DATA") or BESIDE_THE_REPOSITORY
        story.environment["RUNG_DATA"] = str(Path(folder).expanduser().resolve())
    shutil.rmtree(story.project, ignore_errors=True)
    story.project.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(HERE / name, story.project / name)
    settings = (HERE / "loop.toml").read_text()
    for whole, short in QUICKER.items() if story.quick else ():
        assert whole in settings, whole
        settings = settings.replace(whole, short)
    (story.project / "rung.toml").write_text(settings)
    story.say(f"the pictures: {story.data.where}; the project: {os.path.relpath(story.project)}")


def train_first(story: Story) -> tuple[list[Tile], list[Tile]]:
    """Act 1: one version, trained on fluorescence. Meanwhile the tiles are cut: of fluorescence, and of what comes."""
    training = story.begin("train", NAME, shown=True)
    try:
        home = cut(story.data.select(HOME, "val"), 72, seed=0)
        away = cut(story.data.select(AWAY, "train") + story.data.select(AWAY, "val"), 300, seed=2)
        _said(training)
    finally:
        training.terminate()
    story.rung("release", NAME, 1, "--because", "the first", shown=True)
    return home, [home[number // 4 % len(home)] if number % 4 == 0 else tile for number, tile in enumerate(away)]


@contextmanager
def running(story: Story) -> Iterator[str]:
    """`rung up`, until the block ends; its URL."""
    story.say("$ rung up")
    state = story.project / ".rung" / "up.json"
    with (story.out / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "rung", "up"], cwd=story.project, env=story.environment, stdout=log, stderr=log
        )
    try:
        story.until(lambda: process.poll() is not None or _up(story, state), "rung up")
        if process.poll() is not None:
            raise ServiceError(f"rung up ended; {story.out / 'up.log'} says why")
        there = json.loads(state.read_text())
        story.control = str(there["control"])
        yield str(there["url"])
    finally:
        process.terminate()
        process.wait(60)


def _up(story: Story, state: Path) -> bool:
    return state.exists() and "is up" in (story.out / "up.log").read_text(errors="replace")


def measure(story: Story, url: str, version: int) -> None:
    """What the version that answers everybody is worth, on pictures that nobody learned from."""
    from model import iou
    from PIL import Image

    found = {}
    for domain in (HOME, AWAY):
        samples = story.data.select(domain, "test")[: FEW if story.quick else None]
        masks = predict(url, NAME, [sample.image for sample in samples])
        scores = []
        for png, sample in zip(masks, samples, strict=True):
            with Image.open(_bytes(png), formats=["PNG"]) as mask:
                scores.append(iou(np.asarray(mask), sample.mask))
        found[domain] = float(np.mean(scores))
    story.scores[version] = found
    told = ", ".join(f"{domain} {score:.3f}" for domain, score in found.items())
    story.say(f"version {version} on the test pictures, mean IoU: [bold]{told}[/]")


def _bytes(content: bytes) -> Any:
    import io

    return io.BytesIO(content)


def world_moves(story: Story, users: Users, tiles: Sequence[Tile]) -> None:
    """Act 2: the new lab's slides arrive."""
    story.say("a new lab sends stained tissue, three tiles of four, and corrects its masks", "stained slides arrive")
    users.send(tiles)


def it_turns(story: Story, users: Users) -> None:
    """Act 3: nobody does anything. What happens is told as it is found in the records."""
    told: set[str] = set()

    def promoted() -> bool:
        there = story.retrainings()
        if there:
            one = there[-1]
            if "request" not in told:
                told.add("request")
                story.say(f"retraining {one['number']} is asked for: {one['request']['why']}", "drift is confirmed")
                # Training has the machine to share with whoever asks.
                users.pause = SLOW
            for step, decision in one["decisions"].items():
                if step not in told:
                    told.add(step)
                    story.say(f"{step}: [bold]{decision['outcome']}[/], {decision['why']}", _MARKS.get(step, ""))
                    users.pause = SLOW if step in ("extract", "validate") else story.pause
                    if decision["outcome"] != "pass":
                        raise ServiceError(f"the retraining ended at {step}: {decision['why']}")
                    if step == "gate":
                        train_wrong(story)
        release = story.last_move()
        stage = f"epoch {release['epoch']}"
        if release["move"]["kind"] in ("advance", "promote") and stage not in told:
            told.add(stage)
            share = "all" if release["move"]["kind"] == "promote" else f"{release['rollout']['ladder']}"
            story.say(f"the controller: {release['move']['kind']}, {share}; {release['move']['reason']}")
        return bool(release["move"]["kind"] == "promote")

    story.until(promoted, "a new version that everybody gets")
    story.say("version 2 answers everybody", "version 2 answers all")


_MARKS = {"train": "version 2 is trained", "gate": "it passes the gate", "release": "it gets half"}


def train_wrong(story: Story) -> None:
    """Meanwhile somebody trains a version by hand, on the stained slides alone."""
    story.wrong = story.begin(
        "train", NAME, "--set", f"epochs={1 if story.quick else 4}", shown=True, NUCLEI_DOMAINS=AWAY
    )


def somebody_errs(story: Story, users: Users) -> None:
    """Act 4: the wrong slides, past the gate."""
    assert story.wrong is not None
    users.pause = SLOW
    _said(story.wrong)
    story.rung("release", NAME, 3, "--stages", "50,100", "--because", "looks fine to me", shown=True)
    users.pause = story.pause
    story.marks.append(Mark(time.time(), "version 3 by hand"))

    def taken_back() -> Any:
        last = story.last_move()["move"]
        return last if last["kind"] == "rollback" else None

    move = story.until(taken_back, "that version 3 is taken back")
    story.say(f"taken back by its guard: {move['reason']}", "taken back")


def spike(story: Story, users: Users, replicas: Replicas) -> None:
    """Act 5: more users than ever at once, and a replica that dies."""
    story.say(f"{CROWD} users more at once", "a spike")
    with users.crowd(CROWD):
        story.until(lambda: replicas.answering() == MOST, f"that {MOST} replicas answer")
        story.say(f"{MOST} replicas answer: {get(story.control, '/status')['why']}")
        # On a machine with two cores they do not answer more a second than one: they make up for the one that dies.
        story.say(f"{replicas.kill()} is killed", "one is killed")
        seen, since = len(users.seen), len(replicas.counted)
        story.until(lambda: len(users.seen) > seen + 100 or users.failed, "100 more answers")
        story.until(lambda: MOST in [count for _, count in replicas.counted[since + 2 :]], "that it is started again")
    story.say("the spike is over", "the spike is over")
    story.until(lambda: replicas.answering() == 1, "that one replica is left")
    story.say("one replica is left", "one is left")


def judge(story: Story, users: Users, replicas: Replicas) -> None:
    """Whether it was the story that was promised."""
    if users.failed:
        story.problems.append(f"{len(users.failed)} requests failed, the first: {users.failed[0]}")
    for domain, goal in GOALS.items():
        if not story.quick and story.scores[2][domain] < goal:
            story.problems.append(f"the mean IoU on {domain} is {story.scores[2][domain]:.3f}, {goal} was promised")
    kinds = {HOME: "fluorescence", AWAY: "stained tissue"}
    picture = draw(users.seen, story.marks, kinds, replicas.counted, story.out / "timeline.png")
    results = {
        "iou": story.scores,
        "requests": len(users.seen),
        "failed": len(users.failed),
        "put off": users.put_off,
        "replicas": max(count for _, count in replicas.counted),
        "seconds": round(time.time() - story.begun, 1),
        "marks": [(round(mark.at - story.begun, 1), mark.name) for mark in story.marks],
        "problems": story.problems,
    }
    (story.out / "story.json").write_text(json.dumps(results, indent=2) + "\n")
    story.console.print(story.rung("history", NAME), soft_wrap=True, markup=False)
    put_off = f", {users.put_off} came again when told to" if users.put_off else ""
    story.say(f"{len(users.seen)} requests, {len(users.failed)} failed{put_off}; {results['seconds']} seconds in all")
    story.say(f"picture {os.path.relpath(picture)}, figures {os.path.relpath(story.out / 'story.json')}")


def play(story: Story, options: argparse.Namespace) -> None:
    """All acts."""
    prepare(story, options)
    home, mixed = train_first(story)
    with running(story) as url:
        replicas = Replicas(lambda: get(story.control, "/status"))
        measure(story, url, 1)
        users = Users(url, home, masks=AWAY, pause=story.pause)
        try:
            story.say("users send fluorescence", "users come")
            story.until(lambda: len(users.seen) > 40 or users.failed, "40 answers")
            world_moves(story, users, mixed)
            it_turns(story, users)
            measure(story, url, 2)
            somebody_errs(story, users)
            spike(story, users, replicas)
        finally:
            users.end()
            replicas.end()
            if story.wrong is not None:
                story.wrong.terminate()
        judge(story, users, replicas)


def main() -> int:
    """Tell the story and return its exit code."""
    parser = argparse.ArgumentParser(description="The whole loop on this machine, with real pictures.")
    parser.add_argument("--data", type=Path, help="folder with manifest.csv, images/ and masks/")
    parser.add_argument(
        "--out", type=Path, default=HERE / "out" / "story", help="folder for the project and the results"
    )
    parser.add_argument("--quick", action="store_true", help="smaller windows, less training; the IoU is not judged")
    console = Console(width=max(100, shutil.get_terminal_size((100, 24)).columns), highlight=False)
    options = parser.parse_args()
    story = Story(options, console)
    # Whoever ends the story ends the project that it started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        play(story, options)
    except KeyboardInterrupt:
        console.print("\nStopped.")
        return 130
    except (DataError, ServiceError) as error:
        story.problems.append(str(error))
    for problem in story.problems:
        console.print(f"Not as it should be: {problem}", style="bold red", markup=False, soft_wrap=True)
    return 1 if story.problems else 0


if __name__ == "__main__":
    sys.exit(main())
