"""`rung init`: a folder whose model is trained, registered and served with nothing in between."""

import io
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from rung.cli.init import TEMPLATES

QUESTIONS = {
    "tabular": ("delivery", [{"kilometres": 3.5, "weather": "rain", "express": False, "hour": 18}]),
    "text": ("urgency", ["smoke from the lift, need help now", "when will the lift be serviced?"]),
}


def ask(url: str, body: bytes, media: str = "application/json") -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": media, "Accept": media})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


def rung(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rung", *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(180)
# Trained and registered as the tabular one; the tutorial on messages goes the same way in every run.
@pytest.mark.parametrize(
    "template",
    [pytest.param(one, marks=pytest.mark.nightly if one == "text" else []) for one in TEMPLATES],
)
def test_a_new_project_trains_and_serves_at_once(template, tmp_path, serve):
    begun = rung(tmp_path, "init", "My Model", "--template", template)
    assert "generated" in begun
    assert "next     cd 'My Model'; rung train" in begun
    project = tmp_path / "My Model"
    assert tomllib.loads((project / "rung.toml").read_text())["project"]["name"] == "my-model"
    for name in ("dataset.py", "README.md", "rung.toml"):
        assert "generate" in (project / name).read_text().lower(), name

    quick = ("--set", "epochs=1") if template == "segmentation" else ()
    assert "[info" not in rung(project, "train", *quick), "what libraries log is not for people"
    name = orjson.loads(rung(project, "models", "list", "--json"))[0]["name"]
    assert orjson.loads(rung(project, "models", "verify", name, "--json"))["problem"] == ""

    served = serve(project / ".rung" / "repository")
    if template == "segmentation":
        picture = io.BytesIO()
        Image.fromarray(np.full((50, 40, 3), 80, np.uint8)).save(picture, "PNG")
        mask = Image.open(io.BytesIO(ask(f"{served.url}/predict/spots", picture.getvalue(), "image/png")))
        assert mask.size == (40, 50)
        return
    name, rows = QUESTIONS[template]
    predictions = orjson.loads(ask(f"{served.url}/predict/{name}", orjson.dumps(rows)))["predictions"]
    if template == "tabular":
        # 14 minutes and 2.5 a kilometre, times 1.3 in rain and 1.4 in the rush hour.
        assert abs(predictions[0] - 29.9) < 6
    else:
        assert [one[0]["label"] for one in predictions] == ["urgent", "routine"]
