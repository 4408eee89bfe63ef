"""MLflow model folders: the part of one that is data is handed to the runtime of its framework.

MLflow itself is not imported: its own loaders unpickle. Only `MLmodel` is read, as plain YAML (extra `mlflow`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import BundleError, MissingDependency
from rung.domain.tensors import Signature, Tensors, TensorSpec
from rung.plugins import RUNTIMES, resolve
from rung.ports import LoadOptions, Model, Runtime

__all__ = ["MlflowRuntime", "find_flavor", "read_mlmodel"]

_FILE = "MLmodel"
_LARGEST = 1 << 20
"""Bytes of an `MLmodel`; real ones have a few thousand."""
_FLAVORS = {
    "onnx": ("onnx",),
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
    "sklearn": ("sklearn",),
    "tensorflow": ("tensorflow",),
    "keras": ("tensorflow",),
    "pytorch": ("torch",),
}
"""Flavor -> runtimes that may know its data, in the order of preference where a model has several."""
_PATHS = ("data", "model_data", "pickled_model", "saved_model_dir", "model_file")
"""Entries of a flavor that name its data."""
_WAYS_OUT = {
    "sklearn": "save it again with mlflow.sklearn.save_model(..., serialization_format='skops')",
    "xgboost": "save the booster: mlflow.xgboost.save_model(model.get_booster(), ..., model_format='ubj')",
    "lightgbm": "save the booster: mlflow.lightgbm.save_model(model.booster_, ...)",
    "pytorch": "export it with torch.export or to ONNX (mlflow.onnx.save_model)",
}
_TEXT = frozenset({"object", "str", "string", "bytes"})
"""What MLflow calls the datatypes of text."""


class MlflowRuntime:
    """Loads MLflow model folders whose data is ONNX, skops, XGBoost, LightGBM, TensorFlow or exported PyTorch."""

    name = "mlflow"

    def recognises(self, path: Path) -> bool:
        """By its file `MLmodel`."""
        return (path / _FILE).is_file()

    def load(self, artifact: Path | str, options: LoadOptions) -> Model:
        """Hand the flavor's data to its runtime, and hold the answer against the signature in `MLmodel`.

        Raises:
            BundleError: no flavor without code, data outside the folder, or a signature that is not the model's.
            MissingDependency: PyYAML or the flavor's framework is not installed.
        """
        folder = Path(artifact)
        declared = read_mlmodel(folder)
        flavor, runtime, data = find_flavor(folder, declared)
        model: Model = resolve(RUNTIMES, runtime, "runtime")().load(data, options)
        if flavor == "sklearn":
            model = _as_pyfunc(model, _word(declared["flavors"].get("python_function", {}), "predict_fn"))
        try:
            model.signature = _settled(model.signature, declared.get("signature"))
        except BaseException:
            model.close()
            raise
        return model


def read_mlmodel(folder: Path) -> dict[str, Any]:
    """What the folder's `MLmodel` says; `flavors` is a dict of dicts.

    Raises:
        BundleError: there is none, or it is not what MLflow writes.
        MissingDependency: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingDependency(f'the MLflow model {folder.name} needs PyYAML: pip install "rung[mlflow]"') from None
    path = folder / _FILE
    try:
        if path.stat().st_size > _LARGEST:
            raise BundleError(f"{folder.name}/{_FILE} has {path.stat().st_size} bytes: MLflow did not write it")
        declared = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{folder.name}/{_FILE} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BundleError(f"{folder.name}/{_FILE} is not YAML: {' '.join(str(error).split())[:200]}") from None
    flavors = declared.get("flavors") if isinstance(declared, dict) else None
    if not isinstance(flavors, dict) or not all(isinstance(flavor, dict) for flavor in flavors.values()):
        raise BundleError(f"{folder.name}/{_FILE} names no flavors: MLflow did not write it")
    return {str(key): value for key, value in declared.items()}


def find_flavor(folder: Path, declared: dict[str, Any]) -> tuple[str, str, Path]:
    """Choose the flavor to serve: its name, the runtime, and the data to hand to it.

    Raises:
        BundleError: every flavor needs code or a pickle to be opened; the message names the way out.
    """
    flavors = declared["flavors"]
    for flavor, runtimes in _FLAVORS.items():
        for path in _data(folder, flavors[flavor]) if flavor in flavors else ():
            for name in runtimes:
                if name in RUNTIMES and _recognises(name, path):
                    return flavor, name, path
    known = [flavor for flavor in _FLAVORS if flavor in flavors]
    if known:
        flavor, stated = known[0], flavors[known[0]]
        how = _word(stated, "serialization_format") or _word(stated, "model_format")
        way = _WAYS_OUT.get(flavor, "export it to ONNX and save it with mlflow.onnx.save_model")
        raise BundleError(
            f"{folder.name} holds a {flavor} model{f' as {how}' if how else ''} that no runtime here can open as data, "
            f"and a pickle, which can run any code, is never opened: {way}"
        )
    loader = _word(flavors.get("python_function", {}), "loader_module")
    raise BundleError(
        f"{folder.name} has the flavors {', '.join(map(str, flavors)) or 'none'}"
        f"{f' (loader {loader})' if loader else ''}, which run Python code or a pickle of the model: that is never "
        "done. Save it with mlflow.onnx.save_model, or serve a class of your own as module:Class"
    )


