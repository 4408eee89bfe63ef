"""Bringing one version to life: fetch, verify, load, warm up, compare, measure. Blocking; runs off the loop.

A failed warm-up is a failed load: whatever goes wrong here leaves nothing behind but a reason.
"""

from time import monotonic, perf_counter

import msgspec
import numpy as np
import structlog

from rung.catalog.golden import compare_golden, make_inputs, unpack_golden
from rung.domain.errors import BundleError, ModelError, WorkerDied
from rung.domain.models import AspiredVersion, Manifest
from rung.domain.tensors import Array, Signature, Tensors, TensorSpec
from rung.plugins import RUNTIMES, resolve
from rung.ports import Fetched, LoadOptions, Model, Source
from rung.serving.cost import CostModel
from rung.transforms.pipeline import Pipeline

__all__ = ["Loaded", "load"]

_BUDGET = 0.15
"""Seconds that measuring costs may take beyond the first call: cold start counts."""
_TWO = 0.25
"""Seconds that two rows together may take to be measured all the same: whoever started on a busy machine would never
again put any together.
"""
_log = structlog.get_logger("rung.serving")


class Loaded(msgspec.Struct, frozen=True):
    """A version that has answered its examples."""

    manifest: Manifest
    model: Model | None
    """None for a graph of other models."""
    pipeline: Pipeline
    cost: CostModel


def load(source: Source, version: AspiredVersion, options: LoadOptions, objective: float) -> Loaded:
    """Load one version and prove that it works.

    Raises:
        BundleError: it may not be served, and why.
    """
    fetched = source.fetch(version)
    if fetched.manifest.graph is not None:
        return Loaded(fetched.manifest, None, Pipeline.build(fetched.manifest), CostModel(objective))
    runtime = resolve(RUNTIMES, fetched.manifest.runtime, "runtime")()
    model: Model = runtime.load(fetched.artifact, msgspec.structs.replace(options, trusted=fetched.trusted))
    try:
        manifest = _settle_signature(fetched, model)
        pipeline = Pipeline.build(manifest)
        cost = CostModel(objective)
        _warm_up(fetched, manifest, model, cost, options.threads)
    except WorkerDied as error:
        model.close()
        raise _refusal("it cannot be measured", error) from None
    except BaseException:
        model.close()
        raise
    return Loaded(manifest, model, pipeline, cost)


def _settle_signature(fetched: Fetched, model: Model) -> Manifest:
    manifest = fetched.manifest
    if fetched.inferred:
        return msgspec.structs.replace(manifest, signature=model.signature)
    if model.signature != manifest.signature:
        raise BundleError(
            f"the artifact does not have the signature that its manifest states: "
            f"{_describe(model.signature)} instead of {_describe(manifest.signature)}"
        )
    return manifest


def _warm_up(fetched: Fetched, manifest: Manifest, model: Model, cost: CostModel, threads: int) -> None:
    golden = manifest.golden
    if golden is not None and fetched.folder is not None:
        examples = unpack_golden((fetched.folder / golden.file).read_bytes())
        for number, (inputs, expected) in enumerate(examples, start=1):
            try:
                answer = model.predict(inputs)
            except ModelError as error:
                raise _refusal(f"golden example {number} fails", error) from None
            reason = compare_golden(expected, answer, golden)
            if reason is not None:
                raise BundleError(f"golden example {number} is answered differently than at registration: {reason}")
        made: list[Tensors] = [inputs for inputs, _ in examples] or make_inputs(manifest.signature)
    else:
        made = make_inputs(manifest.signature)
        try:
            answer = model.predict(made[0])
        except ModelError as error:
            if any(-1 in spec.shape[1:] for spec in manifest.signature.inputs):
                return  # the made-up sizes may be what it objects to; the first real request will tell
            raise _refusal("it cannot answer a made-up example", error) from None
        _refuse_nan(answer)
    if manifest.signature.batched:
        made = [{name: array[:1] for name, array in example.items()} for example in made]
        if _mixes_rows(model, made):
            _log.warning(
                "its rows depend on each other or cannot be computed together: each is computed alone",
                action="not_batched",
                model=manifest.name,
                version=manifest.version,
            )
            cost.largest = 1
    _measure(model, manifest.signature, made[0], cost, threads)


def _refusal(what: str, error: ModelError) -> BundleError:
    """Where the process hung, the same bytes would hang again, each time for as long."""
    if isinstance(error, WorkerDied) and error.hung:
        way_out = "if it is slow and not stuck, set hang_seconds (RUNG_HANG_SECONDS) higher"
        return BundleError(f"{what}: {error}; {way_out}", final=True)
    return BundleError(f"{what}: {error}")


def _refuse_nan(answer: Tensors) -> None:
    floats = [array for array in answer.values() if array.dtype.kind == "f" and array.size]
    if floats and all(np.isnan(array).all() for array in floats):
        raise BundleError("every number that it answers to a made-up example is NaN")


def _mixes_rows(model: Model, rows: list[Tensors]) -> bool:
    """Whether two rows in one call are answered unlike each alone: a graph can claim a batch and not mean it.

    Such a model would give one caller what depends on another, so it is never given rows of two.
    """
    one = rows[0]
    shapes = {name: array.shape for name, array in one.items()}
    same = [row for row in rows[1:] if {name: array.shape for name, array in row.items()} == shapes]
    other = same[0] if same else {name: np.flip(array) for name, array in one.items()}
    try:
        alone = [model.predict(one), model.predict(other)]
    except ModelError:
        return False  # it does not like what was made up; the first real batch will tell
    try:
        both = model.predict({name: np.concatenate([array, other[name]]) for name, array in one.items()})
    except ModelError:
        return True
    if all(
        array.shape[:1] == (2,) and _close(array[number : number + 1], alone[number][name])
        for number in (0, 1)
        for name, array in both.items()
    ):
        return False
    # One that never answers the same twice tells nothing by answering differently.
    return all(_close(array, alone[0][name]) for name, array in model.predict(one).items())


def _close(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True))


def _measure(model: Model, signature: Signature, row: Tensors, cost: CostModel, threads: int) -> None:
    """Learn what a call costs, in growing batches while that pays and time allows."""
    until = monotonic() + _BUDGET
    first = _timed(model, row, 1)
    cost.learn(1, first if first > 1e-3 else min(first, *(_timed(model, row, 1) for _ in range(8))))
    size = 2
    while signature.batched and size <= cost.largest and (cost.inline or cost.cap == size // 2):
        inputs = {name: np.repeat(array, size, axis=0) for name, array in row.items()}
        expected = cost.estimate(1) * size
        if monotonic() + expected > until and not (size == 2 and expected <= _TWO):
            break
        cost.learn(size, min(_timed(model, inputs, 1) for _ in range(3 if expected < 5e-3 else 1)))
        size *= 2
    if threads > 1 and not cost.inline:
        _timed(model, row, threads)  # builds the wide session
        cost.wide = min(_timed(model, row, threads) for _ in range(2))


def _timed(model: Model, inputs: Tensors, threads: int) -> float:
    started = perf_counter()
    model.predict(inputs, threads)
    return perf_counter() - started


def _describe(signature: Signature) -> str:
    def side(specs: tuple[TensorSpec, ...]) -> str:
        return ", ".join(f"{spec.name}:{spec.datatype}{list(spec.shape)}" for spec in specs)

    return f"({side(signature.inputs)}) -> ({side(signature.outputs)})"
