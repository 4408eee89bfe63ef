"""The documents work word for word: every page with a ```console block is typed into a fresh shell.

The convention, in plain Markdown:

- ```console: lines after `$ ` are typed (`> ` continues one); the lines below are what must be seen, in
  order, where `...` stands for anything. Other blocks (```sh, ```json) are only shown.
- A line that ends with a file name in backquotes and a colon, such as "Save this as `model.py`:", puts the
  block below it into that file.
- A command that ends with ` &` goes on while the page does; the page goes on once its lines are seen.
- `curl` is repeated until the lines are seen, as a reader would who was told "within a second".
- Port 8000 becomes a free one.
- A page that copies an example's folder is typed in the root of a checkout: the examples lie beside it. Without the
  data of that example it is skipped.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Condition, Thread

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if "```console\n" in page.read_text()
]
PATIENCE = 120.0
"""Seconds for one command; a training on a busy machine takes its time."""
DATA = ROOT.parent / "shared" / "data"
EXAMPLES = {"bikes": "bike_sharing", "spam": "sms_spam"}
"""Examples that pages copy, and the folder of each one's data."""


class Command(msgspec.Struct):
    """What is typed, and what must be seen then."""

    text: str
    seen: list[str] = []


class File(msgspec.Struct):
    """What a reader saves."""

    name: str
    text: str


def steps(page: str) -> Iterator[Command | File]:
    for found in re.finditer(r"(?:^|\n)([^\n]*)\n+```(\w+)\n(.*?)\n```", page, re.DOTALL):
        before, language, body = found.groups()
        name = re.search(r"`([\w./-]+\.\w+)`:$", before)
        if language == "console":
            yield from commands(body)
        elif name:
            yield File(name[1], body + "\n")


def commands(block: str) -> Iterator[Command]:
    command: Command | None = None
    for line in block.splitlines():
        if line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line[2:])
        elif command is None:
            raise ValueError(f"output before any command: {line!r}")
        elif line.startswith("> "):
            command.text += "\n" + line[2:]
        elif line.strip():
            command.seen.append(line)
    if command is not None:
        yield command


def missing(seen: list[str], output: str) -> str | None:
    """The first line of `seen` that `output` does not have, in order."""
    lines = iter(output.splitlines())
    for wanted in seen:
        pattern = re.compile(r".*".join(re.escape(part) for part in re.split(r"\s*\.\.\.\s*", wanted.strip())))
        # Log lines of a server in the background may stand in between.
        if not any(pattern.fullmatch(line.strip()) for line in lines):
            return wanted
    return None


class Shell:
    """A bash that is typed into. Everything it and its children write is one text."""

    def __init__(self, folder: Path, port: int) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("RUNG_", "PYTEST_"))}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "RUNG_PORT": str(port),
            "RUNG_CONTROL_PORT": "0",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
            "RUNG_DATA": str(DATA),
        }
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._output = ""
        self._grown = Condition()
        self._count = 0
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            with self._grown:
                self._output += line
                self._grown.notify_all()

    def _wait_for(self, pattern: str, start: int, until: float) -> re.Match[str] | None:
        """The first match of `pattern` in the output after `start`; None if time runs out."""
        with self._grown:
            while True:
                found = re.compile(pattern).search(self._output, start)
                if found or not self._grown.wait(until - time.monotonic()):
                    return found

    def type(self, text: str) -> tuple[str, int]:
        """Run a command to its end; what it wrote, and its exit status."""
        self._count += 1
        start = len(self._output)
        self._write(f"{text}\nprintf '\\n--- %d ended with %d ---\\n' {self._count} $?\n")
        ended = self._wait_for(rf"\n--- {self._count} ended with (\d+) ---\n", start, time.monotonic() + PATIENCE)
        assert ended, f"{text!r} did not end within {PATIENCE} s; so far: {self._output[start:]}"
        return self._output[start : ended.start()], int(ended[1])

    def start(self, command: Command) -> None:
        """Run a command in the background and wait until it has written its lines."""
        start, until = len(self._output), time.monotonic() + PATIENCE
        self._write(command.text + "\n")
        while (line := missing(command.seen, self._output[start:])) is not None:
            assert self._wait_for(r"\n", len(self._output), until), (
                f"{command.text!r} never wrote {line!r}:\n{self._output[start:]}"
            )

    def _write(self, text: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(text)
        self._bash.stdin.flush()

    def close(self) -> None:
        """End the shell and whatever it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path, port: int) -> Iterator[Shell]:
    shell = Shell(tmp_path, port)
    yield shell
    shell.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs_word_for_word(page: Path, shell: Shell, tmp_path: Path, port: int) -> None:
    text = page.read_text()
    for example, data in EXAMPLES.items():
        if f"cp -r examples/{example} ." in text:
            if not (DATA / data).is_dir():
                pytest.skip(f"the data of examples/{example} is not in {DATA / data}")
            ours = shutil.ignore_patterns(".rung", "out", "__pycache__")
            shutil.copytree(ROOT / "examples" / example, tmp_path / "examples" / example, ignore=ours)
    for step in steps(text.replace("8000", str(port))):
        if isinstance(step, File):
            (tmp_path / step.name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / step.name).write_text(step.text)
        elif step.text.endswith(" &"):
            shell.start(step)
        else:
            run(shell, step)
    leftover, _ = shell.type("wait; jobs -p")
    assert not re.fullmatch(r"\s*\d+\s*", leftover), "the page leaves something running"


def run(shell: Shell, command: Command) -> None:
    until = time.monotonic() + PATIENCE
    while True:
        output, status = shell.type(command.text)
        line = missing(command.seen, output)
        if line is None and status == 0:
            return
        if not command.text.startswith("curl") or time.monotonic() > until:
            pytest.fail(f"$ {command.text}\nended with {status} and did not write {line!r}, but:\n{output}")


def test_runner_reads_a_page() -> None:
    page = "Save this as `a.py`:\n\n```python\nx = 1\n```\n\n```console\n$ echo a \\\n> b\na ...\n$ ls\n```\n"
    page += "\n```sh\nno\n```"

    assert list(steps(page)) == [File("a.py", "x = 1\n"), Command("echo a \\\nb", ["a ..."]), Command("ls")]
    assert missing(["a ...", "c"], "log\na b\nlog\nc") is None
    assert missing(["a", "c"], "c\na") == "c"
    assert len(PAGES) >= 2
