"""The loop in its long form: a year of bike rentals in time order, labels that come a month late, a model that follows.

Version 1 knows 2011. In 2012 many more people ride. After each quarter the model is trained anew on what was asked and
has a label by then, and old and new are asked about the quarter that follows.
"""

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "bike_sharing" / "hour.csv"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.data,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_file(), reason="the rentals do not lie beside the repository"),
]

# No season and no month: whoever learned from the last months only would find the next one strange, and rightly.
COLUMNS = [
    "hr",
    "holiday",
    "weekday",
    "workingday",
    "weathersit",
    "temp",
    "atemp",
    "hum",
    "windspeed",
]
PROJECT = f"""
[project]
name = "bikes"

[control]
port = 0

[serve]
port = 0

[models.bikes]
task = "regression"
train = "model:train"
metric = "mae"
params = {{ rounds = 200, rate = 0.1, depth = 6 }}
data = {{ source = "csv:2011.csv", label = "cnt", time = "instant", features = {json.dumps(COLUMNS)} }}

[models.bikes.serve.log]
inputs = "body"

[models.bikes.release]
ladder = [100]

[models.bikes.retrain]
least = 500
holdout = 0.2
windows = ["all", "rows:3000"]
forget = 1
slower = 5
larger = 5
"""


def rung(*args, cwd, timeout=300):
    command = [sys.executable, "-m", "rung", *map(str, args)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def project(tmp_path):
    rows = pl.read_csv(DATA, infer_schema_length=None).select("yr", "mnth", "instant", "cnt", *COLUMNS)
    rows.filter(pl.col("yr") == 0).drop("yr", "mnth").write_csv(tmp_path / "2011.csv")
    (tmp_path / "rung.toml").write_text(PROJECT)
    (tmp_path / "model.py").write_text((ROOT / "examples" / "bikes" / "model.py").read_text())
    rung("train", cwd=tmp_path)
    with (tmp_path / "up.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "rung", "up"], cwd=tmp_path, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while "is up" not in (tmp_path / "up.log").read_text():
            assert time.monotonic() < end, (tmp_path / "up.log").read_text()
            time.sleep(0.2)
        url = json.loads((tmp_path / ".rung" / "up.json").read_text())["url"]
        yield tmp_path, url, rows.filter(pl.col("yr") == 1).drop("yr")
    finally:
        process.terminate()
        process.wait(60)
        print((tmp_path / "up.log").read_text()[-3000:])


class Door:
    def __init__(self, url):
        parts = urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)

    def post(self, path, body, **headers):
        self.connection.request("POST", path, json.dumps(body), {"content-type": "application/json", **headers})
        reply = self.connection.getresponse()
        content = reply.read()
        assert reply.status == 200, (reply.status, content[:300])
        return reply.headers


def error(folder, version, rows):
    """Mean absolute error of a version on these rows."""
    rows.write_csv(folder / "quarter.csv")
    card = json.loads(rung("evaluate", "bikes", version, "--source", "csv:quarter.csv", "--json", cwd=folder))
    return next(figure["value"] for figure in card["figures"] if figure["name"] == "mae")


def test_it_follows_a_year_that_the_first_version_does_not(project):
    folder, url, rows = project
    door = Door(url)
    waiting, table = [], []
    months = rows.partition_by("mnth", maintain_order=True)
    for number, month in enumerate(months, 1):
        asked = []
        for row in month.iter_rows(named=True):
            body = [{name: row[name] for name in COLUMNS}]
            reply = door.post("/predict/bikes", body, **{"rung-unit": f"hour-{row['instant']}"})
            asked.append({"id": reply["rung-prediction-id"], "label": row["cnt"]})
        # Labels come a month later.
        for label in waiting:
            door.post("/feedback", label)
        waiting = asked
        if number in (4, 7, 10):
            said = json.loads(rung("retrain", "bikes", "--wait", "--json", cwd=folder))
            assert said["decisions"]["gate"]["outcome"] == "pass", rung("retrains", "bikes", said["number"], cwd=folder)
            serving = json.loads(rung("history", "bikes", "--json", cwd=folder))[-1]["arms"][0]["version"]
            ahead = pl.concat(months[number : number + 3])
            table.append((number, serving, error(folder, 1, ahead), error(folder, serving, ahead)))
    door.connection.close()
    print("after month  version  stale  retrained")
    for number, version, stale, fresh in table:
        print(f"{number:>11}  {version:>7}  {stale:5.1f}  {fresh:9.1f}")
    # What follows is answered better than by the version that knows only 2011.
    assert sum(fresh for *_, fresh in table) < 0.9 * sum(stale for _, _, stale, _ in table)
