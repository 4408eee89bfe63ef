import os
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from rung.domain.alerts import Observation
from rung.domain.errors import NotReady
from rung.domain.jobs import NewJob
from rung.fleet.loop import PartHealth
from rung.fleet.state import RoleState, UpState, started_at, write_state
from rung.jobs.queue import JobStore
from rung.loop.alert_store import AlertStore
from rung.loop.exposition import Gains, read
from rung.loop.triggers import Seen
from rung.loop.watching import Sources, Watcher, of_metrics
from rung.settings.project import ModelSettings, ProjectSettings, ServeSection
from rung.store.blobs import open_store
from rung.store.database import open_database
from rung.telemetry import Exceptions

NOW = 1.8e9


def page(answered: int, slow: int = 0, failed: int = 0, refused: int = 0, mistaken: int = 0, lost: int = 0) -> str:
    fast = answered - slow
    return f"""
rung_request_duration_seconds_bucket{{le="0.05",model="m",version="1"}} {fast}
rung_request_duration_seconds_bucket{{le="0.1",model="m",version="1"}} {fast}
rung_request_duration_seconds_bucket{{le="0.25",model="m",version="1"}} {answered}
rung_request_duration_seconds_bucket{{le="+Inf",model="m",version="1"}} {answered}
rung_request_failures_total{{error="ModelError",model="m",version="1"}} {failed}
rung_request_failures_total{{error="Overloaded",model="m",version="1"}} {refused}
rung_request_failures_total{{error="InvalidInput",model="m",version="1"}} {mistaken}
rung_log_shed_total{{model="m",reason="full"}} {lost}
rung_log_failing{{reason=""}} 0
"""


def seen(*pages: str, objective: float = 0.08) -> dict[str, float | None]:
    gains = (Gains(300), Gains(600))
    found: list[Observation] = []
    for number, text in enumerate(pages):
        samples = [("replica-1", sample) for sample in read(text)]
        found = of_metrics(samples, {"m": objective}, 0.0, gains, NOW + 10 * number)
    return {one.metric: one.value for one in found}


def test_what_went_before_counts_for_nothing() -> None:
    assert seen(page(1000, failed=900, lost=5)) == {"log_failing": 0.0}
    after = seen(page(1000, failed=900, lost=5), page(2000, failed=900, lost=5))
    assert after == {"log_failing": 0.0, "log_lost": 0.0, "error_share": 0.0, "shed_share": 0.0, "slow_share": 0.0}


@pytest.mark.parametrize(
    ("given", "metric"),
    [({"failed": 100}, "error_share"), ({"refused": 100}, "shed_share"), ({"slow": 100}, "slow_share")],
)
def test_each_share_is_of_what_it_says(given: dict[str, int], metric: str) -> None:
    after = seen(page(0), page(1000, **given))
    shares = {name: value for name, value in after.items() if name.endswith("share")}
    assert [name for name, value in shares.items() if value] == [metric]
    assert 0.04 < (shares[metric] or 0) < 0.1


def test_mistakes_of_callers_are_no_errors_and_few_requests_prove_nothing() -> None:
    assert seen(page(0), page(10, mistaken=1000))["error_share"] == 0.0
    assert (seen(page(0), page(9, failed=1))["error_share"] or 0) < 0.01


def test_without_requests_or_objective_there_is_nothing_to_say() -> None:
    assert "error_share" not in seen(page(5), page(5))
    assert "slow_share" not in seen(page(0), page(100, slow=100), objective=0.0)


def test_records_that_were_lost_are_counted() -> None:
    assert seen(page(0), page(0, lost=7))["log_lost"] == 7.0


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[JobStore]:
    with open_database(f"sqlite:{tmp_path / 'rung.db'}") as database:
        yield JobStore(database, lambda: NOW)


def watcher(folder: Path, jobs: JobStore, parts: Sequence[PartHealth] = (), **measured: Seen) -> Watcher:
    settings = ProjectSettings(models={"m": ModelSettings(serve=ServeSection(objective_ms=80))})
    return Watcher(
        Sources(
            settings=settings,
            folder=folder,
            repository=open_store(str(folder / "repository")),
            jobs=jobs,
            parts=lambda: parts,
            measured=lambda: measured,
        )
    )


def by_metric(found: list[Observation]) -> dict[str, list[tuple[dict[str, str], float | None]]]:
    sorted_in: dict[str, list[tuple[dict[str, str], float | None]]] = {}
    for one in found:
        sorted_in.setdefault(one.metric, []).append((one.labels, one.value))
    return sorted_in


