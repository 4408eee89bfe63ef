"""Every command as a person or a script runs it: words, JSON, exit codes, pipes."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

from rung.catalog import models as catalog
from rung.domain.models import Manifest, Step, Transforms
from rung.store.blobs import DiskStore
from rung.testing import models

NOT_NAMES = [
    "",
    "Upper",
    "../up",
    "a/b",
    "a b",
    "a\nb",
    ".hidden",
    "con",
    "a..b",
    "x" * 64,
    "na\u00efve",
    "\u0430",
    "--",
    "a;ls",
]


@pytest.fixture
def registered(tmp_path):
    """A repository with the model `double` in versions 1 and 2."""
    for factor in (2.0, 3.0):
        file = models.scale(tmp_path / "double.onnx", factor)
        catalog.register(DiskStore(tmp_path / ".rung/repository"), file, name="double", task="regression")


@pytest.fixture
def segmenter(tmp_path):
    """A segmentation model with its transforms, in a repository of its own."""
    resize = Step("image.resize", {"height": 64, "width": 64})
    steps = (Step("image.decode"), resize, Step("image.normalize"), Step("image.layout"))
    file = models.segmentation(tmp_path / "cells.onnx", size=64, channels=4)
    transforms = Transforms(steps, (Step("segmentation.mask", {}),))
    store = DiskStore(tmp_path / "cells")
    catalog.register(store, file, name="cells", task="segmentation", transforms=transforms, labels=("cell",))
    Image.new("RGB", (90, 70), (200, 30, 30)).save(tmp_path / "picture.png")
    return tmp_path / "cells"


# --- models -------------------------------------------------------------------------------------


def test_register_list_show_verify_delete(rung, tmp_path):
    models.tiny(tmp_path / "My Model.onnx")
    done = rung("models", "register", "My Model.onnx", "--description", "a test", "--labels", "a, b,c")
    assert (done.returncode, done.stdout) == (0, "registered my-model version 1 in .rung/repository\n")
    done = rung("models", "register", "My Model.onnx", "--name", "my-model", "--json")
    manifest = msgspec.json.decode(done.stdout, type=Manifest)
    assert (manifest.name, manifest.version, manifest.runtime) == ("my-model", 2, "onnx")

    lines = rung("models", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "RUNTIME", "TASK", "BYTES", "CREATED", "DIGEST"]
    assert [line.split()[:3] for line in lines[1:]] == [["my-model", "1", "onnx"], ["my-model", "2", "onnx"]]
    listed = json.loads(rung("models", "list", "--json").stdout)
    assert [(one["name"], one["version"], one["problem"]) for one in listed] == [
        ("my-model", 1, ""),
        ("my-model", 2, ""),
    ]
    assert len(listed[0]["digest"]) == 64

    shown = rung("models", "show", "my-model", "1").stdout
    assert shown.startswith("my-model version 1\n")
    for part in ("a test", "a, b, c", "x  FP32  [-1, 16]", "y  FP32  [-1, 3]", "2 examples"):
        assert part in shown
    assert json.loads(rung("models", "show", "my-model", "--json").stdout)["version"] == 2

    done = rung("models", "verify", "my-model")
    assert done.returncode == 0
    assert "my-model version 2 is sound" in done.stdout
    assert json.loads(rung("models", "verify", "my-model", "--json").stdout)["problem"] == ""

    assert rung("models", "delete", "my-model", "1").stdout == "deleted my-model version 1\n"
    done = rung("models", "delete", "my-model", "2")
    assert done.returncode == 2
    assert "only one of my-model" in done.stderr
    assert rung("models", "delete", "my-model", "2", "--force").returncode == 0
    assert rung("models", "list", "--json").stdout == "[]\n"
    assert "no models in .rung/repository; add one with" in rung("models", "list").stdout


@pytest.mark.usefixtures("registered")
def test_verify_fails_for_a_changed_byte(rung, tmp_path):
    artifact = tmp_path / ".rung/repository/double/2/double.onnx"
    data = bytearray(artifact.read_bytes())
    data[len(data) // 2] ^= 1
    artifact.write_bytes(data)
    done = rung("models", "verify", "double")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "double version 2 may not be served: double/2/double.onnx is corrupt" in done.stderr
    done = rung("models", "verify", "double", "--json")
    assert done.returncode == 1
    assert "is corrupt" in json.loads(done.stdout)["problem"]
    assert rung("models", "verify", "double", "1").returncode == 0


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("command", ["register", "show", "verify", "delete", "serve"])
def test_hostile_names_are_refused(rung, tmp_path, command):

    def there() -> list[Path]:
        # That it was tried is written down, in one place.
        audit = tmp_path / ".rung" / "audit"
        return sorted(one for one in tmp_path.rglob("*") if not one.is_relative_to(audit))

    before = there()
    names = NOT_NAMES if command == "show" else NOT_NAMES[2:8]
    for name in names:
        arguments = {
            "register": ["models", "register", "double.onnx", "--name", name],
            "delete": ["models", "delete", "--", name, "1"],
            "serve": ["serve", "double.onnx", "--port", "0", "--name", name],
        }.get(command, ["models", command, "--", name])
        done = rung(*arguments)
        assert done.returncode == 2, (name, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(done.stderr) < 1000
        assert name in ("--", "") or "cannot name a model" in done.stderr
    assert there() == before


@pytest.mark.usefixtures("registered")
def test_what_goes_wrong_is_one_line_and_an_exit_code(rung, tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{")
    wrong = {
        ("models", "show", "nothing"): (2, "there is no model nothing"),
        ("models", "show", "double", "9"): (2, "there is no version 9 of double"),
        ("models", "delete", "double", "9"): (2, "there is no version 9 of double"),
        ("models", "register", "absent.onnx"): (2, "there is no file or folder absent.onnx"),
        ("models", "register", "text.onnx"): (1, "text.onnx"),
        ("models", "register", "model.pkl"): (1, "is a pickle"),
        ("models", "register", "code:Class"): (2, "rung serve code:Class"),
        ("models", "register", "double.onnx", "--transforms", "bad.json"): (2, "--transforms bad.json"),
        ("models", "register", "double.onnx", "--transforms", "absent.json"): (2, "cannot be read"),
        ("models", "list", "-r", "ftp://host/x"): (2, "unknown scheme"),
        ("serve", "absent.onnx"): (2, "no file or folder 'absent.onnx'"),
        ("serve", "empty"): (2, "there is no model in empty"),
        ("serve", "model.pkl"): (2, "is a pickle"),
        ("serve", "text.onnx", "--port", "0"): (1, "no model could be loaded: text: text.onnx"),
        ("serve", "double.onnx", "--port", "99999"): (2, "--port=99999"),
        ("serve", "double.onnx", "--keep", "some"): (2, "--keep='some'"),
        ("serve", "double.onnx", "double.onnx", "--name", "x"): (2, "--name goes with a single model"),
        ("serve", "double.onnx", ".rung/repository", "--port", "0"): (2, "are called 'double'"),
        ("predict", "double.onnx", "absent.json"): (2, "absent.json cannot be read"),
        ("predict", "http://127.0.0.1:9/predict/x", "bad.json"): (1, "does not answer"),
    }  # fmt: skip
    for arguments, (code, words) in wrong.items():
        done = rung(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), (arguments, done)
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("rung: "), (arguments, done.stderr)
        assert words in last, (arguments, last)
        assert "Traceback" not in done.stderr


def test_wrong_usage_is_code_2(rung):
    for arguments in (["nothing"], ["serve"], ["models", "show"], ["serve", "x", "--nothing"], ["predict", "x"]):
        done = rung(*arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr


def test_version_and_help(rung):
    from rung import __version__

    assert rung("--version").stdout == f"rung {__version__}\n"
    for arguments in (
        [],
        ["models"],
        ["serve"],
        ["predict"],
        *(["models", one] for one in ("register", "list", "show", "verify", "delete")),
    ):
        done = rung(*arguments, "--help")
        assert done.returncode == 0
        assert "Usage: " in done.stdout


@pytest.mark.usefixtures("registered")
def test_pipes_get_plain_text_and_may_leave_early(rung, tmp_path):
    assert "\x1b" not in rung("models", "list").stdout
    for number in range(3, 6):
        file = models.scale(tmp_path / "double.onnx", float(number))
        catalog.register(DiskStore(tmp_path / ".rung/repository"), file, name="double")
    command = f"{sys.executable} -m rung models show double --json | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("{", "")


# --- serve --------------------------------------------------------------------------------------


@pytest.fixture
def serve_for_people(tmp_path):
    """`serve_for_people(*args) -> (what it printed up to the last curl line, process)`, without --json."""
    started = []

    def start(*args, count=1):
        with (tmp_path / "people.err").open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "rung", "serve", *map(str, args), "--port", "0"],
                stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path, text=True,
            )  # fmt: skip
        started.append(process)
        printed = ""
        while printed.count("\n    try  ") < count:
            line = process.stdout.readline()
            assert line, (tmp_path / "people.err").read_text()
            printed += line
        return printed, process

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        process.stdout.close()


def run_lines(printed, folder):
    """Run each printed line by a shell; what came out, by the model's name."""
    found = {}
    for line in re.findall(r"^    try  (.*)$", printed, re.MULTILINE):
        done = subprocess.run(["sh", "-c", f"{line}"], cwd=folder, capture_output=True, timeout=30)
        assert done.returncode == 0, (line, done.stderr)
        found[re.search(r"/predict/([a-z0-9._-]+)", line)[1]] = done.stdout
    return found


