"""Real processes that run a few lines in place of a role."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rung.domain.errors import ConfigurationError
from rung.fleet import orphans, roles, supervisor
from rung.fleet.lines import Lines
from rung.fleet.orders import Order, send_order
from rung.fleet.orphans import clear_orphans
from rung.fleet.restarts import Restart
from rung.fleet.roles import Setup
from rung.fleet.state import RoleState, UpState, hold, read_state, started_at, write_state
from rung.fleet.supervisor import Supervisor
from rung.settings import ProjectSettings

ADOPT = "from rung.fleet.roles import Ready, adopt, tell; setup = adopt(); "
WORKS = ADOPT + "import signal, sys; tell(Ready(url='here')); signal.sigwait({signal.SIGTERM})"


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    """`supervise({role: script}, until) -> states`: run until `until(state)` holds, then end by SIGTERM."""

    def run(scripts: dict[str, str], until: Callable[[UpState], bool], signals: int = 1) -> list[UpState]:
        monkeypatch.setattr(roles, "_command", lambda role: [sys.executable, "-c", scripts[role]])
        setups = [Setup(name=f"{role}-1", role=role, settings=ProjectSettings()) for role in scripts]
        state = UpState(project="p", pid=os.getpid(), started=started_at(os.getpid()), since=0.0)
        announced, over = [], threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                seen = read_state(tmp_path)
                if seen is not None and announced and until(seen):
                    announced.append(seen)
                    for _ in range(signals):
                        os.kill(os.getpid(), signal.SIGTERM)
                        time.sleep(0.2)  # two of the same that arrive together are one
                    return

        watcher = threading.Thread(target=watch)
        lines = Lines(pretty=False)
        lines.open()
        try:
            with hold(tmp_path):
                watcher.start()
                Supervisor(tmp_path, setups, state, lines).run(announced.append)
        finally:
            over.set()
            watcher.join()
            lines.close()
        assert read_state(tmp_path) is None
        return announced

    return run


class Fleet:
    """A supervisor in the main thread of a process of its own, as it has to be for signals."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    @property
    def state(self) -> UpState:
        found = read_state(self.folder)
        assert found is not None
        return found

    def until(self, true: Callable[[UpState], bool]) -> None:
        deadline = time.monotonic() + 60.0
        while (state := read_state(self.folder)) is None or not true(state):
            assert time.monotonic() < deadline, state
            assert self.process.poll() is None
            time.sleep(0.02)


SUPERVISE = """
import json, os, sys
from pathlib import Path
from rung.fleet import roles
from rung.fleet.lines import Lines
from rung.fleet.roles import Setup
from rung.fleet.state import UpState, hold, started_at
from rung.fleet.supervisor import Supervisor
from rung.settings import ProjectSettings

scripts, first = json.loads(sys.argv[1]), int(sys.argv[2])
roles._command = lambda role: [sys.executable, "-c", scripts[role]]

def replica(number, replicas):
    return Setup(name=f"replica-{number}", role="replica", settings=ProjectSettings(), replicas=max(replicas, 1))

setups = [Setup(name=role, role=role, settings=ProjectSettings()) for role in scripts if role != "replica"]
setups += [replica(number, first) for number in range(1, first + 1)]
state = UpState(project="p", pid=os.getpid(), started=started_at(os.getpid()), since=0.0)
lines = Lines(pretty=False)
lines.open()
with hold(Path()):
    Supervisor(Path(), setups, state, lines, replica).run(lambda state: None)
"""


@pytest.fixture
def supervise_fleet(tmp_path):
    """`supervise_fleet({role: script}, first) -> Fleet`: a supervisor that begins with so many replicas."""
    started: list[subprocess.Popen[bytes]] = []

    def start(scripts: dict[str, str], first: int) -> Fleet:
        command = [sys.executable, "-c", SUPERVISE, json.dumps(scripts), str(first)]
        started.append(subprocess.Popen(command, cwd=tmp_path))
        return Fleet(tmp_path, started[-1])

    yield start
    for process in started:
        process.kill()  # which ends all that it has started
        process.wait()


