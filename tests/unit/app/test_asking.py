import os

import pytest

from rung.app.asking import dispatcher, queue_of
from rung.domain.errors import MissingDependency, NotReady
from rung.fleet.roles import Setup
from rung.fleet.state import RoleState, UpState, write_state
from rung.offline.dispatch import Dispatcher
from rung.settings import ProjectSettings
from rung.settings.project import ProjectSection
from rung.store.database import open_database


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".rung").mkdir()
    return tmp_path


def addresses(database, **offline):
    settings = ProjectSettings()
    settings = type(settings)(offline=type(settings.offline)(**offline))
    found = dispatcher(Setup(name="worker-1", role="worker", settings=settings), database)
    assert isinstance(found, Dispatcher)
    return list(found._door._addresses())


def role(name: str, state: str = "ready", url: str = "") -> RoleState:
    return RoleState(name=name, role=name.partition("-")[0], state=state, url=url)


def test_workers_ask_the_replicas_that_answer_and_without_any_the_front(here):
    with open_database(f"sqlite:///{here}/rung.db") as database:
        assert addresses(database) == []
        state = UpState(project="p", pid=os.getpid(), started=1, since=1.0, url="http://127.0.0.1:8000")
        state.roles = [
            role("replica-1", url="http://127.0.0.1:1"),
            role("replica-2", "starting", "http://127.0.0.1:2"),
            role("worker-1"),
        ]
        write_state(here, state)
        assert addresses(database) == ["http://127.0.0.1:1"]
        state.roles[0].state = "stopped"
        write_state(here, state)
        assert addresses(database) == []
        state.roles.append(role("front"))
        write_state(here, state)
        assert addresses(database) == ["http://127.0.0.1:8000"]
        assert addresses(database, url="http://elsewhere:80") == ["http://elsewhere:80"]


def test_a_queue_is_opened_when_it_is_needed_and_only_once(here):
    with open_database(f"sqlite:///{here}/rung.db") as database:
        opened = queue_of(ProjectSettings(project=ProjectSection(name="Meine Städte")), database)
        assert opened() is opened()
        away = queue_of(ProjectSettings(project=ProjectSection(name="p", queue="nats://127.0.0.1:1")), database)
        with pytest.raises((NotReady, MissingDependency)):
            away()