def renamed(path, old, new):
    """The same model with another name for one of its inputs."""
    model = onnx.load(path)
    for value in model.graph.input:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    onnx.save(model, path)
    return path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_printed_lines_work(serve_for_people, segmenter, tmp_path):
    tiny = models.tiny(tmp_path / "tiny.onnx")
    two = models.add_sub(tmp_path / "two.onnx")
    text = models.string_identity(tmp_path / "words.onnx")
    large = models.segmentation(tmp_path / "large.onnx", size=128, channels=4)
    hostile = renamed(models.add_sub(tmp_path / "hostile.onnx"), "INPUT1", "it's $(touch pwned) `touch pwned`")
    printed, _ = serve_for_people(tiny, two, text, large, hostile, segmenter, count=6)
    assert re.search(r"^rung serves at http://127\.0\.0\.1:\d+$", printed, re.MULTILINE)
    assert "  tiny version 1  (onnxruntime_onnx)\n    in   x  FP32  [N x 16]\n    out  y  FP32  [N x 3]\n" in printed
    found = run_lines(printed, tmp_path)
    assert set(found) == {"tiny", "two", "words", "large", "hostile", "cells"}
    assert not (tmp_path / "pwned").exists()
    assert all(b"error" not in answer for answer in found.values())
    assert np.shape(json.loads(found["tiny"])["predictions"]) == (1, 3)
    assert b"word" in found["words"]
    assert len((tmp_path / "answer.bin").read_bytes()) == 128 * 128 * 4
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == (90, 70)


