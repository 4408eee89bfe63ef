"""The controller over a real repository and a real log, killed at every step."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rung.catalog import ledger, releases
from rung.domain.errors import Conflict
from rung.domain.records import PredictionRecord
from rung.domain.releases import Release
from rung.fleet import controller as module
from rung.fleet.controller import RolloutController
from rung.fleet.policy import Policy, read_policy
from rung.fleet.rollout import Advance, Hold, Promote, RollBack, Wait
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter

UnitsOf = Callable[[Release, str], Iterator[str]]
Predict = Callable[..., PredictionRecord]
LADDER = (0.0, 20.0, 50.0, 100.0)
POLICY = read_policy(
    {
        "ladder": LADDER,
        "guard": [{"metric": "errors", "tolerance": 0.2}],
        "units": [10, 120, 200],
        "seconds": 0,
        "alpha": 0.05,
    }
)


class Clock:
    """Both clocks, set by hand."""

    def __init__(self) -> None:
        self.wall = time.time()
        self.ticks = 0.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    store = DiskStore(tmp_path / "repository")
    for version in (1, 2):
        store.put(f"m/{version}/model.onnx", b"made up")
    return store


class Log:
    """A replica's log: what is written is on the disk when `write` returns."""

    def __init__(self, folder: Path, replica: str = "one") -> None:
        self.folder = folder
        self._writer = SegmentWriter(folder, replica=replica)
        self._writer.open()

    def write(self, *records: Any) -> None:
        self._writer.commit(list(records)).result(timeout=20)

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "log")
    yield log
    log.close()


@pytest.fixture
def answer(log: Log, predict: Predict, units_of: UnitsOf) -> Callable[..., None]:
    """Let so many units of canary and baseline be answered under a release, and of the rest in proportion."""

    def write(release: Release, count: int, **canary: object) -> None:
        for arm in release.arms:
            if arm.role == "shadow":
                continue
            fields = canary if arm.name == "canary" else {}
            size = count if arm.name != "stable" else round(count * arm.share / release.arms[1].share)
            log.write(
                *(predict(release, arm.name, unit, **fields) for unit in islice(units_of(release, arm.name), size))
            )

    return write


def make(store: DiskStore, log: Log, clock: Clock, policy: Policy = POLICY) -> RolloutController:
    return RolloutController(store, log.folder, lambda _: policy, clock=lambda: clock.wall, steady=lambda: clock.ticks)


def moves(store: DiskStore) -> list[str]:
    return [
        f"{one.move.kind} {one.rollout.percent:g}" if one.rollout else one.move.kind
        for one in releases.history(store, "m")
    ]


def test_a_good_candidate_climbs_step_by_step(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None]
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock)
    [(_, action)] = controller.turn()
    assert isinstance(action, Wait)
    for expected in (Advance, Promote):
        answer(release, 200)
        [(model, action)] = controller.turn()
        assert (model, type(action)) == ("m", expected)
        current = releases.current(store, "m")
        assert current is not None
        release = current
    assert controller.turn() == []
    assert moves(store) == ["release 20", "advance 50", "promote"]
    assert (release.main.version, release.keep) == (2, (1,))
    promoted = release.move
    assert promoted.by == "controller"
    assert promoted.evidence["arms"]["canary"]["units"] >= 200
    assert promoted.evidence["verdicts"][-1]["outcome"] == "pass"


def test_a_broken_candidate_is_taken_back_in_the_turn_that_sees_it(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None]
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock)
    controller.turn()
    answer(release, 10, flags=1)
    answer(release, 400, flags=1)
    [(_, action)] = controller.turn()
    assert isinstance(action, RollBack)
    assert action.rule == "wire: not finite"
    current = releases.current(store, "m")
    assert current is not None
    assert (current.main.version, current.rollout, current.move.kind) == (1, None, "rollback")


def test_harm_is_taken_back_by_a_guard(store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None]) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    policy = read_policy({"guard": [{"metric": "latency", "quantile": 0.5, "ratio": 1.5}], "seconds": 0})
    answer(release, 200, total=0.05)
    [(_, action)] = make(store, log, clock, policy).turn()
    assert isinstance(action, RollBack)
    assert action.rule == "latency"


