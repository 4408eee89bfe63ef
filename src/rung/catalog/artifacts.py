"""Which runtime an artifact belongs to, told by name and first bytes; pickles are refused before anyone opens them."""

import zipfile
from pathlib import Path

from rung.domain.errors import BundleError
from rung.plugins import RUNTIMES, resolve
from rung.ports import Runtime
from rung.runtimes.torch_files import names_torchscript

__all__ = ["companions", "pickle_in", "recognise", "refuse_pickle"]

_PICKLE_NAMES = frozenset({".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt"})


def refuse_pickle(path: Path) -> None:
    """Raise `BundleError` for a file that can only be opened by unpickling it."""
    if _is_pickle(path):
        raise BundleError(
            f"{path.name} is a pickle: opening it would run whatever code it holds, so rung never does. "
            "Export the model to ONNX (torch.onnx.export for PyTorch, skl2onnx or skops for scikit-learn), "
            "PyTorch also by torch.export.save, or serve a class of your own as module:Class"
        )


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}:
        return True
    if start == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            # TorchScript names its parts so, but PyTorch reads them with a reader of its own that runs no code.
            return any(name.endswith(".pkl") for name in names) and not names_torchscript(names)
        except (zipfile.BadZipFile, OSError, NotImplementedError):
            return path.suffix.lower() in _PICKLE_NAMES
    return path.suffix.lower() in _PICKLE_NAMES


def pickle_in(folder: Path) -> Path | None:
    """The first pickle directly in a folder, if any."""
    return next((path for path in sorted(folder.iterdir()) if path.is_file() and _is_pickle(path)), None)


def recognise(path: Path) -> tuple[str, Path]:
    """Return the runtime's name and the artifact: `path` itself, or the one file of that folder that is a model.

    Raises:
        BundleError: a pickle, nothing that a runtime knows, or several models in the folder.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else []
    if path.is_file():
        refuse_pickle(path)
    for name in RUNTIMES:
        runtime: Runtime = resolve(RUNTIMES, name, "runtime")()
        if runtime.recognises(path):
            return name, path
        found = [file for file in files if runtime.recognises(file)]
        preferred = [file for file in found if file.stem == "model"]
        if len(found) == 1 or len(preferred) == 1:
            return name, (preferred or found)[0]
        if found:
            raise BundleError(f"{path} holds several models: {', '.join(file.name for file in found)}; keep one")
    for file in files:
        refuse_pickle(file)
    raise BundleError(f"{path} is no model that a runtime here knows ({', '.join(RUNTIMES)})")


def companions(artifact: Path) -> dict[str, Path]:
    """The files that go into a bundle for an artifact, by their path there.

    A folder goes whole. Beside a file go its external weights: `NAME.data`, `NAME_data`, `NAME_data_1`; and
    `NAME.signature.json`.
    """
    if artifact.is_dir():
        return {
            file.relative_to(artifact.parent).as_posix(): file for file in sorted(artifact.rglob("*")) if file.is_file()
        }
    weights = [file for mark in "._" for file in sorted(artifact.parent.glob(f"{_literal(artifact.name)}{mark}data*"))]
    stated = artifact.with_name(f"{artifact.name}.signature.json")
    return {file.name: file for file in (artifact, *weights, stated) if file.is_file()}


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