def test_serving_on_a_terminal_ends_with_ctrl_c(tmp_path):
    models.tiny(tmp_path / "tiny.onnx")
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.execv(sys.executable, [sys.executable, "-m", "rung", "serve", "tiny.onnx", "--port", "0"])
    said = b""
    interrupted = False
    while True:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # the other end of a terminal closes like this
            break
        if not interrupted and b"try  curl" in said:
            interrupted = True
            os.write(terminal, b"\x03")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, said
    assert b"Traceback" not in said
    assert b"tiny version 1" in said


# --- predict ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("registered")
def test_predict_gives_the_same_here_and_over_http(rung, serve, tmp_path):
    (tmp_path / "rows.json").write_text("[[1, 2, 3, 4], [5, 6, 7, 8]]")
    np.arange(4, dtype=np.float32).tofile(tmp_path / "row.raw")
    url = serve(".rung/repository").url + "/predict/double"
    for file in ("rows.json", "row.raw"):
        here = [
            rung("predict", target, file) for target in ("double.onnx", ".rung/repository/double", ".rung/repository")
        ]
        there = rung("predict", url, file)
        assert there.returncode == 0, there.stderr
        for done in here:
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == json.loads(there.stdout)
    lines = rung("predict", url, "rows.json", "row.raw").stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == ["rows.json", "row.raw"]
    done = rung("predict", url, "row.raw", "--accept", "raw", "--out", "answers")
    assert done.stdout == "answers/row.bin\n"
    answer = np.fromfile(tmp_path / "answers" / "row.bin", np.float32)
    assert answer.tolist() == [0, 3, 6, 9]


