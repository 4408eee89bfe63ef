"""`rung models import`: what other servers' users have is served after one command."""

import json
import subprocess
import sys
import zipfile

import httpx2
import numpy as np
import orjson

from rung.testing import models

SIMPLE = """
# As Triton's `simple`, with versions, labels, a wrong datatype and settings of a server.
name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0"
    data_type: TYPE_INT32
    dims: [ 16 ] },
  {
    name: "INPUT1"
    data_type: TYPE_INT32
    dims: [ 16 ]
  }
]
output [
  {
    name: "OUTPUT0"
    data_type: TYPE_INT32
    dims: [ 16 ]
  },
  {
    name: "OUTPUT1"
    data_type: TYPE_FP32
    dims: [ 16 ]
    label_filename: "labels.txt"
  }
]
version_policy: { specific { versions: [ 1, 3 ] } }
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
instance_group [ { count: 2 kind: KIND_CPU } ]
"""

TF_SERVING = """
model_config_list {
  config {
    name: 'half'
    base_path: '/models/half'
    model_platform: 'tensorflow'
    model_version_policy { latest { num_versions: 2 } }
    version_labels { key: 'stable' value: 1 }
  }
  config { name: "Double_Model" base_path: "/models/double/" }
  config { name: "gone" base_path: "/models/gone" }
  config { name: "bucket", base_path: "s3://bucket/model" }
}
"""


# What the first step adds, the second takes away.
CHAIN = """
platform: "ensemble"
input [ { name: "A" data_type: TYPE_INT32 dims: [ 16 ] }, { name: "B" data_type: TYPE_INT32 dims: [ 16 ] } ]
output { name: "BACK" data_type: TYPE_INT32 dims: [ 16 ] }
ensemble_scheduling {
  step {
    model_name: "simple" model_version: -1
    input_map { key: "INPUT0" value: "A" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT0" value: "sum" }
  }
  step {
    model_name: "simple" model_version: -1
    input_map { key: "INPUT0" value: "sum" } input_map { key: "INPUT1" value: "B" }
    output_map { key: "OUTPUT1" value: "BACK" }
  }
}
"""


def triton(folder):
    """A repository: a model, a Python model, an ensemble and one whose configuration is damaged."""
    for version in (1, 2, 3):
        (folder / "simple" / str(version)).mkdir(parents=True)
        models.add_sub(folder / "simple" / str(version) / "model.onnx")
    (folder / "simple/config.pbtxt").write_text(SIMPLE)
    (folder / "simple/labels.txt").write_text("cat\ndog\n")
    (folder / "script/1").mkdir(parents=True)
    (folder / "script/1/model.py").write_text("raise SystemExit('this code ran')")
    (folder / "script/config.pbtxt").write_text('name: "script" backend: "python"')
    for name, text in {"chain": CHAIN, "broken": "name: {"}.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text)
    return folder


def tf_serving(folder):
    for name, factors in {"half": (3.0, 2.0, 0.5), "double": (2.0,)}.items():
        for version, factor in enumerate(factors, start=1):
            (folder / name / str(version)).mkdir(parents=True)
            models.scale(folder / name / str(version) / "model.onnx", factor)
    (folder / "models.config").write_text(TF_SERVING)
    return folder / "models.config"


MLFLOW = """
import sys
from pathlib import Path
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from rung.testing import models

folder = Path(sys.argv[1])
folder.mkdir()
models.scale(folder / "model.onnx", 2.0)
model = Model()
model.add_flavor("onnx", onnx_version="1.23.0", data="model.onnx", providers=["CPUExecutionProvider"])
model.add_flavor("python_function", loader_module="mlflow.onnx", data="model.onnx")
model.save(str(folder / "MLmodel"))
client = MlflowClient()
client.create_registered_model("Double")
for _ in range(2):
    version = client.create_model_version("Double", str(folder.resolve()))
client.set_registered_model_alias("Double", "champion", version.version)
"""
"""Written by MLflow's own classes: `mlflow.onnx.save_model` calls these, and needs pandas besides."""


def mlflow(tmp_path):
    environment = {
        "MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": "",
    }
    script = [sys.executable, "-c", MLFLOW, str(tmp_path / "double")]
    subprocess.run(script, check=True, capture_output=True, env=environment, timeout=60)
    return environment


def mar(path, *, handler="image_classifier", file="model.onnx", extra=None, name="Cats", version="1.0", model=None):
    manifest = {
        "createdOn": "01/01/2024 00:00:00",
        "runtime": "python",
        "model": {"modelName": name, "serializedFile": file, "handler": handler, "modelVersion": version},
        "archiverVersion": "0.12.0",
    }
    if model is None:
        model = models.scale(path.with_name("inside.onnx"), 2.0).read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr(file, model)
        for entry, data in (extra or {}).items():
            archive.writestr(entry, data)
    return path


def answer(served, name, inputs, version=None):
    tensors = [
        {
            "name": key,
            "datatype": "INT32" if array.dtype == "i4" else "FP32",
            "shape": array.shape,
            "data": array.tolist(),
        }
        for key, array in inputs.items()
    ]
    path = f"/v2/models/{name}/versions/{version}/infer" if version else f"/v2/models/{name}/infer"
    done = httpx2.post(served.url + path, content=orjson.dumps({"inputs": tensors}))
    assert done.status_code == 200, done.text
    return {output["name"]: output["data"] for output in done.json()["outputs"]}


