"""Python models: real processes that crash, hang, lie and come back."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rung.domain.errors import BundleError, InvalidInput, ModelError, NotReady, WorkerDied
from rung.ports import LoadOptions
from rung.runtimes.isolated import delay_after
from rung.runtimes.python import PythonRuntime

SOURCE = """
import ctypes, os, sys, time
import numpy as np
from rung.domain.errors import InvalidInput

class Model:
    inputs = {"x": ("FP32", [-1, 2])}
    outputs = {"y": ("FP32", [-1, 2])}

    def load(self):
        self.pid = os.getpid()

    def predict(self, x):
        action = int(x[0, 0])
        if action == 1:
            os._exit(3)
        if action == 2:
            ctypes.string_at(0)
        if action == 3:
            time.sleep(600)
        if action == 4:
            sys.exit("I leave")
        if action == 5:
            return {"y": x / {}["missing"]}
        if action == 6:
            print("printed by the model")
            sys.stdout.write("\\x00\\x01\\x02" * 100)
        if action == 7:
            raise InvalidInput("x has to be positive", field="x")
        if action == 8:
            np.ones(1 << 30)
        if action == 9:
            return {"y": np.full_like(x, self.pid)}
        return {"y": x * 2}


class Slow(Model):
    lanes = 3

    def predict(self, x):
        time.sleep(0.3)
        return {"y": np.full_like(x, os.getpid())}


class Text:
    inputs = {"text": ("BYTES", [-1])}
    outputs = {"label": ("BYTES", [-1]), "score": ("FP32", [-1])}

    def predict(self, text):
        return {"label": [t.decode().upper() for t in text], "score": [len(t) for t in text]}


class Scalar:
    inputs = {"x": ("INT64", [])}
    outputs = {"y": ("INT64", [])}

    def predict(self, x):
        return {"y": int(x) + 1}
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "user_model.py").write_text(SOURCE)
    loaded = []

    def load(name="Model", **options):
        defaults = {"trusted": True, "search_path": str(tmp_path)}
        model = PythonRuntime().load(f"user_model:{name}", LoadOptions(**(defaults | options)))
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.close()


def ask(model, action):
    return model.predict({"x": np.array([[action, 1]], "<f4")})["y"].tolist()


def test_code_is_not_run_unless_trusted(tmp_path):
    (tmp_path / "user_model.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()")
    with pytest.raises(BundleError, match="command line"):
        PythonRuntime().load("user_model:Model", LoadOptions(search_path=str(tmp_path)))
    assert not (tmp_path / "ran").exists()


def test_a_class_in_a_file_finds_its_neighbours(tmp_path):
    folder = tmp_path / "some folder"
    folder.mkdir()
    (folder / "factor.py").write_text("FACTOR = 3")
    (folder / "tripler.py").write_text(
        "from factor import FACTOR\n"
        "class Tripler:\n"
        "    inputs = {'x': ('FP32', [-1, 2])}\n"
        "    outputs = {'y': ('FP32', [-1, 2])}\n"
        "    def predict(self, x): return {'y': x * FACTOR}\n"
    )
    model = PythonRuntime().load(f"{folder}/tripler.py:Tripler", LoadOptions(trusted=True))
    try:
        assert ask(model, 0) == [[0, 3]]
    finally:
        model.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("module:Class", True),
        ("pack.age.module:Class", True),
        ("some folder/file.py:Class", True),
        ("/abs/file.py:Class", True),
        ("module", False),
        ("file.py", False),
        ("module:", False),
        ("module:a.b", False),
        ("http://host/x", False),
    ],
)
def test_what_looks_like_a_class(text, expected):
    assert PythonRuntime().recognises(Path(text)) is expected


@pytest.mark.parametrize(
    ("action", "words"),
    [(1, "exit code 3"), (2, "SIGSEGV"), (3, r"no answer within 0\.5 seconds"), (4, "exit code 1")],
)
def test_a_death_is_reported_and_the_next_call_is_answered(load, action, words):
    model = load(hang_after=0.5)
    assert ask(model, 0) == [[0, 2]]
    with pytest.raises(WorkerDied, match=f"user_model:Model: .*{words}"):
        ask(model, action)
    assert ask(model, 0) == [[0, 2]]


