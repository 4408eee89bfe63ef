"""A child process: tensors to it and back, its limits, and every way in which it can end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rung.domain.errors import WorkerDied
from rung.domain.tensors import DATATYPES
from rung.processes import Child, Limits

HERE = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": str(HERE)}


@pytest.fixture
def start():
    children = []

    def start(*arguments, timeout=20.0, **options):
        child = Child("processes_child", arguments, environment=ENVIRONMENT, **options)
        children.append(child)
        child.spawn()
        ready = child.receive(timeout)
        assert ready.kind == "ready"
        assert ready.detail["pid"] == child.pid
        return child, ready.detail

    yield start
    for child in children:
        child.terminate()


@pytest.fixture(scope="module")
def echo():
    child = Child("processes_child", environment=ENVIRONMENT)
    child.spawn()
    child.receive(20)
    yield child
    child.terminate()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until_gone(*pids, seconds=5.0):
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end, f"still alive after {seconds} s: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.005)


@pytest.mark.parametrize("datatype", sorted(DATATYPES))
def test_every_datatype_comes_back_as_it_went(echo, datatype):
    x = np.arange(6).reshape(2, 3)
    x = np.array([[b"a", b"", b"\xff\x00"]], object) if datatype == "BYTES" else x.astype(DATATYPES[datatype])
    answer = echo.call("echo", {"n": 1}, {"x": x, "again": x[:, ::2]}).tensors
    assert list(answer) == ["x", "again"]
    assert answer["x"].dtype == x.dtype
    assert answer["x"].tolist() == x.tolist()
    assert answer["again"].tolist() == x[:, ::2].tolist()
    assert answer["x"].flags.writeable


@settings(max_examples=50, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(max_size=8),
        hnp.arrays(
            st.sampled_from([d for n, d in DATATYPES.items() if n != "BYTES"]),
            hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        ),
        max_size=5,
    ),
    detail=st.recursive(st.none() | st.integers(-(2**60), 2**60) | st.text(), st.lists, max_leaves=5),
)
def test_any_tensors_come_back_as_they_went(echo, tensors, detail):
    answer = echo.call("echo", detail, tensors)
    assert answer.detail == detail
    assert list(answer.tensors) == list(tensors)
    for name, array in tensors.items():
        assert answer.tensors[name].shape == array.shape
        assert answer.tensors[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("size", [0, 65_000, 65_536, 70_000, 50 << 20])
def test_small_and_large_messages_arrive_whole(echo, size):
    x = np.random.default_rng(size).integers(0, 255, size, np.uint8)
    assert np.array_equal(echo.call("echo", "x" * (size % 200_000), {"x": x}).tensors["x"], x)


def test_more_tensors_than_one_system_call_takes(echo):
    tensors = {f"t{n}": np.array([n], "<i8") for n in range(1500)}
    assert [int(array[0]) for array in echo.call("echo", None, tensors).tensors.values()] == list(range(1500))


def test_messages_that_arrive_together_are_told_apart(echo):
    echo.send("many", 500)
    for number in range(500):
        message = echo.receive(10)
        assert message.detail == number
        assert message.tensors["x"].tolist() == [number] * number


@pytest.mark.parametrize(
    "array", [np.array([None], object), np.array(["text"]), np.array([1j]), np.array(["x"], object)]
)
def test_what_cannot_be_sent_is_refused_and_the_child_lives_on(echo, array):
    with pytest.raises(TypeError, match="tensor 'x'"):
        echo.call("echo", None, {"x": array})
    assert echo.call("echo", 1).detail == 1


def test_a_child_that_ends_while_starting_says_why():
    child = Child("processes_child", ["refuse"], environment=ENVIRONMENT)
    child.spawn()
    with pytest.raises(WorkerDied, match="exit code 3; its last output: cannot find the weights"):
        child.receive(20)
    until_gone(child.pid, seconds=0)


def test_a_child_that_is_never_ready_is_ended():
    child = Child("processes_child", ["silent"], environment=ENVIRONMENT)
    child.spawn()
    with pytest.raises(WorkerDied, match=r"no answer within 0\.5 seconds"):
        child.receive(0.5)
    until_gone(child.pid, seconds=0)


def test_a_module_that_does_not_exist():
    child = Child("no.such.module")
    child.spawn()
    with pytest.raises(WorkerDied, match="No module named"):
        child.receive(20)


def test_exit_and_signal_and_crash_are_told_apart(start):
    for kind, detail, words in (("exit", 7, "exit code 7$"), ("crash", None, "SIGSEGV$")):
        child, _ = start()
        with pytest.raises(WorkerDied, match=words):
            child.call(kind, detail)
        with pytest.raises(WorkerDied):
            child.call("echo")
    assert "Segmentation fault" in child.tail
    child, _ = start()
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        child.call("echo")


def test_a_hung_child_is_ended(start):
    child, _ = start()
    with pytest.raises(WorkerDied, match=r"gave no answer within 0\.3 seconds"):
        child.call("burn", timeout=0.3)
    until_gone(child.pid, seconds=0)


def test_nonsense_on_the_wire_ends_the_child(start):
    child, _ = start()
    with pytest.raises(WorkerDied, match="nonsense"):
        child.call("nonsense")
    until_gone(child.pid, seconds=0)


def test_memory_beyond_the_limit_is_refused_inside_the_child(start):
    child, _ = start(limits=Limits(memory=400 << 20))
    assert child.call("allocate", 50 << 20).kind == "done"
    assert child.call("allocate", 500 << 20).kind == "refused"
    assert child.call("echo", 1).detail == 1


def test_processor_time_beyond_the_limit_ends_the_child(start):
    child, _ = start(limits=Limits(cpu_seconds=1))
    with pytest.raises(WorkerDied, match="SIGXCPU"):
        child.call("burn")


def test_terminate_takes_the_whole_family_and_may_be_repeated(start):
    child, detail = start("family")
    assert alive(detail["grandchild"])
    child.terminate()
    until_gone(child.pid, detail["grandchild"])
    child.terminate()
    child.kill()


def test_a_crash_takes_the_grandchildren_too(start):
    child, detail = start("family")
    with pytest.raises(WorkerDied):
        child.call("exit", 1)
    until_gone(child.pid, detail["grandchild"])


def test_an_end_is_seen_though_a_fork_holds_the_socket(start):
    child, _ = start()
    begun = time.monotonic()
    with pytest.raises(WorkerDied, match="exit code 5"):
        child.call("fork and exit")
    assert time.monotonic() - begun < 2


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(start):
    child, _ = start("stubborn")
    begun = time.monotonic()
    child.terminate(grace=0.2)
    assert 0.2 <= time.monotonic() - begun < 2
    until_gone(child.pid, seconds=0)


def test_terminate_ends_a_call_in_another_thread(start):
    child, _ = start()
    raised = []

    def call():
        try:
            child.call("burn")
        except WorkerDied as error:
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    child.terminate()
    thread.join(5)
    assert len(raised) == 1


def test_the_child_outlives_the_thread_that_started_it(start):
    started = []
    thread = threading.Thread(target=lambda: started.append(start()))
    thread.start()
    thread.join()
    child, _ = started[0]
    assert child.call("echo", 5).detail == 5


def test_output_goes_to_stderr_and_is_kept_up_to_a_bound(start, capfd):
    child, _ = start()
    child.call("print", "hello from the child")
    child.call("print", "x" * 100_000)
    child.terminate()
    captured = capfd.readouterr()
    assert "hello from the child" in captured.err
    assert captured.out == ""
    assert len(child.tail) == 8192


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_orphan_when_the_parent_dies(number):
    program = (
        "import sys, time; from rung.processes import Child\n"
        "child = Child('processes_child', ['family'], environment={'PYTHONPATH': sys.argv[1]})\n"
        "child.spawn(); ready = child.receive(20)\n"
        "print(child.pid, ready.detail['grandchild'], flush=True)\n"
        "child.send('burn'); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(HERE)], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert all(alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait(5)
    until_gone(*pids)


def test_descriptors_and_threads_do_not_add_up(start):
    def count():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    start()[0].terminate()
    before = count()
    for _ in range(5):
        child, _ = start()
        child.terminate()
    end = time.monotonic() + 5
    while count() != before:
        assert time.monotonic() < end, f"{before} became {count()}"
