"""The process in which a user's class runs: imports it, says what it declares, answers until the parent leaves."""

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec, datatype_of
from rung.processes import attach
from rung.runtimes.isolated_child import Declared, Predict, answer

__all__ = ["check_answer", "declared_by", "main", "specs_of"]

_MOST_LANES = 64
_NOT_THE_USERS = (__file__, "site-packages", "importlib")
"""Parts of file names that say whose code a line is."""


def main() -> None:
    """Run `python -m rung.runtimes.python_child REFERENCE SEARCH_PATH`."""
    channel = attach()
    reference, search_path = sys.argv[1:]

    def load() -> tuple[Declared, Predict]:
        model = _load(reference, search_path)
        declared = declared_by(model)
        signature = declared.signature
        return declared, lambda inputs, _threads: check_answer(model.predict(**inputs), signature, inputs)

    answer(channel, load, _describe)


def _load(reference: str, search_path: str) -> Any:
    module_name, _, class_name = reference.rpartition(":")
    sys.path.insert(0, search_path or str(Path.cwd()))
    if module_name.endswith(".py"):
        file = Path(search_path, module_name).resolve()
        if not file.is_file():
            raise BundleError(f"there is no file {file}")
        sys.path.insert(0, str(file.parent))
        module_name = file.stem
    module = importlib.import_module(module_name)
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        classes = [name for name, value in vars(module).items() if hasattr(value, "predict")]
        raise BundleError(f"there is no class {class_name!r} in {module_name}; with a predict method: {classes}")
    model = kind()
    if hasattr(model, "load"):
        model.load()
    return model


def declared_by(model: Any) -> Declared:
    """Read `inputs`, `outputs`, `batched` and `lanes` of a user's object.

    Raises:
        BundleError: one of them is missing or wrong, or `predict` does not take the inputs.
    """
    name = type(model).__name__
    inputs, outputs = (specs_of(name, side, getattr(model, side, None)) for side in ("inputs", "outputs"))
    vary = all(spec.shape[:1] == (-1,) for spec in inputs + outputs)
    batched = getattr(model, "batched", vary)
    if batched and not vary:
        raise BundleError(f"{name}.batched is set, so every shape has to begin with -1")
    lanes = getattr(model, "lanes", 1)
    if not isinstance(lanes, int) or not 1 <= lanes <= _MOST_LANES:
        raise BundleError(f"{name}.lanes is {lanes!r}; use a number of processes from 1 to {_MOST_LANES}")
    if not callable(getattr(model, "predict", None)):
        raise BundleError(f"{name} has no method predict")
    try:
        inspect.signature(model.predict).bind(**{spec.name: None for spec in inputs})
    except TypeError as error:
        raise BundleError(
            f"{name}.predict does not take the inputs {[spec.name for spec in inputs]}: {error}"
        ) from None
    return Declared(Signature(inputs, outputs, batched=bool(batched)), lanes)


def specs_of(name: str, side: str, value: Any) -> tuple[TensorSpec, ...]:
    """Read `{name: (datatype, shape)}`, the `side` ("inputs", "outputs") of what is called `name` in messages.

    Raises:
        BundleError: it is something else.
    """
    if not isinstance(value, Mapping) or not value:
        raise BundleError(f'{name}.{side} has to be a dict such as {{"x": ("FP32", [-1, 4])}}, not {value!r:.80}')
    specs = []
    for tensor, declared in value.items():
        try:
            datatype, shape = declared
            spec = TensorSpec(str(tensor), datatype, tuple(int(size) for size in shape))
        except (TypeError, ValueError):
            raise BundleError(f"{name}.{side}[{tensor!r}] has to be (datatype, shape), not {declared!r:.80}") from None
        if datatype not in DATATYPES:
            raise BundleError(f"{name}.{side}[{tensor!r}] has the datatype {datatype!r}; there are {list(DATATYPES)}")
        if any(size < -1 for size in spec.shape):
            raise BundleError(
                f"{name}.{side}[{tensor!r}] has the shape {list(shape)}; -1 stands for a size that varies"
            )
        specs.append(spec)
    return tuple(specs)


def check_answer(answer: Any, signature: Signature, inputs: Tensors) -> Tensors:
    """Return what `predict` gave as arrays that fit the signature.

    Lists and numbers are converted to the declared datatype, text to UTF-8; arrays have to have it already.

    Raises:
        ModelError: a name, datatype, shape or number of rows is not as declared.
    """
    names = [spec.name for spec in signature.outputs]
    if not isinstance(answer, Mapping):
        raise ModelError(f"predict returned {type(answer).__name__}; it has to return a dict with {names}")
    if set(answer) != set(names):
        raise ModelError(f"predict returned the outputs {list(answer)}; the class declares {names}")
    rows = inputs[signature.inputs[0].name].shape[0] if signature.batched else 0
    outputs = {}
    for spec in signature.outputs:
        array = _array(answer[spec.name], spec)
        if not spec.admits(array.shape):
            raise ModelError(
                f"output {spec.name!r} has shape {list(array.shape)}; the class declares {list(spec.shape)}"
            )
        if signature.batched and array.shape[0] != rows:
            raise ModelError(f"output {spec.name!r} has {array.shape[0]} rows for {rows} rows of input")
        outputs[spec.name] = array
    return outputs


def _array(value: Any, spec: TensorSpec) -> Array:
    want = DATATYPES[spec.datatype]
    try:
        # As objects at once: numpy's own text types drop zeros at the end.
        text = spec.datatype == "BYTES" and not isinstance(value, np.ndarray)
        array = np.asarray(value, want if text else None)
        if spec.datatype == "BYTES" and array.dtype.kind in "OSU":
            encoded = [_bytes(element) for element in array.ravel().tolist()]
            return np.array(encoded, want).reshape(array.shape)
        if array.dtype == want:
            return array
        have = datatype_of(array)
    except (TypeError, ValueError, InvalidInput) as error:
        raise ModelError(f"output {spec.name!r} cannot be made an array of {spec.datatype}: {error}") from None
    if not isinstance(value, np.ndarray) and np.can_cast(array.dtype, want, "same_kind"):
        return array.astype(want)
    raise ModelError(f"output {spec.name!r} has datatype {have}; the class declares {spec.datatype}")


def _bytes(element: Any) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode()
    raise TypeError(f"{type(element).__name__} is neither text nor bytes")


def _describe(error: Exception) -> str:
    """Print where it came from; return type, message and the line of the user's code that raised it, or called it."""
    traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(part in frame.filename for part in _NOT_THE_USERS)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno}: {own[-1].line})" if own else ""
    return f"{type(error).__name__}: {error}"[:500] + where


if __name__ == "__main__":
    main()
