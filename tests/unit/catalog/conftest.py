"""A runtime small enough to read: its artifact is JSON, its model multiplies by `factor`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rung import plugins
from rung.domain.errors import BundleError, ModelError
from rung.domain.tensors import Signature, Tensors, TensorSpec
from rung.ports import LoadOptions
from rung.store.blobs import DiskStore


class ScaleModel:
    platform = "scale"
    lanes = 1

    def __init__(self, factor: float, size: int) -> None:
        spec = (-1, size)
        self.signature = Signature((TensorSpec("x", "FP32", spec),), (TensorSpec("y", "FP32", spec),))
        self.factor = factor

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        if (inputs["x"] > 1e6).any():
            raise ModelError("too large")
        return {"y": inputs["x"] * np.float32(self.factor)}

    def close(self) -> None:
        pass


class ScaleRuntime:
    name = "scale"

    def recognises(self, path: Path) -> bool:
        return path.is_file() and path.suffix == ".scale"

    def load(self, artifact: Path | str, options: LoadOptions) -> ScaleModel:
        try:
            read: dict[str, Any] = json.loads(Path(artifact).read_bytes())
            if "weights" in read:
                factor = float(Path(artifact).with_name(read["weights"]).read_text())
            else:
                factor = read["factor"]
            return ScaleModel(factor, read.get("size", 4))
        except (ValueError, KeyError, OSError) as error:
            raise BundleError(f"{artifact} is no scale model: {error!r}") from None


@pytest.fixture(autouse=True)
def _scale_runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("scale_runtime_for_tests")
    module.ScaleRuntime = ScaleRuntime  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    # In their order, which says who is asked first: what `monkeypatch` deletes comes back the other way round.
    runtimes = dict(plugins.RUNTIMES)
    plugins.RUNTIMES.clear()
    plugins.RUNTIMES["scale"] = f"{module.__name__}:ScaleRuntime"
    yield
    plugins.RUNTIMES.clear()
    plugins.RUNTIMES.update(runtimes)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "model.scale"
    path.parent.mkdir()
    path.write_text('{"factor": 2}')
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def store(root: Path) -> DiskStore:
    return DiskStore(root)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
