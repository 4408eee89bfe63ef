"""What a process that runs strangers' models may do, and how a framework's failures are worded."""

import subprocess
import sys

import pytest

from rung.runtimes.isolated import scrubbed
from rung.runtimes.isolated_child import summary


def test_the_sandbox_writes_no_files(tmp_path):
    program = (
        "import sys\n"
        "from rung.runtimes.isolated_child import sandbox\n"
        "sandbox()\n"
        "print('may print', flush=True)\n"
        "try:\n"
        "    with open(sys.argv[1], 'w') as file: file.write('x')\n"
        "except OSError as error:\n"
        "    print(error.strerror)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "written")], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines() == ["may print", "File too large"]
    assert (tmp_path / "written").read_bytes() == b""


def test_credentials_are_not_passed_on(monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "RUNG_KEYS"):
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    kept = scrubbed({"MODE": "1"})
    assert "hush" not in kept.values()
    assert (kept["LC_ALL"], kept["MODE"]) == ("C.UTF-8", "1")
    assert "PATH" in kept


TORCHSCRIPT = "The following operation failed in the TorchScript interpreter.\nTraceback:\nbuiltins.ValueError: no"
TENSORFLOW = """Graph execution error:

Detected at node a/b defined at (most recent call last):
<stack traces unavailable>
assertion failed: [x]
\t [[{{node a/b}}]] [Op:__inference]"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("size mismatch\n\nException raised from x at y.cpp:3", "RuntimeError: size mismatch"),
        ("shape is wrong\nException raised from x at y.cpp:3", "RuntimeError: shape is wrong"),
        (TORCHSCRIPT, "builtins.ValueError: no"),
        (TENSORFLOW, "RuntimeError: assertion failed: [x]"),
        ("", "RuntimeError: "),
    ],
)
def test_a_failure_is_one_sentence(said, words):
    assert summary(RuntimeError(said)) == words
