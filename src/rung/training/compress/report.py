"""What compressing a version did to it: size, latency, metric, slices, and what the gate says. JSON, and text."""

import msgspec

from rung.domain.rules import Verdict
from rung.domain.scorecards import Figure

__all__ = ["REPORT", "Latency", "Report", "SliceDrop", "StepDone", "table_of"]

REPORT = "compression.json"
"""File of the report in the bundle of the new version."""


class StepDone(msgspec.Struct, frozen=True):
    """One step, and what the graph was like after it."""

    name: str
    """`freeze`, `int8 static`, `prune 0.5`."""
    size: int
    """Bytes."""
    nodes: int
    kept: bool = True
    """False: the step was taken back, and `note` says why."""
    note: str = ""


class Latency(msgspec.Struct, frozen=True):
    """Time of the graph alone, both versions by turns in one process; transforms are the same and left out."""

    rows: int
    """In one call."""
    before: float
    """Median seconds of the original."""
    after: float
    ratio: float
    """After by before: under 1 is faster."""
    low: float
    """Ends of the 95 % interval of the ratio."""
    high: float
    sessions: int
    """Pairs of sessions that it was measured on."""

    @property
    def slower(self) -> bool:
        """Whether it is shown to be slower."""
        return self.low > 1


class SliceDrop(msgspec.Struct, frozen=True):
    """The headline metric on the rows of which a column has one value."""

    name: str
    rows: int
    before: float | None = None
    """None where there are too few rows to say."""
    after: float | None = None
    difference: Figure | None = None
    """After less before."""
    worse: bool = False
    """Whether the whole 95 % interval is on the worse side; of 20 slices without harm, one may be."""


class Report(msgspec.Struct, frozen=True):
    """All that was found on one compressed version."""

    model: str
    version: int
    """The original."""
    digest: str
    """Of the original."""
    steps: tuple[StepDone, ...]
    size_before: int
    """Bytes of the artifact."""
    size_after: int
    nodes_before: int
    nodes_after: int
    latency: tuple[Latency, ...]
    metric: str
    before: Figure
    """The metric of the original."""
    after: Figure
    difference: Figure
    """After less before, on the same rows."""
    held_out: str
    """Which rows it was judged on."""
    verdict: Verdict
    agree: Figure | None = None
    """Share of rows that both answer alike, where answers are classes."""
    slices: tuple[SliceDrop, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    """RFC 3339, UTC."""

    @property
    def name(self) -> str:
        """The steps that were kept."""
        return ", ".join(step.name for step in self.steps if step.kept) or "unchanged"

    @property
    def ratio(self) -> float:
        """How many times smaller the artifact is."""
        return self.size_before / self.size_after


def table_of(report: Report) -> list[str]:
    """The report as lines for people."""
    lines = [f"{report.model} version {report.version}: {report.name}"]
    for step in report.steps:
        left = "" if step.kept else "  taken back"
        note = f"  ({step.note})" if step.note else ""
        lines.append(f"  {step.name:<12} {step.size:>12,} bytes  {step.nodes:>4} nodes{left}{note}")
    lines.append(
        f"  size         {report.size_before:,} -> {report.size_after:,} bytes, {report.ratio:.2f} times smaller"
    )
    for timed in report.latency:
        said = "slower" if timed.slower else "faster" if timed.high < 1 else "no difference shown"
        rows = f"{timed.rows} row" + ("s" if timed.rows > 1 else "")
        lines.append(
            f"  latency      {rows}: p50 {timed.before * 1e3:.3f} -> {timed.after * 1e3:.3f} ms, "
            f"ratio {timed.ratio:.2f} [{timed.low:.2f}, {timed.high:.2f}], {said}"
        )
    ends = f"{report.difference.value:+.4g} [{report.difference.low:+.4g}, {report.difference.high:+.4g}]"
    lines.append(f"  {report.metric:<12} {report.before.value:.4g} -> {report.after.value:.4g}, difference {ends}")
    lines.append(f"               on {report.held_out}")
    for one in report.slices:
        if one.difference is None:
            lines.append(f"    {one.name}: too few rows ({one.rows})")
        else:
            mark = "  worse" if one.worse else ""
            lines.append(f"    {one.name}: {one.before:.4g} -> {one.after:.4g} ({one.rows} rows){mark}")
    lines += [f"  note         {note}" for note in report.notes]
    lines.append(f"  gate         {report.verdict.outcome}: {report.verdict.why}")
    return lines