def ready(state: UpState) -> list[str]:
    """Replicas that answer."""
    return sorted(one.name for one in state.roles if one.role == "replica" and one.state == "ready")


def role(state: UpState, name: str) -> RoleState:
    return next(one for one in state.roles if one.name == name)


def test_roles_are_told_their_settings_and_their_logs_say_who_wrote_them(supervise, capfd):
    script = (
        ADOPT + 'import sys; print(\'{"event":"hello"}\', file=sys.stderr); print(setup.name); ' + WORKS[len(ADOPT) :]
    )
    _, seen = supervise({"worker": script}, lambda state: role(state, "worker-1").state == "ready")

    assert role(seen, "worker-1").url == "here"
    log = capfd.readouterr().err
    assert '{"event":"hello","role":"worker-1"}' in log
    assert '"event":"worker-1"' in log, "what a library prints is a line of the log"


def test_a_role_that_ends_again_and_again_is_left_alone_for_a_while(supervise, monkeypatch):
    def quick(before: Restart, lived: float) -> Restart:
        return Restart(before.streak + 1, 0.0 if before.streak < 4 else 60.0, broken=before.streak >= 4)

    monkeypatch.setattr(supervisor, "after_end", quick)
    crash = "import sys; print('rung: the database is locked', file=sys.stderr); sys.exit(1)"
    first, seen = supervise(
        {"control": crash, "worker": WORKS}, lambda state: role(state, "control-1").state == "broken"
    )

    assert {one.name for one in first.roles} == {"control-1", "worker-1"}
    broken = role(seen, "control-1")
    assert (broken.restarts, broken.reason, broken.pid) == (5, "the database is locked", 0)
    assert (role(seen, "worker-1").state, role(seen, "worker-1").restarts) == ("ready", 0)


def test_a_wrong_setting_ends_it_all_with_its_words(supervise):
    wrong = "import sys; print('rung: there is no such port', file=sys.stderr); sys.exit(2)"
    with pytest.raises(ConfigurationError, match="there is no such port"):
        supervise({"control": wrong, "worker": WORKS}, lambda _: False)


def test_who_does_not_end_is_killed_with_all_it_started(supervise, monkeypatch, capfd):
    monkeypatch.setattr(supervisor, "grace", lambda setup: 0.3)
    stubborn = ADOPT + (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "tell(Ready(url=str(child.pid))); child.wait()"
    )
    _, seen = supervise({"worker": stubborn}, lambda state: role(state, "worker-1").state == "ready")

    grandchild = int(role(seen, "worker-1").url)
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE
    assert "a role was killed" in capfd.readouterr().err


def test_a_second_signal_does_not_wait(supervise):
    stubborn = ADOPT + "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); tell(Ready()); signal.pause()"
    began = time.monotonic()
    supervise({"replica": stubborn}, lambda state: role(state, "replica-1").state == "ready", signals=2)

    assert time.monotonic() - began < ProjectSettings().serve.door.drain_seconds


def test_orphans_are_ended_and_strangers_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(orphans, "_ORPHANS", 0.1)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan, stranger = (subprocess.Popen(sleeper, start_new_session=True) for _ in range(2))
    roles_there = [
        RoleState(name="replica-1", role="replica", state="ready", pid=orphan.pid, started=started_at(orphan.pid)),
        RoleState(name="worker-1", role="worker", state="ready", pid=stranger.pid, started=1),
    ]
    with hold(tmp_path):
        write_state(tmp_path, UpState(project="p", pid=1, started=1, since=0.0, roles=roles_there))
        clear_orphans(tmp_path)
        assert read_state(tmp_path) is None

    assert orphan.wait(10) == -signal.SIGKILL
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


SERVES = ADOPT + ("import signal; tell(Ready(url=setup.name)); signal.sigwait({signal.SIGTERM})")


