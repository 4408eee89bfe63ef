"""Bringing one version to life: fetch, verify, load, warm up, compare, measure. Blocking; runs off the loop.

A failed warm-up is a failed load: whatever goes wrong here leaves nothing behind but a reason.
"""

from time import monotonic, perf_counter

import msgspec
import numpy as np

from rung.catalog.golden import compare_golden, make_inputs, unpack_golden
from rung.domain.errors import BundleError, ModelError
from rung.domain.models import AspiredVersion, Manifest
from rung.domain.tensors import Signature, Tensors, TensorSpec
from rung.plugins import RUNTIMES, resolve
from rung.ports import Fetched, LoadOptions, Model, Source
from rung.serving.cost import CostModel
from rung.transforms.pipeline import Pipeline

__all__ = ["Loaded", "load"]

_BUDGET = 0.15
"""Seconds that measuring costs may take beyond the first call: cold start counts."""


class Loaded(msgspec.Struct, frozen=True):
    """A version that has answered its examples."""

    manifest: Manifest
    model: Model
    pipeline: Pipeline
    cost: CostModel


def load(source: Source, version: AspiredVersion, options: LoadOptions, objective: float) -> Loaded:
    """Load one version and prove that it works.

    Raises:
        BundleError: it may not be served, and why.
    """
    fetched = source.fetch(version)
    runtime = resolve(RUNTIMES, fetched.manifest.runtime, "runtime")()
    model: Model = runtime.load(fetched.artifact, msgspec.structs.replace(options, trusted=fetched.trusted))
    try:
        manifest = _settle_signature(fetched, model)
        pipeline = Pipeline.build(manifest)
        cost = CostModel(objective)
        _warm_up(fetched, manifest, model, cost, options.threads)
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
                raise BundleError(f"golden example {number} fails: {error}") from None
            reason = compare_golden(expected, answer, golden)
            if reason is not None:
                raise BundleError(f"golden example {number} is answered differently than at registration: {reason}")
        example = examples[0][0] if examples else make_inputs(manifest.signature, count=1)[0]
    else:
        example = make_inputs(manifest.signature, count=1)[0]
        try:
            answer = model.predict(example)
        except ModelError as error:
            if any(-1 in spec.shape[1:] for spec in manifest.signature.inputs):
                return  # the made-up sizes may be what it objects to; the first real request will tell
            raise BundleError(f"it cannot answer a made-up example: {error}") from None
        _refuse_nan(answer)
    _measure(model, manifest.signature, example, cost, threads)


def _refuse_nan(answer: Tensors) -> None:
    floats = [array for array in answer.values() if array.dtype.kind == "f" and array.size]
    if floats and all(np.isnan(array).all() for array in floats):
        raise BundleError("every number that it answers to a made-up example is NaN")


def _measure(model: Model, signature: Signature, example: Tensors, cost: CostModel, threads: int) -> None:
    """Learn what a call costs, in growing batches while that pays and time allows."""
    row = {name: array[:1] for name, array in example.items()} if signature.batched else example
    until = monotonic() + _BUDGET
    first = _timed(model, row, 1)
    cost.learn(1, first if first > 1e-3 else min(first, *(_timed(model, row, 1) for _ in range(8))))
    size = 2
    while signature.batched and size <= cost.largest and cost.cap == size // 2:
        inputs = {name: np.repeat(array, size, axis=0) for name, array in row.items()}
        expected = cost.estimate(1) * size
        if monotonic() + expected > until:
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
