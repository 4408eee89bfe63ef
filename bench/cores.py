"""One core against two: how much more one replica answers when it is given another, with no setting changed.

The load generator keeps to the last core. So beside a replica on two cores it takes part of what that could have, and
the ratio says less than the replica can.
"""

import os
from contextlib import ExitStack
from statistics import median

from processes import OUT, serve
from report import table, write
from workloads import prepare
from wrk import run_wrk

__all__ = ["cores"]

CALLERS = 8


def cores(rounds: int, seconds: float) -> None:
    """Measure in turns, and write the ratio of neighbours."""
    workload = prepare("seg", OUT / "models")
    request, every = workload.requests["raw"], sorted(os.sched_getaffinity(0))
    rates: dict[int, list[float]] = {1: [], 2: []}
    os.environ["RUNG_MAX_WAIT_MS"] = "60000"  # on a busy machine one core is too slow for all callers to be let in
    with ExitStack() as stack:
        ports: dict[int, int] = {}
        for count in rates:
            os.sched_setaffinity(0, every[:count])  # what is started now keeps to these
            server = stack.enter_context(serve("rung", workload.file))
            server.first_answer(request)
            ports[count] = server.port
        os.sched_setaffinity(0, every[-1:])
        for number in range(rounds):
            for count in sorted(rates, reverse=bool(number % 2)):
                run_wrk(ports[count], request, CALLERS, 1.0, OUT)
                rates[count].append(run_wrk(ports[count], request, CALLERS, seconds, OUT)["rate"])
    os.sched_setaffinity(0, every)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    lines = [
        [f"{count} core{'s' * (count > 1)}", f"{median(some):,.1f}", f"{min(some):,.1f} - {max(some):,.1f}"]
        for count, some in rates.items()
    ]
    lines.append(["two / one", f"{median(ratios):.2f}", f"{min(ratios):.2f} - {max(ratios):.2f}"])
    title = f"## the segmentation model on one core and on two, {CALLERS} callers\n\n"
    write("cores", title + table(["replica on", "requests/s, median", "lowest - highest"], lines), rates, OUT)