def test_as_many_replicas_as_the_control_plane_says(supervise_fleet):
    """It says 3 when it has started; a person says 1, and then what the rules say counts no more."""
    says = ADOPT + (
        "import time; from rung.fleet.roles import Scale; tell(Ready()); tell(Scale(replicas=3, why='much to do')); "
        "time.sleep(60)"
    )
    fleet = supervise_fleet({"control": says, "replica": SERVES}, first=1)
    fleet.until(lambda state: ready(state) == ["replica-1", "replica-2", "replica-3"])
    assert (fleet.state.replicas, fleet.state.why, fleet.state.by_hand) == (3, "much to do", False)

    send_order(fleet.folder, Order(replicas=1, by="ana"))
    assert (fleet.state.replicas, fleet.state.why, fleet.state.by_hand) == (1, "ana said so", True)
    fleet.until(lambda state: [one.name for one in state.roles if one.role == "replica"] == ["replica-1"])

    send_order(fleet.folder, Order(auto=True, by="ana"))
    fleet.until(lambda state: ready(state) == ["replica-1", "replica-2", "replica-3"])
    assert not fleet.state.by_hand


def test_one_that_goes_is_told_when_the_front_sends_it_nothing_more(supervise_fleet, tmp_path):
    front = ADOPT + (
        "import pathlib, time; from rung.fleet.roles import Rotation; tell(Ready()); "
        "tell(Rotation(replicas=['replica-1', 'replica-2'], waiting=1)); aside = pathlib.Path('aside')\n"
        "while not aside.exists(): time.sleep(0.01)\n"
        "tell(Rotation(replicas=['replica-1'])); time.sleep(60)"
    )
    leaves = ADOPT + (
        "import pathlib, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); "
        "tell(Ready(url=setup.name)); signal.sigwait({signal.SIGTERM}); "
        "pathlib.Path(f'{setup.name}-{pathlib.Path(\"aside\").exists()}').touch()"
    )
    fleet = supervise_fleet({"front": front, "replica": leaves}, first=2)
    fleet.until(lambda state: len(ready(state)) == 2 and state.waiting == 1)
    send_order(fleet.folder, Order(replicas=1))
    fleet.until(lambda state: role(state, "replica-2").state == "stopping")
    (tmp_path / "aside").touch()
    fleet.until(lambda state: len(state.roles) == 2)

    assert (tmp_path / "replica-2-True").exists()


def test_a_restart_replaces_all(supervise_fleet):
    fleet = supervise_fleet({"replica": SERVES}, first=2)
    fleet.until(lambda state: len(ready(state)) == 2)
    before = {one.pid for one in fleet.state.roles}
    send_order(fleet.folder, Order(restart=True))
    assert fleet.state.restarted
    fleet.until(lambda state: not state.restarted and len(ready(state)) == 2)
    assert not before & {one.pid for one in fleet.state.roles}


def test_who_waits_at_the_front_wakes_a_replica(supervise_fleet):
    says = ADOPT + (
        "import time; from rung.fleet.roles import Scale; tell(Ready()); tell(Scale(replicas=0, why='idle')); "
        "time.sleep(60)"
    )
    front = ADOPT + (
        "import pathlib, time; from rung.fleet.roles import Rotation; tell(Ready()); knock = pathlib.Path('knock')\n"
        "while not knock.exists(): time.sleep(0.01)\n"
        "tell(Rotation(replicas=[], waiting=2)); time.sleep(60)"
    )
    fleet = supervise_fleet({"control": says, "front": front, "replica": SERVES}, first=1)
    fleet.until(lambda state: not [one for one in state.roles if one.role == "replica"] and state.why == "idle")
    (fleet.folder / "knock").touch()
    fleet.until(lambda state: ready(state) == ["replica-1"])
    assert (fleet.state.waiting, fleet.state.why) == (2, "a request came while no replica ran")
