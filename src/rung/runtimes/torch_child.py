"""The process in which PyTorch runs a model."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.domain.errors import BundleError
from rung.domain.tensors import Array, Signature, Tensors, TensorSpec
from rung.processes import attach
from rung.runtimes.isolated_child import Declared, Predict, answer, check_fits, sandbox, summary
from rung.runtimes.python_child import specs_of
from rung.runtimes.torch_files import check_exported

__all__ = ["main"]

_SIGNATURE = "signature.json"
_PROBES = ((2, 64), (3, 96))
"""Sizes that stand for rows and for other sizes that vary, in two calls that show which sizes of an answer follow."""
_NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "bfloat16": "BF16",
}  # fmt: skip

Call = Callable[[list[Any]], dict[str, Any]]
"""Tensors in the order of the signature -> named tensors."""


def main() -> None:
    """Run `python -m rung.runtimes.torch_child exported|script FILE`."""
    channel = attach()
    sandbox()
    kind, file = sys.argv[1:]
    answer(channel, lambda: _load(kind, Path(file)), summary)


def _load(kind: str, path: Path) -> tuple[Declared, Predict]:
    import torch

    torch.set_num_threads(1)
    try:
        signature, call = (_exported if kind == "exported" else _script)(path)
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(summary(error)) from error

    def predict(inputs: Tensors, threads: int) -> Tensors:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        given = [_tensor(inputs[spec.name], spec.datatype) for spec in signature.inputs]
        with torch.inference_mode():
            named = call(given)
        return check_fits({name: _array(value) for name, value in named.items()}, signature, inputs)

    return Declared(signature), predict


def _exported(path: Path) -> tuple[Signature, Call]:
    import torch
    from torch.export.passes import move_to_device_pass
    from torch.export.pt2_archive._package import load_pt2
    from torch.utils import _pytree as pytree

    reader = torch._C.PyTorchFileReader(str(path))
    check_exported(reader.get_all_records(), reader.get_record)
    # Not torch.export.load: it falls back to an older format, whose objects are pickles.
    with path.open("rb") as file:
        # It may have been exported on a machine with other devices.
        program = move_to_device_pass(load_pt2(file).exported_programs["model"], "cpu")
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
    values: list[Any] = []
    inputs: list[tuple[str, Any]] = []
    places: list[int] = []
    for number, name in enumerate(program.graph_signature.user_inputs):
        value = nodes.get(name) if isinstance(name, str) else name
        values.append(value)
        if isinstance(value, torch.Tensor):
            places.append(number)
            inputs.append((name, value))
        elif isinstance(name, str) and value is not None:
            raise BundleError(f"the input {name!r} is no tensor; export the model with it as a constant")
    flat = [nodes.get(name) if isinstance(name, str) else None for name in program.graph_signature.user_outputs]
    names = _output_names(program.call_spec.out_spec, len(flat))
    outputs = [(name, value) for name, value in zip(names, flat, strict=True) if isinstance(value, torch.Tensor)]
    if not inputs or not outputs:
        raise BundleError("it takes or gives no tensors, so it cannot be served")
    module, in_spec = program.module(), program.call_spec.in_spec

    def call(given: list[Any]) -> dict[str, Any]:
        for place, tensor in zip(places, given, strict=True):
            values[place] = tensor
        args, kwargs = pytree.tree_unflatten(values, in_spec)
        leaves = pytree.tree_leaves(module(*args, **kwargs), is_leaf=lambda leaf: leaf is None)
        return {name: leaf for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, torch.Tensor)}

    rows = [value.shape[0] if value.ndim else 1 for _, value in inputs + outputs]
    batched = all(isinstance(size, torch.SymInt) for size in rows) and len({str(size) for size in rows}) == 1
    sides = [tuple(_spec(name, value) for name, value in side) for side in (inputs, outputs)]
    return Signature(sides[0], sides[1], batched=batched), call


def _output_names(spec: Any, count: int) -> list[str]:
    keys = spec.context if spec.type is dict else None
    if keys and len(keys) == count and all(isinstance(key, str) for key in keys):
        return list(keys)
    return [f"output_{number}" for number in range(count)]


def _spec(name: str, value: Any) -> TensorSpec:
    kind = str(value.dtype).removeprefix("torch.")
    if kind not in _NAMES:
        raise BundleError(f"{name!r} is a tensor of {kind}, which cannot be served; cast it to float32")
    return TensorSpec(name, _NAMES[kind], tuple(size if type(size) is int else -1 for size in value.shape))


def _script(path: Path) -> tuple[Signature, Call]:
    import torch

    for name, code in _sources(path):
        if "from_file(" in code or "torch.save(" in code or "ops.aten.save" in code:
            raise BundleError(f"it reads or writes files ({name}), which a model may not")
    extra = {_SIGNATURE: ""}
    module: Any = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)  # type: ignore[no-untyped-call]
    module.eval()
    stated = _stated(path, extra[_SIGNATURE])
    arguments = {argument.name: argument for argument in module.forward.schema.arguments[1:]}
    needed = [name for name, argument in arguments.items() if not argument.has_default_value()]
    if stated is None:
        example = json.dumps({"inputs": {name: ["FP32", [-1, 16]] for name in needed}})
        raise BundleError(
            f"TorchScript keeps no shapes, so those of its inputs {needed} have to be stated: put {example}, with the "
            f"datatypes and shapes that are true, into a file {path.name}.{_SIGNATURE} beside it, or save it by "
            f'torch.jit.save(model, path, _extra_files={{"{_SIGNATURE}": ...}}). A .pt2 of torch.export has them inside'
        )
    inputs = specs_of(_SIGNATURE, "inputs", stated.get("inputs"))
    unknown = [spec.name for spec in inputs if spec.name not in arguments]
    missing = [name for name in needed if name not in {spec.name for spec in inputs}]
    if unknown or missing:
        raise BundleError(
            f"{_SIGNATURE} names the inputs {[spec.name for spec in inputs]}; forward takes {list(arguments)}"
        )

    def call(given: list[Any]) -> dict[str, Any]:
        return _named(module(**{spec.name: tensor for spec, tensor in zip(inputs, given, strict=True)}))

    outputs = specs_of(_SIGNATURE, "outputs", stated["outputs"]) if "outputs" in stated else _probed(call, inputs)
    vary = all(spec.shape[:1] == (-1,) for spec in inputs + outputs)
    return Signature(inputs, outputs, batched=vary and stated.get("batched", True) is True), call


def _sources(path: Path) -> list[tuple[str, str]]:
    import torch

    reader = torch._C.PyTorchFileReader(str(path))
    names = [name for name in reader.get_all_records() if name.startswith("code/") and name.endswith(".py")]
    return [(name, reader.get_record(name).decode(errors="replace")) for name in names]


def _stated(path: Path, inside: str | bytes) -> dict[str, Any] | None:
    beside = path.with_name(f"{path.name}.{_SIGNATURE}")
    text = beside.read_bytes() if beside.is_file() else inside
    if not text:
        return None
    try:
        stated = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{_SIGNATURE} is not JSON: {error}") from None
    if not isinstance(stated, dict):
        raise BundleError(f'{_SIGNATURE} has to be {{"inputs": {{...}}}}')
    return stated


def _named(result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return {str(name): value for name, value in result.items()}
    values = result if isinstance(result, tuple | list) else [result]
    return {f"output_{number}": value for number, value in enumerate(values)}


def _probed(call: Call, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """What comes out, learnt from two calls with inputs of different sizes."""
    import torch

    answers = []
    for rows, others in _PROBES:
        shapes = [
            [size if size >= 0 else others if axis else rows for axis, size in enumerate(spec.shape)] for spec in inputs
        ]
        given = [torch.ones(shape, dtype=_dtype(spec.datatype)) for spec, shape in zip(inputs, shapes, strict=True)]
        try:
            with torch.inference_mode():
                answers.append(call(given))
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            raise BundleError(
                f"it fails on ones of the shapes {shapes}: {summary(error)}. Where its inputs are as stated, "
                f'state "outputs" in {_SIGNATURE} too'
            ) from None
    first, second = answers
    for name, value in first.items():
        if not isinstance(value, torch.Tensor) or value.ndim != second[name].ndim:
            raise BundleError(f"output {name!r} is no tensor of one rank, which cannot be served")
    fixed = {name: _spec(name, value) for name, value in first.items()}
    return tuple(
        TensorSpec(
            name,
            spec.datatype,
            tuple(size if size == other else -1 for size, other in zip(spec.shape, second[name].shape, strict=True)),
        )
        for name, spec in fixed.items()
    )


def _dtype(datatype: str) -> Any:
    import torch

    for kind, name in _NAMES.items():
        if name == datatype:
            return getattr(torch, kind)
    raise BundleError(f"PyTorch takes no tensors of {datatype}")


def _tensor(array: Array, datatype: str) -> Any:
    import torch

    if datatype == "BF16":
        # numpy has no bfloat16: the bits travel as integers.
        return torch.from_numpy(array.view("<i2")).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(value: Any) -> Array:
    import torch

    value = value.detach().contiguous()
    if value.dtype == torch.bfloat16:
        bits: Array = value.view(torch.int16).numpy().view("<u2")
        return bits
    array: Array = value.numpy()
    return array


if __name__ == "__main__":
    main()
