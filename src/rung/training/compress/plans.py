"""Which steps are tried, in which order: pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.training.compress.int8 import Mode

__all__ = ["Step", "Wanted", "plans"]

_SHARES = (0.25, 0.5, 0.75)


class Step(msgspec.Struct, frozen=True):
    """One step with what it takes."""

    kind: Literal["freeze", "prune", "sparse", "int8"]
    share: float = 0.0
    mode: Mode = "static"

    @property
    def name(self) -> str:
        """What people call it."""
        if self.kind == "int8":
            return f"int8 {self.mode}"
        return f"{self.kind} {self.share:g}" if self.share else self.kind


class Wanted(msgspec.Struct, frozen=True):
    """What was asked for."""

    freeze: bool = False
    int8: Mode | None = None
    prune: float = 0.0
    """Share of the output channels of every layer that may go."""
    sparse: float = 0.0
    """Share of the weights that are set to zero, which makes nothing smaller or faster by itself."""
    budget: int = 0
    """Bytes that the artifact may have; 0: any number."""
    max_drop: float = 0.01
    """Largest drop of the metric: of a share (accuracy, IoU, R2) in points, of an error as a share of it."""
    source: str = ""
    """URL of rows to judge by; empty: the validation split of what the version was trained on."""

    def __post_init__(self) -> None:
        for name, share in (("prune", self.prune), ("sparse", self.sparse)):
            if not 0 <= share < 1:
                raise InvalidInput(f"{name} is {share:g}: give a share above 0 and below 1", field=name)
        if not self.max_drop >= 0:
            raise InvalidInput(f"max-drop is {self.max_drop:g}: give 0 or more", field="max_drop")


def plans(wanted: Wanted, *, size: int, calibrated: bool) -> list[tuple[Step, ...]]:
    """Lists of steps to try until one passes the gate, the least harmful first.

    Without a budget there is one: all steps that were asked for. With a budget, the steps that were asked for (none:
    all) may be used: folding changes nothing; int8 costs little, static before dynamic, whose answers move with the
    batch; pruning costs most, and more of it more.

    Args:
        wanted: what was asked for.
        size: bytes of the original.
        calibrated: whether there are rows of data to find ranges by.

    Raises:
        InvalidInput: nothing was asked for.
        ConfigurationError: it fits the budget as it is.
    """
    free = not (wanted.freeze or wanted.int8 or wanted.prune or wanted.sparse)
    if not wanted.budget:
        if free:
            raise InvalidInput("say what to do: --freeze, --int8 static, --prune 0.5, or --budget 1MB", field="steps")
        return [_in_order(wanted.freeze, wanted.prune, wanted.sparse, wanted.int8)]
    if free and size <= wanted.budget:
        raise ConfigurationError(f"its {size:,} bytes fit the budget of {wanted.budget:,} as they are: nothing to do")
    freeze = free or wanted.freeze
    modes: Sequence[Mode | None] = (None, *(("static", "dynamic") if calibrated else ("dynamic",)))
    if not free:
        modes = (None, wanted.int8) if wanted.int8 else (None,)
    most = max(_SHARES) if free else wanted.prune
    shares = sorted({0.0, *(share for share in _SHARES if share < most), most})
    tried = [_in_order(freeze, share, wanted.sparse, mode) for share in shares for mode in modes]
    return [plan for plan in tried if plan]


def _in_order(freeze: bool, prune: float, sparse: float, int8: Mode | None) -> tuple[Step, ...]:
    # Folded first: batch normalisation between two layers is then gone before channels are counted.
    steps = [Step("freeze")] if freeze else []
    steps += [Step("prune", prune)] if prune else []
    steps += [Step("sparse", sparse)] if sparse else []
    return (*steps, *([Step("int8", mode=int8)] if int8 else []))
