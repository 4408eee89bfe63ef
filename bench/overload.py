"""Ten times more than can be served: how much is still answered well, how fast the rest is told, what remains.

Runs on the segmentation model, whose peak one client process exceeds by far.
"""

import asyncio
from typing import Any

import numpy as np
from load import FLAT_OUT, Load
from processes import OUT, Server, serve
from report import table, write
from workloads import prepare

__all__ = ["overload"]

TIMES = 10.0
CALM = 0.5
"""Share of the peak before and after."""
CONNECTIONS = 1000
"""An open loop needs one for each request that the server keeps waiting."""
TOO_MANY = 429


def overload(*, seconds: float = 10.0) -> None:
    """Measure calm, overload, calm again."""
    workload = prepare("seg", OUT / "models")
    with serve("rung", workload.file) as server:
        server.first_answer(workload.requests["raw"])
        data = asyncio.run(_measure(server, workload.requests["raw"].wire(server.port), seconds))
    write("overload", _text(data), data, OUT)


async def _measure(server: Server, request: bytes, seconds: float) -> dict[str, Any]:
    peak = (await Load(server.port, request, FLAT_OUT, seconds, 8).run()).rate
    before = await Load(server.port, request, CALM * peak, seconds, 32).run()
    rss_before = server.rss()
    load = Load(server.port, request, TIMES * peak, seconds, CONNECTIONS)
    flood = await load.run(grace=30.0)
    answered = flood.status == 200
    last = float(np.max((flood.due + flood.latency)[answered])) if answered.any() else float("nan")
    after = await Load(server.port, request, CALM * peak, seconds, 32).run()
    return {
        "peak_rate": peak,
        "offered_rate": TIMES * peak,
        "sent_rate": len(flood.due) / seconds,
        "goodput": flood.rate,
        "statuses": flood.statuses(),
        "unsent": flood.unsent,
        "accepted_p50": flood.percentile(50),
        "accepted_p99": flood.percentile(99),
        "rejected_p50": flood.percentile(50, status=TOO_MANY),
        "rejected_p99": flood.percentile(99, status=TOO_MANY),
        "drained_after": last - seconds,
        "before": {"failed": before.failed, "p50": before.percentile(50), "p99": before.percentile(99)},
        "after": {"failed": after.failed, "p50": after.percentile(50), "p99": after.percentile(99)},
        "rss_before": rss_before,
        "rss_after": server.rss(),
    }


def _text(data: dict[str, Any]) -> str:
    before, after = data["before"], data["after"]
    lines = [
        ["offered / sent requests/s", f"{data['offered_rate']:,.0f} / {data['sent_rate']:,.0f}"],
        ["goodput / peak requests/s", f"{data['goodput']:,.1f} / {data['peak_rate']:,.1f}"],
        ["goodput of the peak", f"{data['goodput'] / data['peak_rate']:.0%}"],
        ["answers by status (0: broken or none)", ", ".join(f"{k}: {v:,}" for k, v in data["statuses"].items())],
        ["never sent for want of a connection", f"{data['unsent']:,}"],
        ["answered: p50 / p99 ms", f"{data['accepted_p50']:,.0f} / {data['accepted_p99']:,.0f}"],
        ["rejected: p50 / p99 ms", f"{data['rejected_p50']:,.1f} / {data['rejected_p99']:,.1f}"],
        ["last answer after the end, s", f"{data['drained_after']:.2f}"],
        [f"{CALM:.0%} load before: p50 / p99 ms", f"{before['p50']:.1f} / {before['p99']:.1f}"],
        [f"{CALM:.0%} load after: p50 / p99 ms", f"{after['p50']:.1f} / {after['p99']:.1f}"],
        ["failed before / after", f"{before['failed']} / {after['failed']}"],
        ["memory MB, before / after", f"{data['rss_before']:.0f} / {data['rss_after']:.0f}"],
    ]
    return f"## overload, {TIMES:.0f} times the peak of the segmentation model\n\n" + table(["what", "measured"], lines)
