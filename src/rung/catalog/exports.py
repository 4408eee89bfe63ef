"""Write a version as an MLflow model folder, which `mlflow models serve`, its registry and `mlflow.pyfunc` read.

MLflow itself is not needed for that: `MLmodel` is YAML (extra `mlflow`). The model is the artifact as it lies in the
repository, so nothing is converted and no pickle is written.
"""

import json
import platform
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import bundles
from rung.catalog.importers.plan import Left
from rung.catalog.models import show
from rung.domain.errors import Conflict, InvalidInput, MissingDependency
from rung.domain.models import Manifest
from rung.domain.tensors import DATATYPES, TensorSpec
from rung.ports import BlobStore, Fetched

__all__ = ["Exported", "export_mlflow"]

_NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "onnx": {"onnx": ("onnx",), "onnxruntime": ("onnxruntime",)},
    "sklearn": {"scikit-learn": ("scikit-learn",), "skops": ("skops",)},
    "xgboost": {"xgboost": ("xgboost", "xgboost-cpu")},
    "lightgbm": {"lightgbm": ("lightgbm",)},
}
"""Runtime -> what MLflow loads its models with -> distributions that bring it."""
_LOADER = {name: f"mlflow.{name}" for name in _NEEDS}
_COLUMN_TYPES = {
    "BOOL": "boolean",
    "INT32": "integer",
    "INT64": "long",
    "FP32": "double",  # MLflow refuses the doubles of a data frame where it reads float; a tree takes both
    "FP64": "double",
    "BYTES": "string",
}
"""Datatype -> MLflow's type of a column in a table; the others have none."""
_TEXT = "str"


class Exported(msgspec.Struct, frozen=True):
    """An MLflow model folder that was written."""

    name: str
    version: int
    flavor: str
    folder: Path
    left: tuple[Left, ...] = ()
    """What MLflow has no counterpart for."""


def export_mlflow(store: BlobStore, name: str, version: int | None, folder: Path) -> Exported:
    """Write a version, by default the latest, as an MLflow model into `folder`, which must be new or empty.

    Raises:
        NotFound: there is no such model or version.
        BundleError: its bytes are not those that were registered.
        Conflict: the folder holds something.
        InvalidInput: MLflow has no flavor for this kind of model.
        MissingDependency: PyYAML is not installed.
    """
    manifest = show(store, name, version)
    where = f"{name} version {manifest.version}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} holds something already: name a folder that is new or empty")
    if manifest.runtime not in {*_NEEDS, "mlflow"}:
        kind = "a graph of models" if manifest.graph is not None else f"a {manifest.runtime} model"
        raise InvalidInput(
            f"{where} is {kind}, which MLflow has no flavor for; it takes models of {', '.join(_NEEDS)}. "
            "Export it to ONNX, and register that",
            field="version",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that it appears at once and whole.
    with tempfile.TemporaryDirectory(prefix=".rung-export-", dir=folder.parent) as scratch:
        fetched = bundles.fetch(store, name, manifest.version, Path(scratch, "cache"))
        draft = Path(scratch, "model")
        if manifest.runtime == "mlflow":
            shutil.copytree(fetched.artifact, draft)
            flavor = "mlflow"
        else:
            _write(fetched, draft)
            flavor = manifest.runtime
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
    return Exported(name, manifest.version, flavor, folder, _left(manifest))


def _left(manifest: Manifest) -> tuple[Left, ...]:
    sides = (("before", manifest.transforms.input), ("after", manifest.transforms.output))
    left = [
        Left(f"step {side} the model: {step.name}", "MLflow hands tensors to the model, and returns its own")
        for side, steps in sides
        for step in steps
    ]
    if manifest.golden is not None:
        left.append(Left("golden examples", "MLflow does not check answers as it loads a model"))
    return tuple(left)


def _write(fetched: Fetched, folder: Path) -> None:
    try:
        import yaml
    except ImportError:
        raise MissingDependency('an MLmodel is written by PyYAML: pip install "rung[mlflow]"') from None
    manifest = fetched.manifest
    folder.mkdir()
    # With what lies beside it: weights of ONNX may be in files of their own.
    beside = [file for file in manifest.files if manifest.golden is None or file != manifest.golden.file]
    for file in beside:
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(fetched.folder or "", file), target)
    needs = _needs(manifest.runtime)
    declared: dict[str, Any] = {
        "flavors": {
            manifest.runtime: _flavor(manifest, folder, needs),
            "python_function": {
                "loader_module": _LOADER[manifest.runtime],
                "python_version": platform.python_version(),
                "env": {"virtualenv": "python_env.yaml"},
                **_data(manifest),
            },
        },
        "signature": _signature(manifest),
        "utc_time_created": manifest.created.replace("T", " ").partition("+")[0],
        "metadata": {"rung": {"name": manifest.name, "version": manifest.version, "task": manifest.task}},
    }
    (folder / "MLmodel").write_text(yaml.safe_dump(declared, sort_keys=False))
    asked = ["mlflow", *(f"{package}=={number}" if number else package for package, number in needs.items())]
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in asked))
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    (folder / "python_env.yaml").write_text(yaml.safe_dump(environment, sort_keys=False))