def test_a_controller_that_is_behind_takes_back_but_lets_nobody_climb(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    monkeypatch.setattr(module, "_AT_ONCE", 600)
    answer(release, 200)
    controller = make(store, log, clock)
    assert controller.turn() == [("m", Wait("the log is still being read"))]
    assert isinstance(controller.turn()[0][1], Advance)
    current = releases.current(store, "m")
    assert current is not None
    answer(current, 200)
    answer(current, 200, flags=1)
    assert isinstance(controller.turn()[0][1], RollBack)  # there are 800 records, of which it has read 600


def test_a_person_who_moves_between_plan_and_act_wins(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock)
    answer(release, 400, flags=1)

    def plan(*args: Any) -> Any:
        releases.rollback(store, "m", by="ann")
        return real(*args)

    real = module.plan
    monkeypatch.setattr(module, "plan", plan)
    [(_, action)] = controller.turn()
    assert isinstance(action, RollBack)
    assert [one.move.by for one in releases.history(store, "m")] == ["ann", "ann"]


def test_two_controllers_make_one_move(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    first, second = make(store, log, clock), make(store, log, clock)
    answer(release, 200)
    real = module.plan
    inside = iter([second])

    def plan(*args: Any) -> Any:
        for other in inside:
            other.turn()  # it has its whole turn while the first one is deciding
        return real(*args)

    monkeypatch.setattr(module, "plan", plan)
    [(_, action)] = first.turn()
    assert isinstance(action, Advance)
    assert moves(store) == ["release 20", "advance 50"]


def test_a_wall_clock_that_jumps_ends_no_stage(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None]
) -> None:
    policy = read_policy({"guard": ["errors"], "units": 100, "seconds": 300, "longest": 4_000, "ladder": LADDER[1:]})
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock, policy)
    controller.turn()
    answer(release, 150)
    for jump in (86_400.0, -2 * 86_400.0, 3_600.0):
        clock.wall += jump
        [(_, action)] = controller.turn()
        assert isinstance(action, Wait)
        assert "are left" in action.reason
    clock.pass_(301)
    [(_, action)] = controller.turn()
    assert isinstance(action, Advance)


def test_a_stage_that_does_not_decide_is_held_once(store: DiskStore, log: Log, clock: Clock) -> None:
    releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock)
    controller.turn()
    clock.pass_(8 * 86_400)
    assert isinstance(controller.turn()[0][1], Hold)
    assert isinstance(controller.turn()[0][1], Wait)
    assert moves(store) == ["release 20", "hold 20"]


def test_what_a_faster_replica_logs_under_the_next_release_is_not_lost(
    store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    controller = make(store, log, clock)
    controller.turn()
    read = controller._read

    def moved_meanwhile(watch: Any) -> bool:
        answer(releases.advance(store, release, by="ann"), 150)
        return read(watch)

    monkeypatch.setattr(controller, "_read", moved_meanwhile)
    controller.turn()
    seen = controller._watched["m"].evidence.snapshot(clock.wall)
    assert seen.arm("canary").units == 150


STEPS = ("_observe", "_read", "_plan", "_act")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(2, 100))])
def test_killed_at_any_step_another_goes_on_as_if_nothing_had_been(
    seed: int, store: DiskStore, log: Log, clock: Clock, answer: Callable[..., None]
) -> None:
    """Each life ends before or after one of its steps, or after the ledger was written; the moves are the same."""
    import random

    rng = random.Random(seed)
    release = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    done = 0
    for _life in range(60):
        controller = make(store, log, clock)
        step, after = rng.choice(STEPS), rng.random() < 0.5
        real = getattr(controller, step)

        def dies(*args: Any, real: Any = real, after: bool = after) -> Any:
            if after:
                real(*args)
            raise Killed

        if rng.random() < 0.8:
            setattr(controller, step, dies)
        current = releases.current(store, "m")
        assert current is not None
        if current.epoch != done:
            done, release = current.epoch, current
            if release.rollout is not None:
                answer(release, 200)
        if release.rollout is None:
            break
        try:
            controller.turn()
        except Killed:
            continue
    assert moves(store) == ["release 20", "advance 50", "promote"]


def test_kill_9_at_any_moment(store: DiskStore, log: Log, tmp_path: Path, answer: Callable[..., None]) -> None:
    """A real process that turns as fast as it can is killed six times on the way up; the chain is whole and right."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from rung.fleet.controller import RolloutController
        from rung.fleet.policy import read_policy
        from rung.store.blobs import DiskStore
        guard = {"metric": "errors", "tolerance": 0.2}
        policy = read_policy({"guard": [guard], "units": 120, "seconds": 0, "alpha": 0.05})
        controller = RolloutController(DiskStore(Path(sys.argv[1])), Path(sys.argv[2]), lambda _: policy)
        while True:
            for _, action in controller.turn():
                print(type(action).__name__, flush=True)
        """
    )
    release = releases.rollout(store, "m", 2, ladder=(20.0, 30.0, 50.0, 100.0), by="ann")
    answer(release, 200)
    for life in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "repository"), str(log.folder)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()  # it has decided, and is acting or has acted
        if life % 2:
            child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        current = releases.current(store, "m")
        assert current is not None
        if current.rollout is None:
            break
        if current.epoch != release.epoch:
            release = current
            answer(release, 200)
    assert moves(store) == ["release 20", "advance 30", "advance 50", "promote"]
    assert len(ledger.links(store, "m")) == 4


def test_a_stale_plan_is_refused_by_the_chain(store: DiskStore) -> None:
    stale = releases.rollout(store, "m", 2, ladder=LADDER[1:], by="ann")
    releases.rollback(store, "m", by="ann")
    for act in (releases.advance, releases.hold):
        with pytest.raises(Conflict):
            act(store, stale, by="controller")
    with pytest.raises(Conflict):
        releases.rollback(store, "m", seen=stale, by="controller")
