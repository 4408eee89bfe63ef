"""What `train` is given: epochs that go on, the best instead of the last, and an end in time. No torch here."""

import itertools
import math
import threading
import time

import numpy as np
import polars as pl
import pytest

from rung.data import loading
from rung.domain.datasets import DatasetVersion
from rung.domain.errors import ConfigurationError, TrainingFailed
from rung.domain.runs import RunSpec
from rung.settings.project import DataSection
from rung.training import torch_steps
from rung.training.checkpoints import Checkpoints
from rung.training.context import Context, Params, Watch
from rung.training.events import Checkpointed, Progress, Reported, Said
from rung.training.feeding import Feed

ROWS = 8


class Weight:
    """Something with a state, that moves with each batch it is shown."""

    def __init__(self) -> None:
        self.value = 0.0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class Precision:
    """Steps without torch: a loss is a plain number."""

    def __init__(self, _device):
        pass

    def step(self, loss, optimizer, _clip, _together):
        if not math.isfinite(loss):
            return False
        optimizer.value += loss
        return True

    def state(self):
        return {}

    def restore(self, _state):
        pass


@pytest.fixture(autouse=True)
def plain_steps(monkeypatch):
    monkeypatch.setattr(torch_steps, "Precision", Precision)


class Made:
    """A context, what it told, and a switch that asks it to stop."""

    def __init__(self, folder, *, resumed=False, minimize=True, **watch):
        frame = pl.DataFrame({"x": np.arange(ROWS, dtype=np.float64)})
        feed = Feed(DatasetVersion("m", "0" * 64, {"x": "number"}, ()), {"train": frame}, DataSection())
        self.told, self.stop = [], threading.Event()
        self.ctx = Context(
            RunSpec("m", "m:train", params={"rate": 0.5}, seed=5),
            feed,
            Watch("loss", minimize, **watch),
            Checkpoints(folder / "checkpoints"),
            folder=folder,
            device="cpu",
            tell=self.told.append,
            asked_to_stop=self.stop.is_set,
        )
        self.resumed = self.ctx.begin() if resumed else 0

    def of(self, kind):
        return [event for event in self.told if isinstance(event, kind)]


def train(made, *, epochs=3, losses=(), stop_at=0, weight=None):
    """Sum up x times a random number; `losses` are reported after each epoch."""
    ctx, weight = made.ctx, weight or Weight()
    ctx.track(weight=weight)
    seen = []
    for epoch in ctx.epochs(epochs):
        seen.append(epoch)
        for batch in ctx.data.batches("train", 2):
            ctx.step(float((batch["x"] * np.random.random()).sum()), weight)
            if ctx.steps == stop_at:
                made.stop.set()
        ctx.report(loss=losses[epoch] if epoch < len(losses) else 1.0)
    ctx.end()
    return weight.value, seen


def test_stopped_within_an_epoch_it_goes_on_to_the_same_end(tmp_path):
    np.random.seed(1)
    whole, epochs = train(Made(tmp_path / "whole"))
    assert epochs == [0, 1, 2]
    np.random.seed(1)
    first = Made(tmp_path / "cut")
    _, seen = train(first, stop_at=6, losses=(1.0, -99.0))
    assert first.ctx.stopped
    assert seen == [0, 1]
    np.random.seed(7)
    second = Made(tmp_path / "cut", resumed=True)
    assert (second.resumed, second.ctx.epoch, second.ctx.restore()) == (6, 1, True)
    value, seen = train(second)
    assert seen == [1, 2]
    assert value == whole
    # The epoch that was cut short reported a better value than any whole one, which is no reason for anything.
    assert second.ctx.plateau.best == 1.0
    assert second.ctx.steps == 12


def test_a_finished_number_of_epochs_is_not_begun_again(tmp_path):
    whole, _ = train(Made(tmp_path))
    again = Made(tmp_path, resumed=True)
    assert train(again) == (whole, [])


def test_the_best_is_handed_back_not_the_last(tmp_path):
    np.random.seed(0)
    one, _ = train(Made(tmp_path / "one"), epochs=1)
    np.random.seed(0)
    made = Made(tmp_path / "three")
    value, _ = train(made, losses=(0.1, 0.2, 0.3))
    assert value == one
    assert made.ctx.best_metrics == {"loss": 0.1}
    assert [event.best for event in made.of(Reported)] == [True, False, False]


def test_the_best_is_handed_back_where_steps_are_not_counted(tmp_path):
    made, weight = Made(tmp_path), Weight()
    made.ctx.track(weight=weight)
    for epoch in made.ctx.epochs(3):
        weight.value = float(epoch + 1)
        made.ctx.report(loss=[3.0, 1.0, 2.0][epoch])
    made.ctx.end()
    assert weight.value == 2.0


def test_larger_may_be_better(tmp_path):
    made = Made(tmp_path, minimize=False)
    train(made, losses=(0.1, 0.2, 0.15))
    assert made.ctx.plateau.best == 0.2


def test_a_plateau_ends_it_also_after_an_interruption(tmp_path):
    made = Made(tmp_path, patience=2)
    _, seen = train(made, epochs=9, losses=(1.0, 2.0, 3.0))
    assert seen == [0, 1, 2]
    assert not made.ctx.stopped, "nobody asked"
    assert made.ctx.planned == 36
    assert train(Made(tmp_path, resumed=True, patience=2), epochs=9)[1] == []


