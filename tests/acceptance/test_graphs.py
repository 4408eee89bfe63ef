"""Several models that answer as one, from the command line to HTTP."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx2
import onnx
import onnx.parser
import pytest

RUNG = shutil.which("rung", path=str(Path(sys.executable).parent)) or "rung"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, factor in (("double", 2.0), ("triple", 3.0)):
        text = f"""<ir_version: 9, opset_import: ["": 17]>
        {name} (float[n, 4] x) => (float[n, 4] y) {{ f = Constant<value_float = {factor}>() y = Mul(x, f) }}"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
        register(tmp_path, tmp_path / f"{name}.onnx")
    return tmp_path


def register(folder: Path, file: Path) -> subprocess.CompletedProcess[str]:
    command = [RUNG, "models", "register", str(file), "--repository", str(folder / "repository")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def write(folder: Path, name: str, graph: object) -> Path:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(graph))
    return path


STEPS = [{"model": "double", "outputs": {"y": "twice"}}, {"model": "triple", "inputs": {"x": "twice"}}]


def test_a_sequence_an_ensemble_and_a_switch_are_registered_and_served(repository, serve):
    for name, graph in {
        "six": {"kind": "sequence", "nodes": STEPS},
        "mean": {"kind": "ensemble", "nodes": [{"model": "double"}, {"model": "triple"}]},
        "pick": {"kind": "switch", "on": "kind", "nodes": [{"model": "double", "case": ["a"]}, {"model": "triple"}]},
    }.items():
        assert register(repository, write(repository, name, graph)).returncode == 0
    served = serve(str(repository / "repository"))

    def ask(model: str, body: object) -> httpx2.Response:
        return httpx2.post(f"{served.url}/predict/{model}", json=body, headers={"rung-timing": "1"})

    reply = ask("six", [[1, 2, 3, 4]])
    assert reply.json() == {"predictions": [[6, 12, 18, 24]]}
    assert "compute.double;dur=" in reply.headers["server-timing"]
    assert ask("mean", [[2, 2, 2, 2]]).json() == {"predictions": [[5, 5, 5, 5]]}
    rows = {"inputs": {"x": [[1, 1, 1, 1], [1, 1, 1, 1]], "kind": [["a"], ["b"]]}}
    assert ask("pick", rows).json() == {"predictions": [[2, 2, 2, 2], [3, 3, 3, 3]]}
    late = httpx2.post(f"{served.url}/predict/six", json=[[1, 2, 3, 4]], headers={"rung-timeout-ms": "0.001"})
    assert late.status_code == 504
    meta = httpx2.get(f"{served.url}/v2/models/six").json()
    assert (meta["platform"], meta["inputs"][0]["name"]) == ("ensemble", "x")


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ({"kind": "sequence", "nodes": [{"model": "nobody"}]}, "there is no model nobody"),
        ({"kind": "sequence", "nodes": [{"model": "double", "inputs": {"z": "x"}}]}, "double has no input 'z'"),
        ({"kind": "chain", "nodes": [{"model": "double"}]}, "kind"),
        ({"kind": "sequence", "nodes": [{"modell": "double"}]}, "modell"),
    ],
)
def test_a_graph_that_cannot_work_is_not_registered(repository, graph, words):
    refused = register(repository, write(repository, "bad", graph))
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
