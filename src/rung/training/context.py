"""What `train(ctx)` is given: data, device, precision, checkpoints, reports, and when to stop.

Nothing here starts a process or knows how the run is recorded: events go out by one function.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from rung.domain.errors import ConfigurationError, StorageFull, TrainingFailed
from rung.domain.runs import RunSpec
from rung.training.checkpoints import Checkpoint, Checkpoints
from rung.training.events import Checkpointed, Event, Progress, Reported, Said
from rung.training.feeding import Feed
from rung.training.stopping import Plateau

__all__ = ["Context", "Params", "Stateful", "Watch"]

_PROGRESS_SECONDS = 0.2
BEST = "best"
"""Name of the checkpoint with the best report."""


class Stateful(Protocol):
    """Something with a state: a module, an optimizer, a schedule."""

    def state_dict(self) -> Any:
        """What it is now."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Become what it was."""
        ...


class Params(Mapping[str, Any]):
    """The parameters of a run: `ctx.params.depth` or `ctx.params["depth"]`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            there = ", ".join(self._values) or "none"
            raise ConfigurationError(
                f"there is no parameter {name!r}: give it in params of the model's section, or by "
                f"--set {name}=VALUE; there are: {there}"
            ) from None


class Watch(msgspec.Struct, frozen=True):
    """Which metric counts, and the patience with it and with losses that are no numbers."""

    metric: str
    minimize: bool
    patience: int = 0
    skips: int = 10
    checkpoint_seconds: float = 30.0


class Context:
    """The argument of `train`.

    Attributes:
        params: what the project's file and `--set` give.
        seed: start of all random numbers; random, numpy and torch are seeded with it.
        data: the rows, divided; see `Feed`.
        device: `cpu`, `cuda` or `cuda:1`.
        rank, world: which of how many processes this is.
        smoke: whether this is a small trial of the whole way.
        folder: a folder of this run's own, for whatever has to lie on disk.
        steps: steps done, over all epochs.
        epoch: the epoch that is running, from 0.
    """

    def __init__(
        self,
        spec: RunSpec,
        data: Feed,
        watch: Watch,
        checkpoints: Checkpoints,
        *,
        folder: Path,
        device: str,
        tell: Callable[[Event], None],
        asked_to_stop: Callable[[], bool] = lambda: False,
        rank: int = 0,
    ) -> None:
        self.params = Params(spec.params)
        self.seed, self.world, self.rank = spec.seed, spec.workers, rank
        self.smoke, self.folder, self.device = spec.smoke > 0, folder, device
        self.data = data
        self.steps = self.epoch = self.skipped = self.planned = 0
        self.stopped = False
        """Whether `should_stop` said yes because somebody asked."""
        self.plateau = Plateau(watch.minimize, watch.patience)
        self.best_metrics: dict[str, float] = {}
        self._watch, self._tell, self._asked = watch, tell, asked_to_stop
        self._checkpoints = checkpoints
        self._found: Checkpoint | None = None
        self._tracked: dict[str, Stateful] = {}
        self._extra: dict[str, Any] = {}
        self._bad_in_a_row = self._epochs = 0
        self._saved_at = self._told_at = time.monotonic()
        self._torch: Any = None
        data.bind(self)

    # --- going on where it was ---------------------------------------------------------------

    def begin(self) -> int:
        """Read the newest checkpoint, if there is one: the step from which it goes on."""
        self._found = self._checkpoints.load()
        if self._found is None:
            return 0
        state = self._found.state
        self.steps, self.epoch, self.skipped = state["step"], state["epoch"], state["skipped"]
        self.plateau = msgspec.convert(state["plateau"], Plateau)
        self.best_metrics = state["best_metrics"]
        self._extra = state["extra"]
        self.data.restore(state["data"])
        return self.steps

    def track(self, **things: Stateful) -> None:
        """Name what a checkpoint has to hold: `ctx.track(model=net, optimizer=opt)`.

        Where the run goes on from a checkpoint, they get their states back here; where it reports a best metric,
        they are at that state when `train` returns. Random numbers and the place in the data are kept without asking.
        """
        from rung.training import torch_steps

        self._torch = self._torch or torch_steps.Precision(self.device)
        self._tracked |= things
        if self._found is None:
            return
        for name, thing in things.items():
            if name not in self._found.files:
                raise TrainingFailed(
                    f"the checkpoint of step {self._found.step} holds no {name!r}: train has changed since; "
                    "start a new run"
                )
            torch_steps.undump(thing, self._found.files[name])
        self._torch.restore(self._extra.get("scaler", {}))
        if f"random-{self.rank}" in self._found.files:
            torch_steps.restore_random(self._found.files[f"random-{self.rank}"])
            draws = self._extra["draws"][self.rank]
            np.random.set_state(_numpy_state(draws["numpy"]))
            random.setstate(_python_state(draws["python"]))

    def checkpoint(self) -> bool:
        """Write down where it stands. Call it after a step, not between its halves.

        False when there was no room, which is said; the last good one is kept and the run goes on.
        """
        saved = self._save("")
        if saved and self.rank == 0:
            self._tell(Checkpointed(self.steps))
        return saved

    def restore(self) -> bool:
        """Whether this run goes on from a checkpoint; `track` has given the states back."""
        return self._found is not None

    # --- the loop ------------------------------------------------------------------------------

    def epochs(self, count: int) -> Iterator[int]:
        """Yield the numbers of the epochs that are left, until it is time to stop. A checkpoint follows each."""
        self._epochs = count
        while self.epoch < count and not self.should_stop:
            yield self.epoch
            if self.stopped:
                return
            self.epoch += 1
            self.data.turn()
            if self._tracked:
                self.checkpoint()

    def plan(self, steps: int) -> None:
        """Say how many steps an epoch has."""
        self.planned = steps * self._epochs

    def halt(self) -> bool:
        """Whether somebody asked to end now; where it stands has been saved then. For loops over batches."""
        if not self.stopped and self.world == 1 and self._asked():
            if self._tracked:
                self.checkpoint()
            self.stopped = True
        return self.stopped

    @property
    def should_stop(self) -> bool:
        """Whether to end: the metric no longer gets better, or somebody asked. `epochs` looks by itself."""
        if not self.stopped and self._asked_now():
            if self._tracked:
                self.checkpoint()
            self.stopped = True
        return self.stopped or self.plateau.over

    def stepped(self, count: int = 1) -> None:
        """Count steps that were done without `ctx.step`, show them, and save now and then."""
        self.steps += count
        now = time.monotonic()
        if now - self._told_at > _PROGRESS_SECONDS and self.rank == 0:
            self._told_at = now
            self._tell(Progress(self.steps, self.planned))
        # Several processes save at the ends of epochs only, where all of them are; so does an epoch over rows that
        # `ctx.data.batches` does not give: nobody knows its place, and it would be gone through again.
        knows = self.world == 1 and (bool(self.data.state()) or not self._epochs)
        if self._tracked and knows and now - self._saved_at > self._watch.checkpoint_seconds:
            self.checkpoint()

    def step(self, loss: Any, optimizer: Any, *, clip: float = 0.0) -> bool:
        """Go back through `loss` and take one step of the optimizer, with the loss scaled where that is needed.

        A loss that is no finite number is left out and counted: False.

        Raises:
            TrainingFailed: that happened too often in a row ([models.NAME.run] skips).
        """
        if self.world > 1:
            # Of a batch that does not divide evenly, one process has more rows than another.
            loss = loss * self.data.share
        done: bool = self._precision().step(loss, optimizer, clip, self.world > 1)
        if done:
            self._bad_in_a_row = 0
        else:
            self.skipped += 1
            self._bad_in_a_row += 1
            if self._bad_in_a_row > self._watch.skips:
                raise TrainingFailed(
                    f"the loss was not a finite number in {self._bad_in_a_row} steps in a row, up to step "
                    f"{self.steps + 1} (epoch {self.epoch}): lower the learning rate, look for such values in the "
                    "data, or clip the gradients by ctx.step(..., clip=1.0)"
                )
        self.stepped()
        return done

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision: `with ctx.autocast(): loss = ...`. bfloat16 on a CPU, float16 on a GPU."""
        context: AbstractContextManager[Any] = self._precision().autocast()
        return context

    @staticmethod
    def recompute(function: Callable[..., Any], *arguments: Any) -> Any:
        """Gradient checkpointing: keep the inputs of `function` only, and compute it again on the way back."""
        from rung.training.torch_steps import recompute

        return recompute(function, *arguments)

    def report(self, step: int | None = None, **metrics: float) -> bool:
        """Record metrics. Says whether the one that counts was never better; then that state is kept as the best.

        Raises:
            TrainingFailed: a metric is no number.
        """
        at = self.steps if step is None else step
        values: dict[str, float] = {}
        for name, value in metrics.items():
            try:
                values[name] = float(value)
            except (TypeError, ValueError):
                raise TrainingFailed(f"the metric {name!r} is reported as {value!r:.60}, which is no number") from None
        if self.world > 1:
            from rung.training.distributed import mean_of

            values = mean_of(values)
        best = False
        # Once asked to end, an epoch was cut short: what it reports is no reason for anything.
        if self._watch.metric in values and not self.stopped:
            best = self.plateau.report(at, values[self._watch.metric])
            if best:
                # What is no number cannot be written down.
                self.best_metrics = {name: value for name, value in values.items() if math.isfinite(value)}
                if self._tracked:
                    self._save(BEST)
        if self.rank == 0:
            self._tell(Reported(at, values, best))
        return best

    def say(self, text: str) -> None:
        """Show a line."""
        if self.rank == 0:
            self._tell(Said(text))

    def wrap(self, module: Any) -> Any:
        """The module, on the device; with several processes, one whose gradients are those of all."""
        module = module.to(self.device)
        if self.world == 1:
            return module
        from rung.training.distributed import wrap

        return wrap(module)

    def end(self) -> None:
        """Put what is tracked into its best state."""
        if self.world > 1:
            from rung.training.distributed import barrier

            barrier()
        if self.stopped or self.plateau.best is None:
            return
        best = self._checkpoints.load(BEST) if self._tracked else None
        # Steps may not have been counted; then only the reports tell.
        if best is not None and (best.step != self.steps or self.plateau.waited):
            from rung.training import torch_steps

            for name, thing in self._tracked.items():
                torch_steps.undump(thing, best.files[name])

    # --- inside ---------------------------------------------------------------------------------

    def _asked_now(self) -> bool:
        if self.world == 1:
            return self._asked()
        from rung.training.distributed import any_of

        # All of them end together, or those that go on would wait for ever.
        return any_of(self._asked())

    def _precision(self) -> Any:
        if self._torch is None:
            from rung.training import torch_steps

            self._torch = torch_steps.Precision(self.device)
        return self._torch

    def _save(self, name: str) -> bool:
        files: dict[str, bytes] = {}
        extra: dict[str, Any] = {}
        if self._tracked:
            from rung.training import torch_steps

            drawn = msgspec.json.encode({"numpy": _plain(np.random.get_state()), "python": random.getstate()})
            states, draws = [torch_steps.random_state()], [drawn]
            if self.world > 1:
                from rung.training.distributed import gather

                # Each process draws its own numbers, and goes on with them.
                states, draws = gather(states[0]), gather(drawn)
            if self.rank:
                return True
            files = {f"random-{rank}": state for rank, state in enumerate(states)}
            files |= {key: torch_steps.dump(thing) for key, thing in self._tracked.items()}
            extra = {"scaler": self._torch.state(), "draws": [msgspec.json.decode(one) for one in draws]}
        if self.rank:
            return True
        state = {
            "step": self.steps,
            "epoch": self.epoch,
            "skipped": self.skipped,
            "plateau": msgspec.to_builtins(self.plateau),
            "best_metrics": self.best_metrics,
            "data": self.data.state(),
            "extra": extra,
        }
        try:
            self._checkpoints.save(self.steps, state, files, name)
        except StorageFull as error:
            self.say(f"{error}; the last good one is kept, and the run goes on")
            return False
        self._saved_at = time.monotonic()
        return True


def _plain(state: Any) -> list[Any]:
    name, keys, position, has_gauss, gauss = state
    return [name, keys.tolist(), position, has_gauss, gauss]


def _numpy_state(state: list[Any]) -> Any:
    return (state[0], np.array(state[1], np.uint32), *state[2:])


def _python_state(state: list[Any]) -> Any:
    return (state[0], tuple(state[1]), state[2])
