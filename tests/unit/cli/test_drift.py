"""A log in a folder of its own, rows to compare with in a file, and the real command."""

import json
import time
from pathlib import Path

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from rung.catalog import models
from rung.cli import app
from rung.domain.errors import InvalidData, NotFound
from rung.domain.identity import Keyring
from rung.domain.packing import pack
from rung.domain.records import PredictionRecord
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter
from rung.testing import models_tasks


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rung.toml").write_text("[models.price.drift]\nwindow = 200\n")
    rng = np.random.default_rng(1)
    lines = [f"{a:.4f},{b:.4f}" for a, b in rng.normal(size=(3_000, 2))]
    Path("before.csv").write_text("\n".join(["a,b", *lines]))
    path = models_tasks._save(
        tmp_path / "line.onnx",
        "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
        {"weight": np.array([[2.0], [1.0]], np.float32)},
    )
    models.register(DiskStore(Path(".rung/repository")), path, name="price")
    writer = SegmentWriter(Path(".rung/log"), replica="r0")
    writer.open()
    start = time.time() - 1_000
    for number in range(600):
        a, b = (round(float(one), 3) for one in rng.normal(size=2))
        a = round(a + (0.9 if number >= 200 else 0.0), 3)
        said = float(np.float32(2 * a + b)) + (5.0 if number >= 590 else 0.0)
        identity = Keyring(bytes(32), number).mint("price", 1, "", 1)(start + number)
        writer.append(
            PredictionRecord(
                identity,
                start + number,
                "price",
                1,
                unit=f"u{number}",
                body=orjson.dumps([[a, b]]),
                media="application/json",
                door="predict",
                inputs=pack({"x": np.array([[a + (number == 595), b]], np.float32)}) if number >= 580 else None,
                output_summary={"y": (said, said, said)},
            )
        )
    writer.commit([]).result(30)
    writer.close()

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["drift", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_a_table_names_the_column_and_the_page_is_written(run):
    result = run("price", "--against", "before.csv", "--replay", "50")
    assert result.exit_code == 0
    assert "drift is confirmed in 2 of 3 windows: a" in result.output
    assert "the column that moved most is a" in result.output
    assert "covariate drift" in result.output
    assert "skew: 10 of 50 replayed requests come out otherwise: 20.0%" in result.output
    assert "features: of 20 requests prepared anew, x differs in 1" in result.output
    assert "worst: feature x[0, 0] of " in result.output
    assert Path(".rung/drift/price.html").exists()


def test_only_who_asks_for_it_gets_a_failure(run):
    assert run("price", "--against", "before.csv", "--fail", "--report", "out/page.html").exit_code == 1
    assert "data:image/png" in Path("out/page.html").read_text()
    assert run("price", "--against", "before.csv", "--window", "20", "--fail", "--json").exit_code in (0, 1)


def test_json_is_the_report(run):
    found = json.loads(run("price", "--against", "before.csv", "--json", "--replay", "5").output)
    assert found["confirmed"] is True
    assert found["worst"] == "a"
    assert found["triage"]["kind"] == "covariate drift"
    assert found["skew"]["compared"] == 5
    assert not Path(".rung/drift").exists()


def test_requests_are_answered_again_where_nothing_is_known_of_the_training_data(run):
    said = run("price", "--replay", "50").output
    assert "skew: 10 of 50 replayed requests come out otherwise" in said
    assert "note: no drift is measured: " in said
    assert json.loads(run("price", "--replay", "50", "--json").output)["skew"]["mismatched"] == 10
    with pytest.raises(NotFound):
        run("price", "--replay", "50", "--fail")  # whoever wants to be stopped by drift must not pass unmeasured


def test_what_is_wrong_is_said(run):
    with pytest.raises(NotFound, match="--against"):
        run("price")
    with pytest.raises(NotFound):
        run("other")
    Path("empty.csv").write_text("a,b\n")
    with pytest.raises(InvalidData):
        run("price", "--against", "empty.csv")
