"""What figures say: each finding with the figure that makes it, and the rungs in the order of their cost."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.fleet.doctor import Disk, Figures, Finding, Model, Port, findings, worst

FINE = Figures(
    seconds=3.0,
    up=True,
    cores=4.0,
    cpu=0.3,
    io_wait=0.01,
    memory_free=0.5,
    disk=Disk(100 << 30, 200 << 30, 0.002, 500e6),
    models=(Model("m", rate=10.0, utilisation=0.3, lanes=4),),
    replicas=1,
    start=0.5,
    database="sqlite",
    writes=3.0,
    writes_limit=900.0,
    queue_age=1.0,
    workers=2,
    ports=(Port("data port", "127.0.0.1", public=False, asks=False, encrypted=False),),
)
BUSY = Model("m", rate=100.0, utilisation=0.95, lanes=4)


def of(what: str, **changes) -> Finding:
    return next(one for one in findings(msgspec.structs.replace(FINE, **changes)) if one.what == what)


def test_where_all_is_well_every_finding_says_so_with_its_figure():
    found = findings(FINE)

    assert worst(found) == "ok"
    assert all(one.figure and not one.next for one in found)
    assert {one.what for one in found} == {
        "processor",
        "I/O wait",
        "memory",
        "disk space",
        "disk speed",
        "durability",
        "SQLite",
        "queue",
        "access",
        "cold start",
        "rung",
    }


@dataclass
class Case:
    what: str
    changes: dict
    level: str
    figure: str
    next: str = ""
    name: str = field(default="")


CASES = [
    Case("processor", {"cpu": 0.93}, "advice", "93% of 4 cores busy over 3 s", "see rung"),
    Case("I/O wait", {"io_wait": 0.4}, "advice", "40% of the time", "faster disk"),
    Case("memory", {"memory_free": 0.04}, "problem", "4% free", "fewer replicas"),
    Case("disk space", {"disk": Disk(900 << 20, 200 << 30)}, "problem", "0.9 GB free", "free some"),
    Case("disk space", {"disk": Disk(15 << 30, 200 << 30)}, "advice", "16.1 GB free, 8%", "days in"),
    Case("disk space", {"disk": Disk(90 << 30, 200 << 30, inodes_free=0.01)}, "advice", "45%", "days in"),
    Case("disk speed", {"disk": Disk(90 << 30, 200 << 30, 0.2, 1e6)}, "advice", "200.0 ms", "SSD"),
    Case("durability", {"lazy": ("PostgreSQL has fsync = off",)}, "problem", "fsync = off", "lost"),
    Case("database", {"database_problem": "it is locked"}, "problem", "it is locked", "store"),
    Case("SQLite", {"writes": 500.0}, "advice", "500.0 of 900 transactions a second", "see rung"),
    Case("queue", {"queue_age": 100.0, "queued": 7}, "problem", "7 jobs wait, the oldest for 100 s", "[workers]"),
    Case("queue", {"queue_age": 100.0, "up": False}, "problem", "100 s", "rung up"),
    Case("jobs", {"dead": 2}, "problem", "2 jobs are dead", "rung jobs list"),
    Case("cold start", {"start": 40.0}, "advice", "after 40.0 s", "min in replicas"),
    Case("certificate", {"certificate_days": 3.0}, "problem", "expires in 3 days", "renew"),
    Case("certificate", {"certificate_days": 15.0}, "advice", "expires in 15 days", "renew"),
    Case("certificate", {"certificate_problem": "no such file"}, "problem", "no such file", "starts"),
    Case("keys", {"shared_apart": "keys lie in x of this machine alone"}, "problem", "shared, but keys", "key_store"),
    Case(
        "access",
        {"ports": (Port("data port", "0.0.0.0", public=True, asks=False, encrypted=True),)},
        "problem",
        "data port (0.0.0.0) lets other machines in and asks for no key",
        "rung keys create NAME",
    ),
    Case(
        "access",
        {"ports": (Port("control API", "", public=True, asks=True, encrypted=False),)},
        "advice",
        "control API (every address) asks for keys, and they go over the network as plain text",
        "tls_certificate",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.what}-{case.level}-{case.figure[:12]}")
def test_each_figure_beyond_its_bound_says_what_to_do(case):
    found = of(case.what, **case.changes)

    assert found.level == case.level
    assert case.figure in found.figure
    assert case.next in found.next
    assert worst(findings(msgspec.structs.replace(FINE, **case.changes))) == case.level


REPEATED = msgspec.structs.replace(BUSY, repeats=0.4, cache=48 << 20)
RUNGS = [
    ("nothing", {}, "the busiest model uses 30% of its lanes", ""),
    ("cache", {"models": (REPEATED,), "cpu": 0.95}, "40% of the requests to m repeat", 'cache = "48MiB"'),
    (
        "threads",
        {"models": (msgspec.structs.replace(BUSY, lanes=1),)},
        "m uses 95% of its lanes, on 1 of 4 cores",
        "threads",
    ),
    ("loop", {"loop": 0.9, "replicas": 2}, "event loop of a replica works 90% of the time", "max = 3"),
    ("loop on a busy machine", {"loop": 0.9, "cpu": 0.9}, "90% of the cores are busy", "another machine"),
    ("replicas", {"models": (BUSY,), "most_replicas": 2}, "while 70% of the processors are free", "max = 3"),
    (
        "replicas when refused",
        {"models": (msgspec.structs.replace(BUSY, utilisation=0.2, refused=25.0),)},
        "25% of the requests to m are refused",
        "replicas",
    ),
    ("PostgreSQL", {"writes": 600.0}, "600 times a second, 67%", "PostgreSQL"),
    ("GPU", {"models": (BUSY,), "cpu": 0.95, "gpu": "NVIDIA H100"}, "does not use the NVIDIA H100", "GPU"),
    ("machines", {"models": (BUSY,), "cpu": 0.95}, "95% of the 4 cores are busy", "another machine"),
    ("workers", {"cpu": 0.95, "queue_age": 300.0}, "jobs wait for 300 s", "Ray"),
    ("not up", {"up": False, "models": ()}, "not up", ""),
]


@pytest.mark.parametrize(("changes", "figure", "step"), [row[1:] for row in RUNGS], ids=[row[0] for row in RUNGS])
def test_the_next_cheapest_rung_and_the_figure_that_asks_for_it(changes, figure, step):
    found = of("rung", **changes)

    assert figure in found.figure
    assert step in found.next
    assert bool(step) == bool(found.next)


def test_a_cheaper_rung_comes_before_a_dearer_one():
    everything = {
        "models": (msgspec.structs.replace(REPEATED, lanes=1),),
        "writes": 800.0,
        "gpu": "NVIDIA H100",
        "queue_age": 900.0,
    }
    steps = [of("rung", **everything).next]
    for change in (
        {"models": (msgspec.structs.replace(BUSY, lanes=1),)},
        {"models": (BUSY,)},
        {"cpu": 0.95},
        {"writes": 1.0},
        {"gpu": ""},
    ):
        everything |= change
        steps.append(of("rung", **everything).next)
    order = ("cache =", "threads:", "replicas =", "PostgreSQL:", "GPU:", "another machine")
    assert [step.startswith(word) for step, word in zip(steps, order, strict=True)] == [True] * 6


SHARE = st.floats(0.0, 1.0)


@given(
    st.builds(
        Figures,
        seconds=st.floats(0.1, 60.0),
        up=st.booleans(),
        cores=st.floats(0.5, 64.0),
        cpu=st.none() | SHARE,
        io_wait=st.none() | SHARE,
        memory_free=st.none() | SHARE,
        disk=st.none() | st.builds(Disk, st.integers(0, 10**12), st.integers(0, 10**12)),
        models=st.lists(
            st.builds(Model, st.just("m"), rate=st.floats(0, 1e6), refused=st.floats(0, 1e6)), max_size=3
        ).map(tuple),
        start=st.none() | st.floats(0.0, 100.0),
        database=st.sampled_from(["", "sqlite", "postgresql"]),
        writes=st.none() | st.floats(0, 1e5),
        writes_limit=st.none() | st.floats(0, 1e5),
        queue_age=st.none() | st.floats(0, 1e6),
    )
)
def test_any_figures_give_whole_sentences_and_one_rung(figures):
    found = findings(figures)

    assert [one.what for one in found].count("rung") == 1
    assert found[-1].what == "rung"
    for one in found:
        assert one.figure
        assert bool(one.next) == (one.level != "ok")
