"""The steps of one manifest, resolved once: payload -> tensors, tensors -> results, results -> bytes.

Training and serving run the same object, so the same bytes give the same tensors in both.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sized
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import BundleError, ConfigurationError, InvalidInput, NotAcceptable, UnsupportedMedia
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Array, Signature, Tensors, datatype_of
from rung.plugins import TRANSFORMS, resolve
from rung.transforms.rows import predictions_json, tensors_from_rows, tensors_from_text
from rung.transforms.steps import row_wise

__all__ = ["Columns", "Pipeline", "Prepared", "digest_of", "raw_type"]

_JSON = "application/json"
_RAW = "application/octet-stream"

BoundStep = Callable[[Any, dict[str, Any]], Any]
BulkRead = Callable[[Any], Tensors]
"""Items, or an object of columns -> the model's inputs, rows along the first dimension."""
BulkHead = Callable[[Tensors, Tensors], list[Any]]
"""Outputs and inputs of the model -> one result for each row."""
Columns = dict[str, tuple[Array, Array]]
"""Name -> a value for each row, and which of them are known."""


class Prepared(msgspec.Struct):
    """One payload as the model takes it."""

    inputs: Tensors
    rows: int
    contexts: list[dict[str, Any]]
    """One for each item, where the bundle has transforms."""


