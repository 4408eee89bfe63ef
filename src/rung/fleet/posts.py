"""One place for a process of a project, and how long that gets to end."""

from rung.fleet.replicas import Place
from rung.fleet.restarts import Restart
from rung.fleet.roles import RoleProcess, Setup
from rung.fleet.state import RoleState

__all__ = ["Post", "grace"]


class Post:
    """A place that is filled again when it falls empty, until it is to be left so."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.state = RoleState(name=setup.name, role=setup.role, state="waiting")
        self.process: RoleProcess | None = None
        self.began = 0.0
        self.restart = Restart()
        self.due = 0.0
        """When it is to be started, or told to end, or killed; `inf` while nothing is to be done to it."""
        self.settled = False
        """Whether its first start has ended, well or not."""
        self.leaving = False
        """Whether it is not to be started again."""
        self.told = False
        """Whether it was told to end."""

    @property
    def number(self) -> int:
        """Of a replica."""
        return int(self.state.name.rpartition("-")[2])

    def place(self, restarted: float) -> Place:
        """How a plan sees a replica, where a restart of all was asked for at this time (monotonic; 0: never)."""
        return Place(
            self.number,
            ready=self.state.state == "ready",
            leaving=self.leaving,
            old=0.0 < self.began < restarted,
        )


def grace(setup: Setup) -> float:
    """Seconds that a role gets to end by itself: what it is allowed for its work, and some for the rest."""
    allowed = {
        "control": 5.0,
        "front": setup.settings.serve.door.drain_seconds,
        "worker": setup.settings.workers.drain_seconds,
        "replica": setup.settings.serve.door.drain_seconds,
    }
    return allowed[setup.role] + 5.0