def test_other_metrics_and_own_steps_are_recorded_and_pick_nothing(tmp_path):
    made = Made(tmp_path)
    assert not made.ctx.report(step=7, accuracy=np.float32(0.5))
    assert made.of(Reported) == [Reported(7, {"accuracy": 0.5}, False)]
    with pytest.raises(TrainingFailed, match=r"'loss' is reported as \[1\], which is no number"):
        made.ctx.report(loss=[1])


def test_losses_that_are_no_numbers_are_counted_and_end_it_when_they_do_not_end(tmp_path):
    made, weight = Made(tmp_path, skips=2), Weight()
    losses = [1.0, math.nan, math.inf, 1.0, math.nan, math.nan]
    assert [made.ctx.step(loss, weight) for loss in losses] == [True, False, False, True, False, False]
    assert (made.ctx.skipped, made.ctx.steps, weight.value) == (4, 6, 2.0)
    with pytest.raises(TrainingFailed, match="3 steps in a row, up to step 7"):
        made.ctx.step(math.nan, weight)


def test_what_was_skipped_is_still_counted_after_an_interruption(tmp_path):
    made, weight = Made(tmp_path), Weight()
    made.ctx.track(weight=weight)
    made.ctx.step(math.nan, weight)
    assert made.ctx.checkpoint()
    assert made.of(Checkpointed) == [Checkpointed(1)]
    assert Made(tmp_path, resumed=True).ctx.skipped == 1


def test_a_checkpoint_without_what_is_tracked_now_is_refused(tmp_path):
    train(Made(tmp_path))
    again = Made(tmp_path, resumed=True)
    with pytest.raises(TrainingFailed, match="holds no 'schedule': train has changed since"):
        again.ctx.track(schedule=Weight())


def test_without_anything_tracked_there_is_nothing_to_save(tmp_path):
    made = Made(tmp_path)
    for _ in made.ctx.epochs(2):
        made.ctx.report(loss=1.0)
    made.ctx.end()
    assert not (tmp_path / "checkpoints").exists()


def test_it_saves_within_an_epoch_where_its_place_is_known(tmp_path):
    made, weight = Made(tmp_path, checkpoint_seconds=0), Weight()
    made.ctx.track(weight=weight)
    for _ in made.ctx.epochs(1):
        made.ctx.step(1.0, weight)
        assert not made.of(Checkpointed), "rows that nobody counted would be gone through again"
        for _ in itertools.islice(made.ctx.data.batches("train", 2), 3):
            made.ctx.step(1.0, weight)
    assert [event.step for event in made.of(Checkpointed)] == [2, 3, 4, 4]


def test_progress_and_sentences_are_told(tmp_path, monkeypatch):
    made = Made(tmp_path)
    made.ctx.stepped()
    assert not made.of(Progress), "not for each step"
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    made.ctx.stepped(4)
    made.ctx.say("half way")
    assert made.told == [Progress(5, 0), Said("half way")]


def test_parameters_are_read_by_name_and_a_wrong_name_is_answered():
    params = Params({"rate": 0.1, "depth": 3})
    assert (params.rate, params["depth"], dict(params), len(params)) == (0.1, 3, {"rate": 0.1, "depth": 3}, 2)
    assert params.get("width", 8) == 8
    with pytest.raises(ConfigurationError, match=r"no parameter 'width'.*--set width=VALUE; there are: rate, depth"):
        _ = params.width
    with pytest.raises(ConfigurationError, match="there are: none"):
        _ = Params({}).width
    assert not hasattr(params, "_private")


# --- who waits for whom ----------------------------------------------------------------------------------


class Clock:
    """Time that passes only where a test says so; `looked` is called by whoever is about to wait for a batch."""

    def __init__(self) -> None:
        self.now, self.looked, self._calls = 0.0, lambda: None, 0

    def __call__(self) -> float:
        now = self.now
        self._calls += 1
        # It is read before and after each wait.
        if self._calls % 2:
            self.looked()
        return now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(loading.time, "perf_counter", made)
    return made


def test_a_slow_reader_is_waited_for(tmp_path, clock):
    made = Made(tmp_path)
    waited_for = threading.Semaphore(0)
    clock.looked = waited_for.release

    def slow(batch, **_):
        # It begins when training waits for it, and takes ten seconds.
        assert waited_for.acquire(timeout=20)
        clock.now += 10
        return batch

    for _ in made.ctx.epochs(1):
        assert len(list(made.ctx.data.batches("train", 2, transform=slow))) == 4
    assert (made.ctx.data.waited, clock.now) == (40, 40)


def test_a_slow_step_is_not_taken_for_a_slow_reader(tmp_path, clock):
    made = Made(tmp_path)
    ready = threading.Semaphore(0)

    def quick(batch, **_):
        clock.now += 1
        ready.release()
        return batch

    for _ in made.ctx.epochs(1):
        for place, _batch in enumerate(made.ctx.data.batches("train", 2, transform=quick)):
            # While the first step runs, all other batches are prepared.
            for _ in range(0 if place else 4):
                assert ready.acquire(timeout=20)
            clock.now += 10
    assert clock.now == 44
    # At most while the first one was prepared; never while a step ran.
    assert made.ctx.data.waited <= 4
