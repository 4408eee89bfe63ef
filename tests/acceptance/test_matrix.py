"""Every runtime through every door: one server, the same row, the same answer. Prints the matrix with `-s`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import tritonclient.http

from rung.testing import models, models_deep, models_tabular

TYPES = {"BYTES": object, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "INT32": np.int32}


def table(path: Path) -> Path:
    path.write_text("key,a,b\n1,0.5,1.5\n2,2.5,3.5\n")
    return path


def skops(path: Path) -> Path:
    return models_tabular.save_skops(path, models_tabular.estimator("forest"))


def mlflow(path: Path) -> Path:
    path.mkdir()
    models.scale(path / "model.onnx", 2.0)
    (path / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n    onnx_version: 1.23.2\n")
    return path


def python(path: Path) -> Path:
    path.write_text(
        "class Doubler:\n"
        '    inputs = {"x": ("FP32", [-1, 4])}\n'
        '    outputs = {"y": ("FP32", [-1, 4])}\n\n'
        "    def predict(self, x):\n"
        '        return {"y": x * 2}\n'
    )
    return path


RUNTIMES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    # runtime: (file, what makes it, package without which it is skipped)
    "onnx": ("double.onnx", lambda path: models.scale(path, 2.0), "onnx"),
    "python": ("doubler.py", python, "numpy"),
    "sklearn": ("forest.skops", skops, "skops"),
    "xgboost": ("trees.json", models_tabular.xgboost_model, "xgboost"),
    "lightgbm": ("boosted.txt", models_tabular.lightgbm_model, "lightgbm"),
    "torch pt2": ("exported.pt2", models_deep.exported, "torch"),
    "torchscript": ("scripted.pt", models_deep.torchscript, "torch"),
    "tensorflow": ("saved", models_deep.saved_model, "tensorflow"),
    "litert": ("lite.tflite", models_deep.litert, "ai_edge_litert"),
    "table": ("lookup.csv", table, "numpy"),
    "mlflow": ("folder", mlflow, "yaml"),
}


def row_for(meta: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        spec["name"]: np.ones([max(size, 1) for size in spec["shape"]], TYPES[spec["datatype"]])
        for spec in meta["inputs"]
    }


def by_oip_json(url: str, name: str, row: dict[str, np.ndarray], meta: dict[str, Any]) -> Any:
    kinds = {spec["name"]: spec["datatype"] for spec in meta["inputs"]}
    inputs = [
        {"name": key, "shape": array.shape, "datatype": kinds[key], "data": array.ravel().tolist()}
        for key, array in row.items()
    ]
    reply = httpx2.post(f"{url}/v2/models/{name}/infer", json={"inputs": inputs}).raise_for_status()
    return {output["name"]: output["data"] for output in reply.json()["outputs"]}


def by_oip_binary(url: str, name: str, row: dict[str, np.ndarray], meta: dict[str, Any]) -> Any:
    kinds = {spec["name"]: spec["datatype"] for spec in meta["inputs"]}
    with tritonclient.http.InferenceServerClient(url.removeprefix("http://")) as client:
        inputs = [tritonclient.http.InferInput(key, list(array.shape), kinds[key]) for key, array in row.items()]
        for tensor in inputs:
            tensor.set_data_from_numpy(row[tensor.name()])
        answer = client.infer(name, inputs)
        return {spec["name"]: answer.as_numpy(spec["name"]) for spec in meta["outputs"]}


def posted(path: str, body: Callable[[Any, dict[str, Any]], Any], field: str = "predictions") -> Callable[..., Any]:
    """A door that takes rows as JSON; `body` gets the row as people write it and the named columns."""

    def ask(url: str, name: str, row: dict[str, np.ndarray], meta: dict[str, Any]) -> Any:
        named = {key: array[0].tolist() for key, array in row.items()}
        plain = next(iter(named.values())) if len(named) == 1 else named
        reply = httpx2.post(url + path.format(name=name), json=body(plain, named)).raise_for_status().json()
        answer = reply[field] if field else reply
        return answer[0] if field else answer

    return ask


DOORS: dict[str, Callable[..., Any]] = {
    "OIP JSON": by_oip_json,
    "OIP binary": by_oip_binary,
    "/predict": posted("/predict/{name}", lambda row, named: [row]),
    "/batch": posted("/predict/{name}/batch", lambda row, named: [row, row]),
    "TF Serving": posted("/v1/models/{name}:predict", lambda row, named: {"instances": [row]}),
    "KServe v1": posted("/v1/models/{name}:predict", lambda row, named: {"instances": [named]}),
    "MLflow": posted("/invocations?model={name}", lambda row, named: {"instances": [row]}),
    "SageMaker": posted("/models/{name}/invoke", lambda row, named: {"instances": [row]}),
    "TorchServe": posted("/predictions/{name}", lambda row, named: [row], field=""),
}


def numbers(answer: Any) -> list[float]:
    """All numbers of an answer, outputs by name, however the protocol nests them."""
    if isinstance(answer, dict):
        return [number for name in sorted(answer) for number in numbers(answer[name])]
    if isinstance(answer, list):
        return [number for item in answer for number in numbers(item)]
    if isinstance(answer, np.ndarray):
        return numbers(answer.tolist())
    return [float(answer)]


def test_every_runtime_answers_the_same_through_every_door(tmp_path, serve):
    targets, names = [], {}
    for runtime, (file, make, package) in RUNTIMES.items():
        try:
            __import__(package)
        except ImportError:
            continue
        make(tmp_path / file)
        target = f"{tmp_path / file}:Doubler" if runtime == "python" else str(tmp_path / file)
        targets.append(target)
        names[runtime] = "doubler" if runtime == "python" else Path(file).stem
    if len(names) < 3:
        pytest.skip("no framework but the core is installed")
    served = serve(*targets)
    matrix: dict[str, dict[str, str]] = {}
    for runtime, name in names.items():
        meta = httpx2.get(f"{served.url}/v2/models/{name}").raise_for_status().json()
        row = row_for(meta)
        expected = numbers(by_oip_json(served.url, name, row, meta))
        assert expected, runtime
        for door, ask in DOORS.items():
            try:
                got = numbers(ask(served.url, name, row, meta))
                np.testing.assert_allclose(got, expected, rtol=1e-6)
                matrix.setdefault(runtime, {})[door] = "yes"
            except Exception as error:  # noqa: BLE001 - the matrix shows every failure, not the first
                matrix.setdefault(runtime, {})[door] = f"{type(error).__name__}: {str(error)[:300]}"
    print("\n" + " | ".join(["runtime", *DOORS]))
    for runtime, answers in matrix.items():
        print(" | ".join([runtime, *(answers[door][:20] for door in DOORS)]))
    failed = {
        f"{runtime} by {door}": said for runtime, row in matrix.items() for door, said in row.items() if said != "yes"
    }
    assert failed == {}
