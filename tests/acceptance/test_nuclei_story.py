"""`make demo`, whole: the loop on real pictures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "nuclei_dsb2018"

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.data,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.is_dir(), reason="the images do not lie beside the repository"),
]


def test_the_world_moves_and_the_model_follows(tmp_path):
    command = [sys.executable, ROOT / "examples" / "nuclei" / "story.py", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1700, cwd=tmp_path)
    print(done.stdout[-8000:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    found = json.loads((tmp_path / "out" / "story.json").read_text())
    assert found["problems"] == []
    assert found["failed"] == 0
    before, after = found["iou"]["1"], found["iou"]["2"]
    assert before["stained_256x320"] < 0.3 < 0.65 <= after["stained_256x320"]
    assert after["fluo_256"] >= 0.75
    names = [name for _, name in found["marks"]]
    assert names.index("drift is confirmed") < names.index("version 2 answers all") < names.index("taken back")
    with Image.open(tmp_path / "out" / "timeline.png") as picture:
        assert picture.size[0] > 1000
