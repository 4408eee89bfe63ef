"""The part against replicas that tell what a test says, over HTTP as in the world."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from rung.domain.scaling import Decision, ModelLoad, ReplicaLoad
from rung.fleet.scaling.decisions import read_last
from rung.fleet.scaling.rules import Policy
from rung.fleet.scaling.scaler import ReplicaScaler
from rung.fleet.state import RoleState, UpState, started_at, write_state


class Fleet:
    """A project on paper, with one server that speaks for every replica."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.now = 10_000.0
        self.load = ModelLoad(row=0.1)
        self.deaf = False
        self.told: list[Decision] = []
        fleet = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if fleet.deaf or self.path != "/loadz":
                    self.send_error(500)
                    return
                body = msgspec.json.encode(ReplicaLoad(fleet.now, models={"m": fleet.load}))
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def runs(self, replicas: int, *, front: bool = False, **more: object) -> None:
        own = {"pid": os.getpid(), "started": started_at(os.getpid()), "state": "ready"}
        roles = [RoleState(name=f"replica-{n + 1}", role="replica", url=self.url, **own) for n in range(replicas)]
        roles += [RoleState(name="front", role="front", **own)] if front else []
        fields = {"replicas": replicas} | more
        (self.folder / ".rung").mkdir(exist_ok=True)
        state = UpState(project="p", pid=own["pid"], started=own["started"], since=0.0, roles=roles, **fields)
        write_state(self.folder, state)

    def serves(self, rate: float, seconds: int, scaler: ReplicaScaler) -> Decision | None:
        """So many requests a second to each replica, with a look a second."""
        decision = None
        for _ in range(seconds):
            self.now += 1.0
            answered = self.load.answered + int(rate)
            self.load = msgspec.structs.replace(self.load, answered=answered, rows=answered)
            decision = scaler.turn()
        return decision

    def scaler(self, policy: Policy) -> ReplicaScaler:
        return ReplicaScaler(self.folder, {"m": policy}, self.told.append, clock=lambda: self.now)


@pytest.fixture
def fleet(tmp_path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_it_asks_for_more_says_why_and_writes_it_down(fleet):
    fleet.runs(1)
    scaler = fleet.scaler(Policy(most=4))
    decision = fleet.serves(14, 6, scaler)
    assert decision.replicas == 2
    assert (
        decision.why == "1 -> 2: m utilisation: 14 requests/s are 140% of what 1 replica can compute; 70% is the target"
    )
    assert fleet.told[-1].replicas == 2
    assert read_last(fleet.folder, 1)[0].why == fleet.told[-1].why
    scaler.close()


def test_nothing_runs_here(tmp_path):
    scaler = ReplicaScaler(tmp_path, {"m": Policy()}, print)
    assert scaler.turn() is None
    scaler.close()


def test_what_a_person_said_stands(fleet):
    fleet.runs(1, by_hand=True)
    scaler = fleet.scaler(Policy(most=4))
    assert fleet.serves(50, 6, scaler) is None
    assert fleet.told == []
    fleet.runs(1)
    assert fleet.serves(50, 1, scaler).replicas == 4  # it has looked all the while
    scaler.close()


def test_replicas_that_do_not_answer_are_not_taken_away(fleet):
    fleet.runs(3)
    scaler = fleet.scaler(Policy(most=4, down_seconds=5.0))
    fleet.serves(5, 6, scaler)
    fleet.deaf = True
    fleet.told.clear()
    decision = fleet.serves(0, 20, scaler)
    assert (decision.replicas, fleet.told) == (3, [])
    assert "none tells of its load" in decision.why
    scaler.close()


def test_the_last_one_goes_where_a_front_holds_requests_and_comes_back_for_them(fleet):
    policy = Policy(least=0, most=2, idle=20.0, down_seconds=5.0)
    fleet.runs(1)
    scaler = fleet.scaler(policy)
    decision = fleet.serves(0, 40, scaler)
    assert decision.replicas == 1
    assert "nothing would hold requests" in decision.why
    fleet.runs(1, front=True)
    assert fleet.serves(0, 1, scaler).replicas == 0
    fleet.runs(0, front=True)
    assert fleet.serves(0, 1, scaler).replicas == 0
    fleet.runs(0, front=True, waiting=2)
    assert fleet.serves(0, 1, scaler).why == "0 -> 1: 2 requests wait for a replica"
    # What the new one answers before its first look is a request like any other.
    fleet.load = ModelLoad(row=0.1)
    fleet.runs(1, front=True)
    fleet.serves(2, 1, scaler)
    assert fleet.serves(0, 18, scaler).replicas == 1
    assert fleet.serves(0, 9, scaler).replicas == 0
    scaler.close()


def test_cores_and_memory_are_asked_of_the_system_where_they_count(fleet):
    fleet.runs(1)
    scaler = fleet.scaler(Policy(most=4, utilisation=0.0, memory=1))
    decision = fleet.serves(1, 3, scaler)
    assert decision.replicas == 4
    assert "memory" in decision.why
    scaler.close()


def test_rates_are_remembered_over_a_restart(fleet):
    fleet.runs(1)
    period = 96.0 * 2
    policy = Policy(most=4, period=period)
    scaler = fleet.scaler(policy)
    fleet.serves(3, 20, scaler)
    scaler.close()
    again = fleet.scaler(policy)
    known, before = again._foresights["m"].history, scaler._foresights["m"].history
    assert (known.period, len(known.rates)) == (period, len(before.rates))
    assert known.rates[3:] == pytest.approx(before.rates[3:], nan_ok=True)
    assert fleet.scaler(Policy(most=4, period=3600.0))._foresights["m"].history.rates == ()
    again.close()