def test_predict_makes_pictures(rung, serve, segmenter, tmp_path):
    shutil.copy(tmp_path / "picture.png", tmp_path / "second.png")
    url = serve(segmenter).url + "/predict/cells"
    done = rung("predict", url, "picture.png", "second.png", "--accept", "overlay", "--out", "there")
    assert done.stdout.splitlines() == ["there/picture.overlay.png", "there/second.overlay.png"]
    assert rung("predict", segmenter, "picture.png", "--accept", "overlay", "--out", "here").returncode == 0
    assert (tmp_path / "here/picture.overlay.png").read_bytes() == (tmp_path / "there/picture.overlay.png").read_bytes()
    assert rung("predict", url, "picture.png", "--accept", "mask", "--out", "there").returncode == 0
    with Image.open(tmp_path / "there" / "picture.png") as mask:
        assert mask.size == (90, 70)


def test_predict_does_not_write_one_answer_over_another(rung, tmp_path):
    models.tiny(tmp_path / "tiny.onnx")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "row.json").write_text(json.dumps([[0.0] * 16]))
    done = rung("predict", "tiny.onnx", "a/row.json", "b/row.json", "--accept", "json", "--out", "answers")
    assert done.returncode == 2
    assert "answers/row.json" in done.stderr


def test_predict_with_a_class_ends_its_process(rung, tmp_path):
    (tmp_path / "mine.py").write_text(
        'class Mine:\n    inputs = {"x": ("FP32", [-1, 2])}\n    outputs = {"y": ("FP32", [-1, 2])}\n'
        '    def predict(self, x):\n        return {"y": x + 1}\n'
    )
    (tmp_path / "rows.json").write_text("[[1, 2]]")
    for target in ("mine:Mine", "mine.py:Mine", f"{tmp_path}/mine.py:Mine"):
        done = rung("predict", target, "rows.json")
        assert done.returncode == 0, done.stderr
        assert [2, 3] in json.loads(done.stdout).values() or "2" in done.stdout


def test_predict_says_what_the_model_refuses(rung, serve, tmp_path):
    (tmp_path / "rows.json").write_text("[[1, 2]]")
    models.tiny(tmp_path / "tiny.onnx")
    url = serve("tiny.onnx").url
    here = rung("predict", "tiny.onnx", "rows.json")
    assert here.returncode == 2
    there = rung("predict", f"{url}/predict/tiny", "rows.json")
    assert there.returncode == 1
    assert "400" in there.stderr
    assert here.stderr.removeprefix("rung: ").strip() in there.stderr
    assert "404" in rung("predict", f"{url}/predict/nothing", "rows.json").stderr


def test_the_project_is_a_module_too(tmp_path):
    done = subprocess.run([sys.executable, "-m", "rung", "--version"], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("rung ")
    assert Path(sys.executable).with_name("rung").exists()
