"""`make bench`: measure rung beside its peers. See README.md here for what each part does.

usage: run.py [serving] [startup] [swap] [overload] [hot-path] [cache] [jobs] [offline] [formats] [front] [cores] [all]
              [--rounds N] [--seconds S] [--only tiny,seg] [--servers rung,probe] [--quick]
"""

import argparse
import os
import resource
import sys

from cache import cache
from cores import cores
from formats import formats
from front import front
from hot_path import hot_path
from jobs import jobs
from offline import offline
from overload import overload
from processes import OUT, SERVERS
from report import serving_report, write
from serving import BARE, CASES, measure_rounds
from startup import startup
from swap import swap
from workloads import BenchError

PARTS = (
    "serving",
    "startup",
    "swap",
    "overload",
    "hot-path",
    "cache",
    "jobs",
    "offline",
    "formats",
    "front",
    "cores",
)
NAMES = {name.replace(" ", "-"): name for name in [*SERVERS, BARE]}


def main() -> int:
    chosen = _arguments()
    OUT.mkdir(exist_ok=True)
    # The overload holds a connection for each waiting request, and so does the server under it.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"this machine is busy (load average {busy:.1f}): expect noise\n", file=sys.stderr)
    failed = False
    for part in PARTS:
        if part in chosen.parts or "all" in chosen.parts:
            try:
                failed |= _run(part, chosen)
            except BenchError as error:
                print(f"{part}: {error}", file=sys.stderr)
                failed = True
    return int(failed)


def _run(part: str, chosen: argparse.Namespace) -> bool:
    """Whether a measurement failed."""
    servers = {NAMES[name] for name in chosen.servers}
    if part == "serving":
        cases = [case for case in CASES if any(word in case.name for word in chosen.only)]
        rows = measure_rounds(cases, servers, chosen.rounds, chosen.seconds)
        write("serving", serving_report(rows), rows, OUT)
        return any(row.failed for row in rows)
    if part == "startup":
        startup(servers, starts=3 if chosen.quick else 7, seconds=min(5.0, chosen.seconds))
    elif part == "swap":
        for model in [model for model in ("tiny", "seg") if model in chosen.only]:
            swap(model, swaps=4 if chosen.quick else 20, seconds=chosen.seconds)
    elif part == "overload":
        overload(seconds=chosen.seconds)
    elif part == "cache":
        cache()
    elif part == "jobs":
        jobs(messages=2000 if chosen.quick else 30_000, rounds=chosen.rounds)
    elif part == "offline":
        offline(messages=2000 if chosen.quick else 20_000, rounds=chosen.rounds)
    elif part == "formats":
        formats(20_000 if chosen.quick else 500_000, chosen.rounds)
    elif part == "front":
        front(chosen.rounds, chosen.seconds)
    elif part == "cores":
        cores(chosen.rounds, chosen.seconds)
    else:
        hot_path()
    return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure rung beside its peers.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}, all (default: serving)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--only", default="tiny,seg", help="words, any of which the case's name must contain")
    parser.add_argument("--servers", default=",".join(NAMES), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s: does everything run?")
    chosen = parser.parse_args()
    chosen.parts = chosen.parts or ["serving"]
    chosen.only = chosen.only.split(",")
    chosen.servers = chosen.servers.split(",")
    if chosen.quick:
        chosen.rounds, chosen.seconds = 1, 2.0
    for word in chosen.parts:
        if word not in (*PARTS, "all"):
            parser.error(f"there is no part {word!r}; choose of {', '.join(PARTS)}, all")
    for name in chosen.servers:
        if name not in NAMES:
            parser.error(f"there is no server {name!r}; choose of {', '.join(NAMES)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main())