def test_a_crash_loop_is_refused_with_a_reason_until_it_has_cooled(load):
    model = load()
    for _ in range(5):
        with pytest.raises(WorkerDied):
            ask(model, 1)
    begun = time.monotonic()
    with pytest.raises(NotReady, match=r"died 5 times within a minute .* another (9|10) seconds.*exit code 3"):
        ask(model, 0)
    assert time.monotonic() - begun < 0.1


def test_the_delays_grow_and_are_bounded():
    delays = [delay_after(deaths) for deaths in range(1, 12)]
    assert delays[0] == 0
    assert delays == sorted(delays)
    assert delays[4] == 10
    assert delays[-1] == 40


def test_close_ends_a_wait_for_the_next_start(load):
    model = load()
    for _ in range(4):
        with pytest.raises(WorkerDied):
            ask(model, 1)
    raised = []

    def call():
        try:
            ask(model, 0)
        except ModelError as error:
            raised.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    model.close()
    caller.join(0.9)
    assert not caller.is_alive()
    assert len(raised) == 1


def test_a_changed_declaration_is_not_served(load, tmp_path):
    model = load()
    source = tmp_path / "user_model.py"
    source.write_text(SOURCE.replace('outputs = {"y"', 'outputs = {"z"'))
    # The same second and size would let Python take the compiled module of before.
    os.utime(source, (1, 1))
    with pytest.raises(WorkerDied):
        ask(model, 1)
    with pytest.raises(WorkerDied, match="changed on disk"):
        ask(model, 0)


def test_an_exception_says_type_message_and_line(load, capfd):
    model = load()
    with pytest.raises(ModelError, match=r"KeyError: 'missing' \(user_model\.py, line \d+: return .*\)"):
        ask(model, 5)
    assert ask(model, 0) == [[0, 2]]
    model.close()
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_the_class_may_blame_the_input(load):
    with pytest.raises(InvalidInput, match="positive") as raised:
        ask(load(), 7)
    assert raised.value.field == "x"


def test_prints_go_to_stderr_and_not_into_the_protocol(load, capfd):
    model = load()
    assert ask(model, 6) == [[12, 2]]
    model.close()
    captured = capfd.readouterr()
    assert "printed by the model" in captured.err
    assert captured.out == ""


def test_memory_beyond_the_limit_fails_the_call_alone(load):
    model = load(memory=1 << 30)
    with pytest.raises(ModelError, match="Unable to allocate"):
        ask(model, 8)
    assert ask(model, 0) == [[0, 2]]


def test_lanes_are_processes_that_work_at_once(load):
    model = load("Slow")
    assert model.lanes == 3
    answers = []
    callers = [threading.Thread(target=lambda: answers.append(ask(model, 0))) for _ in range(3)]
    begun = time.monotonic()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert time.monotonic() - begun < 0.8
    assert len({answer[0][0] for answer in answers}) == 3


def test_text_in_and_out(load):
    model = load("Text")
    outputs = model.predict({"text": np.array([b"spam", "für".encode()], object)})
    assert outputs["label"].tolist() == [b"SPAM", "FÜR".encode()]
    assert outputs["score"].tolist() == [4, 4]
    assert outputs["score"].dtype == np.float32


def test_scalars(load):
    model = load("Scalar")
    assert not model.signature.batched
    assert model.predict({"x": np.array(41)})["y"].tolist() == 42


def test_no_process_is_left_when_the_server_is_killed(load, tmp_path):
    load()
    program = (
        "import sys, time; import numpy as np\n"
        "from rung.ports import LoadOptions; from rung.runtimes.python import PythonRuntime\n"
        "model = PythonRuntime().load('user_model:Model', LoadOptions(trusted=True, search_path=sys.argv[1]))\n"
        "print(int(model.predict({'x': np.array([[9, 0]], '<f4')})['y'][0, 0]), flush=True)\n"
        "model.predict({'x': np.array([[3, 0]], '<f4')})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        child = Path("/proc", server.stdout.readline().strip())
        assert "python_child" in (child / "cmdline").read_text()
        server.send_signal(signal.SIGKILL)
        server.wait(5)
    end = time.monotonic() + 5
    while child.exists() and " Z " not in (child / "stat").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