def test_triton_repository(rung, serve, tmp_path):
    triton(tmp_path / "model_repository")
    done = rung("models", "import", "model_repository")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "model_repository is a Triton model repository, model_repository"
    assert "imported simple version 1 (onnx) from simple/1/model.onnx" in lines
    assert "imported simple version 3 (onnx) from simple/3/model.onnx" in lines
    assert not any("version 2" in line for line in lines)
    left = {line.split(": ")[1] for line in lines if line.startswith("not carried over: ")}
    assert {"script", "broken", "simple"} <= left
    assert "imported chain version 1 (graph) from chain/config.pbtxt" in lines
    assert "not carried over: simple 1: output OUTPUT1: the configuration says FP32, the model INT32" in lines
    assert any("simple: dynamic_batching: not needed" in line for line in lines)
    assert "this code ran" not in done.stdout + done.stderr
    shown = json.loads(rung("models", "show", "simple", "3", "--json").stdout)
    assert (shown["labels"], shown["lineage"]["source"]) == (["cat", "dog"], "simple/3/model.onnx")

    served = serve(tmp_path / ".rung/repository", "--keep", "all")
    one, two = np.arange(16, dtype="i4").reshape(1, 16), np.ones((1, 16), "i4")
    for version in (1, 3):
        answers = answer(served, "simple", {"INPUT0": one, "INPUT1": two}, version)
        assert answers == {"OUTPUT0": list(range(1, 17)), "OUTPUT1": list(range(-1, 15))}
    assert answer(served, "chain", {"A": one, "B": two}) == {"BACK": list(range(16))}


def test_triton_repository_serves_where_it_lies(serve, tmp_path):
    served = serve(triton(tmp_path / "model_repository"), "--name", "simple")

    one = np.ones((1, 16), "i4")
    assert answer(served, "simple", {"INPUT0": one, "INPUT1": one})["OUTPUT0"] == [2] * 16


def test_tf_serving_config(rung, serve, tmp_path):
    tf_serving(tmp_path / "serving")
    done = rung("models", "import", "serving/models.config", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(each["name"], each["version"]) for each in report["imported"]] == [
        ("half", 2),
        ("half", 3),
        ("double_model", 1),
    ]
    left = {each["what"]: each["reason"] for each in report["left"]}
    assert {"half: version_labels", "gone", "bucket", "Double_Model: its name"} <= left.keys()
    assert "no folder /models/gone" in left["gone"]

    served = serve(tmp_path / ".rung/repository")
    row = np.ones((1, 4), "f4")
    assert answer(served, "half", {"x": row})["y"] == [0.5] * 4
    assert answer(served, "double_model", {"x": row})["y"] == [2.0] * 4


def test_mlflow_folder_and_registry(rung, serve, tmp_path):
    environment = mlflow(tmp_path)
    done = rung("models", "import", "double")
    assert done.returncode == 0, done.stderr
    assert "imported double version 1 (mlflow) from double" in done.stdout
    assert "not carried over: double: flavor python_function" in done.stdout
    for url, code in (("models:/Double/2", 0), ("models:/Double@champion", 1)):
        done = rung("models", "import", url, "--name", "double", env=environment)
        assert done.returncode == code, done.stderr
    assert "exists already" in done.stdout, "the alias is version 2, which has just come"
    done = rung("models", "import", "models:/Double@nobody", env=environment)
    assert done.returncode == 2
    assert "cannot be had" in done.stderr

    served = serve(tmp_path / ".rung/repository")
    assert answer(served, "double", {"x": np.ones((1, 4), "f4")})["y"] == [2.0] * 4
    served.end()
    served = serve(tmp_path / "double")
    assert answer(served, "double", {"x": np.ones((1, 4), "f4")})["y"] == [2.0] * 4


def test_mar(rung, serve, tmp_path):
    mar(
        tmp_path / "cats.mar",
        extra={"index_to_name.json": '{"0": ["n1", "cat"], "1": ["n2", "dog"]}', "notes.txt": "x"},
    )
    done = rung("models", "import", "cats.mar")
    assert done.returncode == 0, done.stderr
    assert "imported cats version 1 (onnx) from cats.mar: model.onnx" in done.stdout
    assert "not carried over: Cats: notes.txt: an extra file" in done.stdout
    shown = json.loads(rung("models", "show", "cats", "--json").stdout)
    assert (shown["labels"], shown["task"]) == (["cat", "dog"], "classification")

    served = serve(tmp_path / ".rung/repository")
    assert answer(served, "cats", {"x": np.ones((1, 4), "f4")})["y"] == [2.0] * 4


def test_mar_with_code(rung, tmp_path):
    marker = tmp_path / "ran"
    code = {"handler.py": f"open({str(marker)!r}, 'w')"}
    mar(tmp_path / "cats.mar", handler="handler.py", extra=code)
    done = rung("models", "import", "cats.mar")
    assert done.returncode == 1
    assert "handler.py" in done.stdout
    assert "--trust" in done.stdout
    done = rung("models", "import", "cats.mar", "--trust")
    assert done.returncode == 0, done.stderr
    assert "not carried over: Cats: handler.py: code is left behind" in done.stdout
    assert not marker.exists()


def test_what_is_nothing_to_import(rung, tmp_path):
    models.tiny(tmp_path / "model.onnx")
    for source, words in {
        "nowhere": "there is no file",
        "model.onnx": "rung models register",
        ".": "nothing that can",
    }.items():
        done = rung("models", "import", source)
        assert done.returncode == 2, source
        assert words in done.stderr