def _word(flavor: dict[str, Any], key: str) -> str:
    """A text of the flavor, for a message; YAML's aliases can make anything else too large to print."""
    value = flavor.get(key)
    return value[:80] if isinstance(value, str) else ""


def _data(folder: Path, flavor: dict[str, Any]) -> Iterator[Path]:
    """What the flavor names and, where that is a folder, the files and folders in it."""
    root = folder.resolve()
    for key in _PATHS:
        name = flavor.get(key)
        if not isinstance(name, str) or not name:
            continue
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise BundleError(f"{folder.name}/{_FILE} names {name!r}, which lies outside the folder")
        yield path
        if path.is_dir():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.resolve().is_relative_to(root))


def _recognises(name: str, path: Path) -> bool:
    runtime: Runtime = resolve(RUNTIMES, name, "runtime")()
    return path.exists() and runtime.recognises(path)


class _Narrowed:
    """A model of which one output is asked for."""

    def __init__(self, model: Model, output: TensorSpec) -> None:
        self.signature = msgspec.structs.replace(model.signature, outputs=(output,))
        self.platform, self.lanes, self.inline = model.platform, model.lanes, model.inline
        self._model = model
        self._name = output.name

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        return {self._name: self._model.predict(inputs, threads)[self._name]}

    def close(self) -> None:
        self._model.close()


def _as_pyfunc(model: Model, function: str) -> Model:
    """What `pyfunc` of this folder answers: the estimator's `predict`, unless it was saved with another function."""
    name = {"": "label", "predict": "label", "predict_proba": "probabilities"}.get(function)
    output = next((spec for spec in model.signature.outputs if spec.name == name), None)
    return model if output is None or len(model.signature.outputs) == 1 else _Narrowed(model, output)


# --- signature ----------------------------------------------------------------------------------


def _settled(signature: Signature, declared: Any) -> Signature:
    """The model's own signature, with the names of columns that MLflow knows.

    Raises:
        BundleError: MLflow's signature is of another model.
    """
    if not isinstance(declared, dict):
        return signature
    inputs = _side("input", signature.inputs, declared.get("inputs"))
    outputs = _side("output", signature.outputs, declared.get("outputs"))
    return msgspec.structs.replace(signature, inputs=inputs, outputs=outputs)


def _side(side: str, specs: tuple[TensorSpec, ...], declared: Any) -> tuple[TensorSpec, ...]:
    try:
        fields = json.loads(declared) if isinstance(declared, str) else []
    except (ValueError, RecursionError):
        raise BundleError(f"{_FILE}: the {side} signature is not JSON") from None
    if not isinstance(fields, list) or not all(isinstance(field, dict) for field in fields):
        return specs
    tensors = [field for field in fields if field.get("type") == "tensor"]
    for field in tensors:
        _check_tensor(side, specs, field, sole=len(fields) == len(specs) == 1)
    names = tuple(str(field.get("name", "")) for field in fields)
    if tensors or not all(names) or len(specs) != 1 or len(specs[0].shape) != 2:
        return specs
    width = specs[0].shape[1]
    if side == "input" and width not in {-1, len(names)}:
        raise BundleError(f"{_FILE}: the signature has {len(names)} columns, the model takes {width}")
    if side == "output" or specs[0].columns:
        return specs
    return (msgspec.structs.replace(specs[0], columns=names),)


def _check_tensor(side: str, specs: tuple[TensorSpec, ...], field: dict[str, Any], *, sole: bool) -> None:
    """Names and sizes; of datatypes whether they are text: MLflow notes the training data's, not the model's."""
    name, stated = field.get("name"), field.get("tensor-spec")
    # Outputs without a name are those of MLflow's own predict, which reshapes and rounds.
    if not isinstance(stated, dict) or (name is None and (side == "output" or not sole)):
        return
    spec = specs[0] if sole else next((spec for spec in specs if name == spec.name), None)
    if spec is None:
        raise BundleError(f"{_FILE}: the signature has the {side} {name!r}, the model has {[s.name for s in specs]}")
    dtype, shape = str(stated.get("dtype")), stated.get("shape")
    if (dtype in _TEXT) != (spec.datatype == "BYTES"):
        raise BundleError(f"{_FILE}: the signature has {side} {spec.name!r} as {dtype}, the model as {spec.datatype}")
    if not isinstance(shape, list):
        return
    fits = len(shape) == len(spec.shape) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise BundleError(
            f"{_FILE}: the signature has {side} {spec.name!r} with shape {shape}, the model with {list(spec.shape)}"
        )
