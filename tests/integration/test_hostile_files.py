"""Thirty files that run code when somebody unpickles them, in every disguise. None may run, whoever opens it."""

import contextlib
import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rung.catalog.imports import import_models
from rung.catalog.models import register
from rung.catalog.source import open_source
from rung.domain.errors import RungError
from rung.ports import LoadOptions
from rung.serving.loader import load
from rung.store.blobs import open_store


class Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (open, (str(self.canary), "w"))


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/").replace("_DOT_", "."), data)
    return buffer.getvalue()


def numpy_of(bomb: Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([bomb], dtype=object), allow_pickle=True)
    return buffer.getvalue()


SKOPS = {"__class__": "Bomb", "__module__": "os", "__loader__": "ReduceNode", "content": {}, "protocol": 2}
DISGUISES: dict[str, Callable[[Bomb], bytes]] = {
    **{f"model.{end}": pickle.dumps for end in ("pkl", "pickle", "joblib", "bin", "model", "sav", "dat")},
    **{f"model.{end}": pickle.dumps for end in ("onnx", "skops", "pt", "pt2", "ts", "json", "ubj", "txt", "csv")},
    **{f"model.{end}": pickle.dumps for end in ("parquet", "arrow", "feather", "tflite", "npz", "mar")},
    "text.pkl": lambda bomb: pickle.dumps(bomb, protocol=0),
    "old.pt": lambda bomb: pickle.dumps(bomb, protocol=2),
    "archive.pt": lambda bomb: zipped(model__data_DOT_pkl=pickle.dumps(bomb), model__version=b"3"),
    "script.pt": lambda bomb: zipped(
        m__code__a_DOT_py=b"", m__constants_DOT_pkl=pickle.dumps(bomb), m__data_DOT_pkl=pickle.dumps(bomb)
    ),
    "nested.skops": lambda bomb: zipped(inner_DOT_zip=zipped(data_DOT_pkl=pickle.dumps(bomb))),
    "schema.skops": lambda bomb: zipped(schema_DOT_json=json.dumps(SKOPS).encode(), x_DOT_pkl=pickle.dumps(bomb)),
    "objects.npy": numpy_of,
    "objects.onnx": numpy_of,
    "packed.joblib": lambda bomb: gzip.compress(pickle.dumps(bomb)),
    "handler.mar": lambda bomb: zipped(
        MAR_INF__MANIFEST_DOT_json=json.dumps(
            {"model": {"modelName": "m", "serializedFile": "m.pt", "handler": "h.py", "modelVersion": "1"}}
        ).encode(),
        m_DOT_pt=pickle.dumps(bomb),
        h_DOT_py=b"open('ran', 'w')",
    ).replace(b"MAR_INF", b"MAR-INF"),
}


def test_there_are_thirty():
    assert len(DISGUISES) >= 30


@pytest.mark.parametrize("name", DISGUISES)
def test_nothing_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    canary = tmp_path / "ran"
    artifact = tmp_path / name
    artifact.write_bytes(DISGUISES[name](Bomb(canary)))
    folder = tmp_path / "repository" / "hostile" / "1"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(artifact.read_bytes())
    store = open_store(str(tmp_path / "store"))

    def serve(target: Path) -> None:
        source = open_source(str(target), None, tmp_path / "cache")
        for version in source.poll():
            load(source, version, LoadOptions(), 0.0)

    refused = 0
    for attempt in (
        lambda: register(store, artifact, name="hostile"),
        lambda: import_models(store, str(artifact)),
        lambda: serve(artifact),
        lambda: serve(tmp_path / "repository"),
    ):
        with contextlib.suppress(RungError):
            attempt()
            continue
        refused += 1
    assert not canary.exists()
    # An importer reports what it left, and a folder without models offers none: neither raises.
    assert refused >= 2, "a file that no runtime can read was taken for a model"
    assert [entry for entry in store.list("hostile") if entry.key.endswith("manifest.json")] == []
