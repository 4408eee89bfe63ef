"""How far arrays are apart, value by value: what was logged, and what comes out today. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import msgspec
import numpy as np

from rung.domain.tensors import Array, widened

__all__ = ["ANOTHER", "Apart", "Tolerance"]

_NUMBERS = "fiub"
_FIGURES = ("mean", "least", "greatest")


class Apart(NamedTuple):
    """The values of one feature or output that are furthest apart."""

    excess: float
    """By which they are further apart than they may be."""
    logged: float
    """NaN where there is no such number."""
    replayed: float
    """The same."""
    where: str = ""
    """To be put behind the name."""


ANOTHER = Apart(np.inf, np.nan, np.nan)
"""What cannot be put in numbers."""


class Tolerance(msgspec.Struct, frozen=True):
    """How far apart two values may be: `atol + rtol * |logged|`."""

    rtol: float
    atol: float

    def values(
        self,
        logged: Mapping[str, Array],
        replayed: Mapping[str, Any],
        columns: Mapping[str, tuple[str, ...]] | None = None,
        bfloat: AbstractSet[str] = frozenset(),
    ) -> dict[str, Apart]:
        """What differs, and where most.

        Args:
            logged: name -> array.
            replayed: the same today.
            columns: name -> names of its last dimension: each of them is compared by itself.
            bfloat: names of arrays that are bit patterns of BF16.
        """
        found: dict[str, Apart] = {}
        for name, was in logged.items():
            now = replayed.get(name)
            if now is None or np.shape(now) != was.shape:
                found[name] = ANOTHER._replace(where=" (another shape)")
                continue
            now = np.asarray(now)
            if was.dtype.kind not in _NUMBERS or now.dtype.kind not in _NUMBERS:
                if any(_text(a) != _text(b) for a, b in zip(was.ravel(), now.ravel(), strict=True)):
                    found[name] = ANOTHER._replace(where=" (another text)")
                continue
            before, after = _numbers(was, bfloat=name in bfloat), _numbers(now, bfloat=name in bfloat)
            names = (columns or {}).get(name, ())
            if before.ndim and len(names) == before.shape[-1]:
                for place, column in enumerate(names):
                    one = self._furthest(before[..., place], after[..., place])
                    if one is not None and (column not in found or one.excess > found[column].excess):
                        found[column] = one._replace(where="")
            elif (one := self._furthest(before, after)) is not None:
                found[name] = one
        return found

    def summaries(
        self,
        logged: Mapping[str, tuple[float, float, float]],
        replayed: Mapping[str, Any],
        bfloat: AbstractSet[str] = frozenset(),
    ) -> dict[str, Apart]:
        """What differs of mean, least and greatest finite value of each array."""
        found: dict[str, Apart] = {}
        for name, was in logged.items():
            array = np.asarray(replayed[name]) if name in replayed else None
            if array is None or array.dtype.kind not in _NUMBERS:
                found[name] = ANOTHER._replace(where=" (gone)")
                continue
            values = _numbers(array, bfloat=name in bfloat)
            values = values[np.isfinite(values)]
            now = (values.mean(), values.min(), values.max()) if values.size else (0.0, 0.0, 0.0)
            one = self._furthest(np.array(was), np.array(now))
            if one is not None:
                found[name] = one._replace(where=f" {_FIGURES[int(one.where[1:-1])]}")
        return found

    def _furthest(self, was: Array, now: Array) -> Apart | None:
        """The values that are furthest apart; None where none is too far."""
        # What is not finite on one side only is infinitely far away.
        same = (was == now) | (np.isnan(was) & np.isnan(now))
        with np.errstate(invalid="ignore"):
            apart = np.abs(was - now) - (self.atol + self.rtol * np.abs(was))
        excess = np.where(same, -1.0, np.where(np.isfinite(apart), apart, np.inf))
        if not excess.size or excess.max() <= 0:
            return None
        place = np.unravel_index(int(excess.argmax()), excess.shape)
        where = f"[{', '.join(map(str, place))}]" if place else ""
        return Apart(float(excess[place]), float(was[place]), float(now[place]), where)


def _numbers(array: Array, *, bfloat: bool) -> Array:
    if bfloat and array.dtype == np.uint16:
        array = widened(array)
    return array.astype(np.float64)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