def test_jobs_disks_parts_and_models(tmp_path: Path, jobs: JobStore) -> None:
    jobs.submit_many([NewJob(kind="a"), NewJob(kind="b", max_attempts=1)])
    [dying] = jobs.claim("w", {"b": 0})
    jobs.fail(dying, "why")
    part = PartHealth(name="rollouts", in_a_row=3, error="sqlite:x stayed locked by another process")
    found = by_metric(
        watcher(
            tmp_path,
            jobs,
            [part],
            m=Seen(drifted=True, worse=None),
            n=Seen(worse=False, skew=0.1),
            o=Seen(evidence={"skew": "why"}),
        ).observe(NOW + 50)
    )
    assert found["jobs_dead"] == [({"kind": "a"}, 0.0), ({"kind": "b"}, 1.0)]
    assert found["job_wait_seconds"] == [({"kind": "a"}, 50.0), ({"kind": "b"}, 0.0)]
    assert found["part_failures"] == [({"part": "rollouts"}, 3.0)]
    assert found["database_locked"] == [({}, 1.0)]
    assert found["drift_confirmed"] == [({"model": "m"}, 1.0)]
    assert found["quality_worse"] == [({"model": "n"}, 0.0)]
    assert found["skew_share"] == [({"model": "n"}, 0.1), ({"model": "o"}, None)]
    [(_, free)] = found["disk_free_share"]
    assert free is not None
    assert 0 <= free <= 1
    # No project is up here, and nothing is released: there is nothing to measure.
    assert not {"process_down", "error_share", "rolled_back"} & found.keys()


def test_a_source_that_does_not_answer_is_no_data(tmp_path: Path, jobs: JobStore, monkeypatch: Any) -> None:
    def away() -> Any:
        raise NotReady("away")

    monkeypatch.setattr(jobs, "counts", away)
    found = by_metric(watcher(tmp_path, jobs).observe(NOW))
    assert found["jobs_dead"] == found["job_wait_seconds"] == [({}, None)]
    assert found["disk_free_share"]


def test_processes_that_do_not_run(tmp_path: Path, jobs: JobStore) -> None:
    me = {"pid": os.getpid(), "started": started_at(os.getpid())}
    roles = [
        RoleState(name="control", role="control", state="ready", **me),
        RoleState(name="replica-1", role="replica", state="ready", pid=1 << 30, started=5, url="http://127.0.0.1:9"),
        RoleState(name="worker-1", role="worker", state="waiting", restarts=4, reason="exit 1"),
        RoleState(name="worker-2", role="worker", state="stopped"),
    ]
    write_state(tmp_path, None)
    (tmp_path / ".rung").mkdir(exist_ok=True)
    watching = watcher(tmp_path, jobs)
    write_state(tmp_path, UpState(project="p", since=NOW, roles=roles, **me))
    watching.observe(NOW)
    roles[2].restarts = 7
    write_state(tmp_path, UpState(project="p", since=NOW, roles=roles, **me))
    found = by_metric(watching.observe(NOW + 10))
    down = {labels["process"]: value for labels, value in found["process_down"]}
    assert down == {"control": 0.0, "replica-1": 1.0, "worker-1": 1.0}
    assert ({"process": "worker-1"}, 3.0) in found["process_restarts"]
    assert found["error_share"] == [({}, None)]


def test_errors_that_a_replica_counted_are_kept_as_one_report(tmp_path: Path, jobs: JobStore) -> None:
    counted = Exceptions()
    for number in range(1000):
        counted.count(ValueError(f"no {number}"), "m 3")

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    registry = CollectorRegistry()
    registry.register(counted)  # type: ignore[arg-type]
    server = HTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    me = {"pid": os.getpid(), "started": started_at(os.getpid())}
    url = f"http://127.0.0.1:{server.server_address[1]}"
    role = RoleState(name="replica-1", role="replica", state="ready", url=url, **me)
    (tmp_path / ".rung").mkdir(exist_ok=True)
    write_state(tmp_path, UpState(project="p", since=NOW, roles=[role], **me))
    try:
        for _ in range(2):
            watching = watcher(tmp_path, jobs)
            watching.observe(NOW)
            AlertStore(jobs).count_errors(watching.errors)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    [report] = AlertStore(jobs).errors()
    assert (report.count, report.version, report.kind, report.message) == (1000, "m 3", "ValueError", "no _")
    assert 0 < report.first < NOW