class Pipeline:
    """What runs before and after a model. Pure and safe to call from several threads.

    Attributes:
        accepts: kinds of `Payload` that `prepare` takes, the one people send most first.
        media: media types that `render` can give, best first.
        cheap: there are no transforms, so that it may run on an event loop.
        digest: sha256 of the steps in canonical form; equal digests prepare equal bytes equally.
        example: an item that the input steps take, where they know one.
    """

    def __init__(
        self,
        signature: Signature,
        labels: tuple[str, ...],
        before: tuple[BoundStep, ...],
        after: tuple[BoundStep, ...],
        renderers: Mapping[str, Callable[[Any], bytes]],
        accepts: tuple[str, ...],
        digest: str,
        bulk_read: BulkRead | None = None,
        bulk_head: BulkHead | None = None,
        example: Any = None,
        columns: Callable[[Tensors], Columns] | None = None,
    ) -> None:
        self._signature = signature
        self._labels = labels
        self._before = before
        self._after = after
        self._bulk_read = bulk_read
        self._bulk_head = bulk_head
        self._columns = columns
        self.example = example
        self._renderers = renderers
        self.accepts = accepts
        self.digest = digest
        self.cheap = not before and not after
        single = len(signature.outputs) == 1 and signature.outputs[0].datatype != "BYTES"
        self.media = tuple(renderers) or ((_JSON, _RAW) if single and not after else (_JSON,))

    @classmethod
    def build(cls, manifest: Manifest) -> "Pipeline":
        """Resolve the steps of a manifest.

        Raises:
            BundleError: a step is unknown here or does not take the parameters it was given.
        """
        return cls.of(manifest.transforms, manifest.signature, manifest.labels)

    @classmethod
    def of(cls, transforms: Transforms, signature: Signature, labels: tuple[str, ...] = ()) -> "Pipeline":
        """Resolve steps that have no manifest yet, as in training.

        Raises:
            BundleError: a step is unknown here or does not take the parameters it was given.
        """
        before = tuple(_bind(step) for step in transforms.input)
        after = tuple(_bind(step) for step in transforms.output)
        # Rows at once where the one step can, which is many times faster than one by one.
        bulk_read = _bind_form("bulk", transforms.input[0], signature, labels) if len(before) == 1 else None
        bulk_head = _bind_form("bulk", transforms.output[0], signature, labels) if len(after) == 1 else None
        columns = _bind_form("columns", transforms.output[0], signature, labels) if len(after) == 1 else None
        renderers: Mapping[str, Callable[[Any], bytes]] = {}
        if transforms.output:
            head = resolve(TRANSFORMS, transforms.output[-1].name, "transform")
            renderers = getattr(head, "renderers", {})
        return cls(
            signature,
            labels,
            before,
            after,
            renderers,
            _accepts(transforms, signature),
            digest_of(transforms),
            bulk_read,
            bulk_head,
            _example(transforms),
            columns,
        )

    def negotiate(self, accept: tuple[str, ...], items: int = 1) -> str:
        """Choose the media type of the answer.

        Args:
            accept: media types and ranges, best first; an entry that ends in `;q=0` rules a type out.
            items: how many items the payload holds; several pictures are answered in JSON only.

        Raises:
            NotAcceptable: naming what there is.
        """
        offered = self.media
        if items > 1 and self._renderers:
            offered = tuple(media for media in offered if media == _JSON)
        chosen, chosen_rank = "", len(accept)
        for media in offered:
            # The most specific entry that covers a type decides on it: "image/png;q=0" beats "image/*".
            ranges = (media, media.partition("/")[0] + "/*", "*/*")
            for wanted in ranges:
                if f"{wanted};q=0" in accept:
                    break
                if wanted in accept:
                    rank = accept.index(wanted)
                    if rank < chosen_rank:
                        chosen, chosen_rank = media, rank
                    break
        if not chosen:
            several = " for several items" if offered != self.media else ""
            raise NotAcceptable(
                f"the answer can be given{several} as {', '.join(offered)}, not as {', '.join(accept)}: "
                "change the Accept header"
            )
        return chosen

    def prepare(self, payload: Payload) -> Prepared:
        """Make the model's inputs of a payload.

        Pictures, texts and rows go through the input steps one by one, and are stacked along the first
        dimension. Tensors are the artifact's own: they skip the input steps.

        Raises:
            UnsupportedMedia: the model does not take this kind of payload.
            InvalidInput: an item does not fit; the message names it.
        """
        kind, value = payload.kind, payload.value
        if kind not in self.accepts:
            raise UnsupportedMedia(f"this model takes {' or '.join(self.accepts)}, not {kind}")
        if kind == "tensors":
            inputs: Tensors = value
        elif self._bulk_read is not None:
            return self._prepare_rows(self._bulk_read, value)
        elif self._before:
            return self._prepare_items(value)
        elif kind == "text":
            inputs = tensors_from_text(value, self._signature)
        else:
            inputs = tensors_from_rows(value, self._signature)
        rows = self._signature.check(inputs)
        return Prepared(inputs, rows, self._contexts(rows))

    def finish(self, outputs: Tensors, prepared: Prepared) -> list[Any]:
        """Run the output steps on the items of `prepared`, in order.

        Without output steps the one result is `outputs`, with all rows.

        Raises:
            ModelError: the outputs make no sense to a step.
        """
        if not self._after:
            return [outputs]
        if self._bulk_head is not None:
            return self._bulk_head(self._by_row(outputs), self._by_row(prepared.inputs))
        results = []
        for index, context in enumerate(prepared.contexts):
            item = {name: array[index] if self._signature.batched else array for name, array in outputs.items()}
            value: Any = next(iter(item.values())) if len(item) == 1 else item
            for step in self._after:
                value = step(value, context)
            results.append(value)
        return results

    def columns(self, outputs: Tensors) -> Columns | None:
        """What the output step says of each row, as arrays; None where its results are more than that.

        Raises:
            ModelError: the outputs make no sense to the step.
        """
        return None if self._columns is None else self._columns(self._by_row(outputs))

    def render(self, results: list[Any], media_type: str) -> bytes:
        """Write the results in a media type that `negotiate` gave.

        Raises:
            NotAcceptable: these results cannot be written like that.
        """
        if self._renderers:
            render = self._renderers[media_type]
            if media_type == _JSON:
                return b'{"predictions":[' + b",".join([render(result) for result in results]) + b"]}"
            if len(results) != 1:
                raise NotAcceptable(f"{len(results)} items cannot be answered as one {media_type}: ask for {_JSON}")
            return render(results[0])
        if self._after:
            return predictions_json({}, self._signature, results)
        outputs: Tensors = results[0]
        if media_type == _RAW:
            return next(iter(outputs.values())).tobytes()
        return predictions_json(outputs, self._signature)

    def content_type(self, results: list[Any], media_type: str) -> str:
        """The media type with what a reader needs to make sense of raw bytes: datatype and shape."""
        if media_type != _RAW:
            return media_type
        array = results[0].raw if self._after else next(iter(results[0].values()))
        return raw_type(datatype_of(array), array.shape)

    def _contexts(self, rows: int) -> list[dict[str, Any]]:
        return [{"labels": self._labels} for _ in range(rows)] if self._after and self._bulk_head is None else []

    def _by_row(self, tensors: Tensors) -> Tensors:
        return tensors if self._signature.batched else {name: array[None] for name, array in tensors.items()}

    def _prepare_items(self, value: Any) -> Prepared:
        items = value if isinstance(value, list) else [value]
        self._check_count(items)
        contexts = [{"labels": self._labels} for _ in items]
        values = []
        for index, (item, context) in enumerate(zip(items, contexts, strict=True)):
            try:
                made = item
                for step in self._before:
                    made = step(made, context)
            except InvalidInput as error:
                if len(items) == 1:
                    raise
                raise InvalidInput(f"item {index}: {error}", field=error.field) from error
            values.append(made if isinstance(made, Mapping) else {self._signature.inputs[0].name: made})
        batched = self._signature.batched
        inputs = {name: _stack([made[name] for made in values], batched) for name in values[0]}
        return Prepared(inputs, self._signature.check(inputs), contexts)

    def _prepare_rows(self, read: BulkRead, value: Any) -> Prepared:
        items = value if isinstance(value, list | Mapping) else [value]
        if isinstance(items, list):
            self._check_count(items)
        inputs = read(items)
        if not self._signature.batched:
            self._check_count(next(iter(inputs.values())))
            inputs = {name: array[0] for name, array in inputs.items()}
        rows = self._signature.check(inputs)
        return Prepared(inputs, rows, self._contexts(rows))

    def _check_count(self, items: Sized) -> None:
        if not len(items):
            raise InvalidInput("the request holds no items")
        if not self._signature.batched and len(items) > 1:
            raise InvalidInput(f"this model takes one item a request, not {len(items)}")


