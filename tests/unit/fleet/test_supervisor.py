"""Real processes that run a few lines in place of a role."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from rung.domain.errors import ConfigurationError
from rung.fleet import orphans, roles, supervisor
from rung.fleet.lines import Lines
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
