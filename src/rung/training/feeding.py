"""`ctx.data`: the rows of a run, divided, as tables, as arrays, or in shuffled batches that can go on mid-epoch."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rung.data.loading import Batches
from rung.domain.datasets import DatasetVersion, Kind, Split
from rung.domain.errors import InvalidData
from rung.domain.models import Step
from rung.domain.tensors import Array
from rung.settings.project import DataSection

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Feed"]


class _Owner(Protocol):
    """What a feed has to know of the run."""

    seed: int
    rank: int
    world: int
    epoch: int

    def plan(self, steps: int) -> None: ...

    def halt(self) -> bool: ...


class Feed:
    """The data of a run.

    Attributes:
        version: what was read; its digest is in the run's record.
        label: name of the label column; empty where there is none.
        features: names of the columns that the model sees.
        labels: names of the classes, in the order of the numbers that `arrays` gives; empty for numbers.
        columns: the fitted step, `tabular.columns` or `text.tfidf`, once `arrays` has been asked.
        waited: seconds in which training stood still for batches, of the passes that have ended.
        share: what the loss on the batch in hand counts, where several processes have different numbers of its rows.
    """

    def __init__(
        self,
        version: DatasetVersion,
        parts: Mapping[Split, "pl.DataFrame"],
        section: DataSection,
        *,
        labels: tuple[str, ...] = (),
    ) -> None:
        self.version, self.label = version, section.label
        self._parts, self._section = dict(parts), section
        self.features = section.seen(version.columns)
        self.labels = labels
        self.share = 1.0
        self.waited = 0.0
        self.columns: Step | None = None
        self._run: _Owner | None = None
        self._places: dict[str, int] = {}
        self._passes: dict[int, int] = {}
        """How many passes in batches of a size the running epoch has begun."""

    def bind(self, run: _Owner) -> None:
        """Say whose data it is."""
        self._run = run

    @property
    def rows(self) -> dict[str, int]:
        """How many there are in each split."""
        return {name: part.height for name, part in self._parts.items()}

    def frame(self, split: Split = "train") -> "pl.DataFrame":
        """The rows of a split, in their order, as a polars table.

        Raises:
            InvalidData: there is no such split.
        """
        try:
            return self._parts[split]
        except KeyError:
            raise InvalidData(f"there is no split {split!r}; there are {', '.join(self._parts)}") from None

    def arrays(
        self,
        split: Split = "train",
        *,
        scale: bool = False,
        one_hot: bool = False,
        text: Mapping[str, Any] | None = None,
    ) -> tuple[Array, Array]:
        """The features as FP32 [rows, columns], and the labels [rows]: numbers, or classes as INT64.

        What turns rows into numbers is fitted on the training split alone, at the first call, and goes into the
        bundle: a served row becomes the same numbers. Where the one feature is a text, a row counts its words, as
        `rung.transforms.fitting.fit_text` has it; `text` are settings for that, such as `{"ngrams": (1, 1)}`. Classes
        are numbered in the order of `labels`.

        Raises:
            InvalidData: there is no label column, or a value of it was never seen in training.
        """
        from rung.transforms.fitting import apply

        if not self.label:
            raise InvalidData("arrays gives features and labels: say which column is the label, in data.label")
        if self.columns is None:
            self.columns = self._fitted(text, scale=scale, one_hot=one_hot)
        rows = self.frame(split)
        return apply(self.columns, _values(rows, self.features)), self._targets(rows)

    def _fitted(self, text: Mapping[str, Any] | None, *, scale: bool, one_hot: bool) -> Step:
        from rung.transforms.fitting import are_texts, fit, fit_text

        values = _values(self.frame("train"), self.features)
        kinds: dict[str, Kind] = {name: self.version.columns[name] for name in self.features}
        if list(kinds.values()) == ["text"]:
            texts = values[self.features[0]]
            if text is not None or are_texts(texts):
                return fit_text(texts, **text or {})
        elif text is not None:
            raise InvalidData(
                f"arrays(text=...) is for one column of texts, and the features are {', '.join(self.features)}: name "
                "the one in data.features"
            )
        return fit(values, features=self.features, kinds=kinds, scale=scale, one_hot=one_hot)

    def batches(
        self,
        split: Split = "train",
        size: int = 32,
        *,
        transform: Callable[..., Any] | None = None,
        columns: tuple[str, ...] = (),
        drop_last: bool = False,
        ahead: int = 2,
    ) -> Iterator[Any]:
        """One pass over a split: the training split shuffled anew for each epoch, the others in their order.

        Several passes over the training split within one epoch have the same order.
        A batch is a dict of columns, or what `transform(batch, epoch=..., indices=...)` makes of it, in a thread
        that works `ahead` of the training. After an interruption the pass begins where it stood. With several
        processes each gets its share of every batch.
        """
        run = self._run
        assert run is not None
        train, part = split == "train", self.frame(split)
        made = Batches(
            part.select(columns) if columns else part,
            size,
            seed=run.seed,
            shuffle=train,
            drop_last=drop_last,
            rank=run.rank if train else 0,
            world=run.world if train else 1,
            transform=transform,
            ahead=ahead,
        )
        try:
            yield from self._resumable(run, made, size) if train else made.epoch(run.epoch)
        finally:
            self.waited += made.waited

    def _resumable(self, run: _Owner, made: Batches, size: int) -> Iterator[Any]:
        run.plan(len(made))
        # A pass is known by its turn in the epoch: one that was over before an interruption is over after it.
        turn = self._passes.get(size, 0)
        self._passes[size] = turn + 1
        name = f"{size}/{turn}"
        start = self._places.get(name, 0)
        for place, batch in enumerate(made.epoch(run.epoch, start=start), start + 1):
            # Counted before it is handed out: a checkpoint within the loop stands behind the step on this batch.
            self._places[name] = place
            self.share = made.share(place - 1)
            yield batch
            if run.halt():
                return

    def turn(self) -> None:
        """An epoch is over."""
        self._places.clear()
        self._passes.clear()
        self.share = 1.0

    def state(self) -> dict[str, int]:
        """How many batches of the running epoch are done, for a checkpoint."""
        return dict(self._places)

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on as `state` says."""
        self._places = dict(state)

    def _targets(self, rows: "pl.DataFrame") -> Array:
        column = rows[self.label]
        if column.dtype.is_numeric() and not self.labels:
            return column.to_numpy()
        if not self.labels:
            self.labels = tuple(str(value) for value in self.frame("train")[self.label].unique().drop_nulls().sort())
        numbers = {label: number for number, label in enumerate(self.labels)}
        values = [str(value) for value in column]
        strange = sorted({value for value in values if value not in numbers})
        if strange:
            raise InvalidData(
                f"the label column {self.label!r} holds {strange[0]!r}, which is none of {', '.join(self.labels)}"
            )
        return np.array([numbers[value] for value in values], np.int64)


def _values(rows: "pl.DataFrame", names: tuple[str, ...]) -> dict[str, Any]:
    return {name: rows[name].to_numpy() if rows[name].dtype.is_numeric() else rows[name].to_list() for name in names}