def raw_type(datatype: str, shape: tuple[int, ...]) -> str:
    """The media type of a raw tensor: `application/octet-stream; datatype=FP32; shape=1x4`."""
    return f"{_RAW}; datatype={datatype}; shape={'x'.join(map(str, shape))}"


def _stack(values: list[Array], batched: bool) -> Array:
    if not batched:
        return values[0]
    shapes = {np.shape(value) for value in values}
    if len(shapes) > 1:
        raise InvalidInput(
            f"the items of one request must have one shape, these have {sorted(shapes)}: send them apart"
        )
    # Adding a dimension to a single item copies nothing.
    return values[0][None] if len(values) == 1 else np.stack(values)


def _bind(step: Step) -> BoundStep:
    try:
        function = resolve(TRANSFORMS, step.name, "transform")
        inspect.signature(function).bind(None, {}, **step.params)
    except (ConfigurationError, TypeError) as error:
        given = str(step.params)[:200]
        raise BundleError(f"the transform {step.name!r} with {given} cannot run here: {error}") from error
    params = step.params

    def run(value: Any, context: dict[str, Any]) -> Any:
        return function(value, context, **params)

    return run


def _bind_form(form: str, step: Step, signature: Signature, labels: tuple[str, ...]) -> Any:
    make = getattr(resolve(TRANSFORMS, step.name, "transform"), form, None)
    try:
        return make and make(row_wise(signature), labels, **step.params)
    except ConfigurationError as error:
        raise BundleError(f"the transform {step.name!r} does not fit this model: {error}") from error
    except (TypeError, ValueError) as error:
        raise BundleError(f"the transform {step.name!r} cannot take {str(step.params)[:200]}: {error}") from error


def _example(transforms: Transforms) -> Any:
    step = transforms.input[0] if transforms.input else None
    make = step and getattr(resolve(TRANSFORMS, step.name, "transform"), "example", None)
    return make(**step.params) if step and make else None


def _accepts(transforms: Transforms, signature: Signature) -> tuple[str, ...]:
    if transforms.input:
        family = transforms.input[0].name.partition(".")[0]
        # Texts also come as the rows of a table.
        return {"image": ("image", "tensors"), "text": ("text", "rows", "tensors")}.get(family, ("rows", "tensors"))
    if len(signature.inputs) == 1 and signature.inputs[0].datatype == "BYTES":
        return ("text", "rows", "tensors")
    return ("rows", "tensors")


def digest_of(transforms: Transforms) -> str:
    """What tells steps apart: sha256 of their canonical form. The same in training, serving and scoring."""
    return hashlib.sha256(msgspec.json.encode(transforms, order="deterministic")).hexdigest()
