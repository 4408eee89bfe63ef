"""The main job, as a person runs it: `python examples/nuclei/demo.py`."""

import http.client
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "nuclei" / "demo.py"
DATA = ROOT.parent / "shared" / "data" / "nuclei_dsb2018"

pytestmark = [
    pytest.mark.data,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not DATA.is_dir(), reason="the images do not lie beside the repository"),
]


def demo(*options, cwd):
    return subprocess.run(
        [sys.executable, DEMO, *options], cwd=cwd, capture_output=True, text=True, timeout=380, stdin=subprocess.DEVNULL
    )


def answers(url):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=5)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run without a terminal, half as long as `make demo`, and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder / "out", demo("--quick", "--out", str(folder / "out"), cwd=folder)


def test_it_trains_serves_measures_and_ends_by_itself(finished):
    out, run = finished
    assert run.returncode == 0, run.stdout + run.stderr
    assert "60 of 60 answers equal onnxruntime's bit for bit" in run.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["problems"] == []
    assert results["iou"]["fluo_256"]["images"] == 60
    assert results["iou"]["fluo_256"]["mean"] > 0.7
    assert results["load"]["requests"] == 120
    assert 0 < results["load"]["p50_ms"] <= results["load"]["p99_ms"]
    with Image.open(out / "nuclei.png") as sheet:
        assert min(sheet.size) > 1000
    url = re.search(r"answers at (\S+)", run.stdout)[1]
    assert not answers(url)


def test_the_version_says_what_it_is(finished):
    out, _ = finished
    manifest = json.loads((out / "project" / ".rung" / "repository" / "nuclei" / "1" / "manifest.json").read_text())
    assert manifest["labels"] == ["nucleus"]
    assert manifest["golden"]["count"] == 3
    assert manifest["transforms"]["input"][0]["name"] == "image.decode"
    assert manifest["metrics"]["val_iou"] > 0.7


def test_on_a_terminal_the_server_stays_until_ctrl_c(tmp_path):
    terminal, other_end = pty.openpty()
    command = [sys.executable, DEMO, "--epochs", "1", "--out", "out"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "NUCLEI_MOST": "32"},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        start_new_session=True,
    )
    os.close(other_end)
    said = b""
    url = ""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            said += os.read(terminal, 65536)
        except OSError:
            # The other end of a terminal closes like this.
            break
        if not url and b"-o overlay.png" in said:
            url = re.search(rb"stays up at (\S+)", said)[1].decode()
            assert answers(url)
            # What a terminal does on Ctrl-C: the signal goes to the server as well.
            os.killpg(process.pid, signal.SIGINT)
    os.close(terminal)
    assert process.wait(30) == 0, said.decode(errors="replace")
    assert url, said.decode(errors="replace")
    assert not answers(url)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv of util-linux is not installed")
def test_the_server_dies_with_a_demo_that_is_killed(finished):
    out, _ = finished
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from service import Server\n"
        "with Server(Path(sys.argv[2]), port=0, log=Path(sys.argv[3])) as server:\n"
        "    print(server.url, flush=True); server.wait()\n"
    )
    command = [sys.executable, "-c", script, DEMO.parent, out / "project" / ".rung" / "repository", out / "killed.log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        assert answers(url)
        process.send_signal(signal.SIGKILL)
        # The server holds the other end of its own output, not of this: only its port shows that it has gone.
        end = time.monotonic() + 30
        while answers(url) and time.monotonic() < end:
            time.sleep(0.05)
    assert not answers(url)


def test_a_folder_without_images_is_said_plainly(tmp_path):
    run = demo("--data", str(tmp_path), "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert run.returncode == 1
    assert f"{tmp_path} does not hold the images: manifest.csv" in run.stdout
    assert "Traceback" not in run.stderr
