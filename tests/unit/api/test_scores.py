"""Answers to data sets, asked over HTTP."""

from contextlib import closing

import polars as pl

from rung.offline.scoring.results import Answers
from rung.offline.scoring.scores import Scores
from rung.offline.scoring.tables import Identity

from .conftest import Open, Services


def test_a_key_has_its_answer_or_that_of_its_group(services: Services, open_api: Open) -> None:
    url = services.jobs.database.name
    answers = Answers(lambda results, rows: [], value="prediction")
    sink = Scores(url, Identity("tiny", 2, "2026-01-31"), ("id",), ("town",), answers)
    with closing(sink):
        sink.write(1, pl.DataFrame({"row": [1, 2], "id": ["a b", "c"], "town": ["x", "x"], "prediction": [1.0, 2.0]}))
        sink.finish()
    api = open_api(services)

    own = api.get("/models/tiny/scores", params={"key": "a b"}).json()
    assert (own["answer"], own["version"], own["as_of"]) == ({"prediction": 1.0}, 2, "2026-01-31")
    assert (own["fallback"], own["stale"], own["rows"]) == (False, False, 1)
    group = api.get("/models/tiny/scores", params={"key": "new", "group": "x"}).json()
    assert (group["answer"], group["fallback"], group["rows"]) == ({"prediction": 1.5}, True, 2)
    missing = api.get("/models/tiny/scores", params={"key": "new"})
    assert missing.status_code == 404
    assert "in no data set scored so far" in missing.json()["error"]
    shown = api.get("/models/tiny/scores/runs").json()
    assert shown["lookups"] == {"own": 1, "stale": 0, "group": 1, "missing": 1}
    assert [run["rows"] for run in shown["runs"]] == [2]


def test_a_question_that_makes_no_sense_is_the_callers_fault(services: Services, open_api: Open) -> None:
    api = open_api(services)
    for query in ("", "?key=a&max_age_seconds=old", "?key=a&as_of=" + "x" * 20, "?" + "&".join(["key=a"] * 30)):
        assert api.get(f"/models/tiny/scores{query}").status_code == 400, query
    assert api.get("/models/NOT%20A%20NAME/scores?key=a").status_code in (400, 404)