def _needs(runtime: str) -> dict[str, str]:
    """Packages with the versions that are here, or an empty text for one that is not."""
    found = {}
    for package, names in _NEEDS[runtime].items():
        found[package] = ""
        for name in names:
            try:
                found[package] = metadata.version(name)
                break
            except metadata.PackageNotFoundError:
                continue
    return found


def _data(manifest: Manifest) -> dict[str, Any]:
    if manifest.runtime == "sklearn":
        # What rung answers first: MLflow's function of the flavor has one output.
        return {"model_path": manifest.artifact, "predict_fn": "predict"}
    return {"data": manifest.artifact}


def _flavor(manifest: Manifest, folder: Path, needs: dict[str, str]) -> dict[str, Any]:
    artifact = manifest.artifact
    if manifest.runtime == "onnx":
        return {"onnx_version": needs["onnx"], "data": artifact, "providers": ["CPUExecutionProvider"], "code": None}
    if manifest.runtime == "sklearn":
        return {
            "pickled_model": artifact,  # MLflow calls it so whatever it is
            "serialization_format": "skops",
            "sklearn_version": needs["scikit-learn"],
            "skops_trusted_types": _types(folder / artifact),
            "code": None,
        }
    if manifest.runtime == "xgboost":
        return {
            "xgb_version": needs["xgboost"],
            "data": artifact,
            "model_class": "xgboost.core.Booster",
            "model_format": Path(artifact).suffix.lstrip(".") or "ubj",
            "code": None,
        }
    return {
        "lgb_version": needs["lightgbm"],
        "data": artifact,
        "model_class": "lightgbm.basic.Booster",
        "code": None,
    }


def _types(path: Path) -> list[str]:
    """The types in a `.skops` file beyond those that skops trusts itself; rung has let each of them in."""
    from rung.runtimes.sklearn_files import import_skops, open_skops

    open_skops(path)
    return [str(name) for name in import_skops(path.name).get_untrusted_types(file=path)]


def _signature(manifest: Manifest) -> dict[str, Any]:
    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    if manifest.runtime == "onnx":
        return {"inputs": json.dumps(_tensors(inputs)), "outputs": json.dumps(_tensors(outputs)), "params": None}
    # Its function returns what `predict` does, without a name.
    return {"inputs": json.dumps(_table(inputs)), "outputs": None, "params": None}


def _tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [
        {"type": "tensor", "name": spec.name, "tensor-spec": {"dtype": _dtype(spec), "shape": list(spec.shape)}}
        for spec in specs
    ]


def _table(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    """What an estimator takes: a frame of named columns where it has names, else one array without a name."""
    only = specs[0] if len(specs) == 1 else None
    columns = [(spec.name, spec.datatype) for spec in specs]
    if only is not None:
        columns = [(name, only.datatype) for name in only.columns]
    if not columns or any(datatype not in _COLUMN_TYPES for _, datatype in columns):
        return [field for field in _tensors(specs) if only is None or field.pop("name")]
    return [{"type": _COLUMN_TYPES[datatype], "name": name, "required": True} for name, datatype in columns]


def _dtype(spec: TensorSpec) -> str:
    return _TEXT if spec.datatype == "BYTES" else DATATYPES[spec.datatype].name
