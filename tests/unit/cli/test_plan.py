import json

import numpy as np
import pytest

from rung.cli.plan import Wanted, run
from rung.domain.errors import InvalidData, InvalidInput, NotFound
from rung.fleet.planning import fluid

TRACE = "timestamp,requests\n" + "".join(f"{60 * minute},{120 + 600 * (minute == 5)}\n" for minute in range(10))


@pytest.fixture
def wanted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fluid, "_DRAWN", 1_000)
    trace = tmp_path / "trace.csv"
    trace.write_text(TRACE)

    def make(**changes) -> Wanted:
        given = {"objective": "500ms", "prices": None, "model": "", "cost": "1=100ms", "lanes": 1, "peak": None}
        return Wanted(trace=trace, start=0.0, hours=None, out=None, **(given | changes))

    return make


def test_json_is_for_programs(wanted, capsys):
    run(wanted(), "", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["trace"]["requests"] == pytest.approx(1800)
    assert {one["policy"] for one in found["options"]} >= {"fixed", "autoscaled", "threshold"}
    assert all(one["price"] == 0 for one in found["options"])
    assert found["best"]["platform"] == "here"


def test_people_read_the_knee_and_what_is_cheapest(wanted, capsys):
    run(wanted(peak=100.0), "", as_json=False)
    said = capsys.readouterr().out
    assert "100/s at the peak" in said
    assert "the knee: one replica holds 500 ms for 99 % up to" in said
    assert "cheapest that holds the objective: " in said
    assert "PRICE" not in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "fast"}, "objective 'fast' is no time"),
        ({"objective": "0ms"}, "is no time"),
        ({"cost": "20ms"}, "cost '20ms' cannot be read: write ROWS=TIME"),
        ({"cost": "2=20ms"}, "what a call of one row takes"),
        ({"cost": "1=20"}, "cost '20' is no time"),
        ({"cost": "0=20ms"}, "cannot be read"),
    ],
)
def test_a_slip_on_the_command_line(wanted, changes, said):
    with pytest.raises(InvalidInput, match=said):
        run(wanted(**changes), "", as_json=False)


def test_without_a_cost_there_has_to_be_a_model(wanted, tmp_path):
    with pytest.raises(
        NotFound, match="say which model is planned for, with --model NAME or --cost: there is none here"
    ):
        run(wanted(cost=""), str(tmp_path / "repository"), as_json=False)


def test_the_cost_of_a_model_is_measured_as_a_replica_does(wanted, tmp_path, capsys):
    from rung.catalog import models
    from rung.store.blobs import open_store
    from rung.testing.models import tiny

    repository = str(tmp_path / "repository")
    models.register(open_store(repository), tiny(tmp_path / "tiny.onnx"), name="tiny")
    run(wanted(cost="", peak=50.0), repository, as_json=True)
    cost = {int(rows): seconds for rows, seconds in json.loads(capsys.readouterr().out)["cost"].items()}
    assert 1 in cost
    assert np.isfinite(list(cost.values())).all()
    with pytest.raises(NotFound, match="there is no model 'other'; there are tiny"):
        run(wanted(cost="", model="other"), repository, as_json=False)


def test_hours_that_are_not_in_the_trace(wanted):
    with pytest.raises(InvalidData, match="nothing is in it"):
        given = wanted()
        run(
            type(given)(**{name: getattr(given, name) for name in given.__struct_fields__} | {"start": 9.0}),
            "",
            as_json=False,
        )
