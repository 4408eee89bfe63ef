"""From a registered version to a smaller one: try steps, judge, register what passes; else leave all as it was."""

import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import models
from rung.domain.errors import BundleError, ConfigurationError
from rung.domain.models import Manifest
from rung.domain.rules import Verdict
from rung.ports import BlobStore, LoadOptions
from rung.runtimes.onnx import OnnxRuntime
from rung.settings.project import ProjectSettings
from rung.training.compress import gate, latency
from rung.training.compress.freeze import freeze
from rung.training.compress.graph import nodes_of, save
from rung.training.compress.int8 import batch_effect, quantise
from rung.training.compress.plans import Step, Wanted, plans
from rung.training.compress.prune import prune, sparsify
from rung.training.compress.report import REPORT, Report, StepDone
from rung.training.compress.subject import Subject, open_subject

__all__ = ["Outcome", "compress"]

_FILE = "model.onnx"
_SLOWER = 1.02
"""Ratio of latencies that folding has to be shown to exceed before it is taken back."""


class Outcome(msgspec.Struct, frozen=True):
    """How it ended."""

    registered: int
    """Number of the new version; 0: there is none, and the repository is as it was."""
    why: str
    """A sentence for a person."""
    report: Report | None
    """Of the new version, or of the least harmful candidate that was judged."""
    tried: tuple[str, ...] = ()
    """What was tried in vain before, and why it would not do."""
    smallest: int = 0
    """Bytes of the smallest candidate."""


class _Candidate(msgspec.Struct):
    graph: Any
    steps: list[StepDone]
    notes: list[str]
    size: int = 0


def compress(
    store: BlobStore,
    name: str,
    version: int,
    wanted: Wanted,
    *,
    settings: ProjectSettings,
    folder: Path,
    say: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Make a smaller version and register it, if it passes the gate.

    Args:
        store: the repository.
        name: of the model.
        version: number of the original.
        wanted: what to do, and the limits.
        settings: of the project, for its data.
        folder: of the project.
        say: told what is going on.

    Raises:
        NotFound: there is no such version.
        InvalidInput: nothing, or nothing possible, was asked for.
        ConfigurationError: it is no ONNX model, fits the budget as it is, or has nothing that the step applies to.
        InvalidData: `source` has no rows that could be judged by.
    """
    with tempfile.TemporaryDirectory(prefix="rung-compress-") as place:
        subject = open_subject(
            store, name, version, settings=settings, folder=folder, source=wanted.source, place=Path(place)
        )
        work = _Work(store, subject, wanted, Path(place), say)
        return work.go(plans(wanted, size=subject.size, calibrated=subject.real))


class _Work:
    """One call of `compress`."""

    def __init__(
        self, store: BlobStore, subject: Subject, wanted: Wanted, place: Path, say: Callable[[str], None]
    ) -> None:
        self._store, self._subject, self._wanted, self._place, self._say = store, subject, wanted, place, say
        self._done: dict[tuple[Step, ...], _Candidate | str] = {}
        """Steps -> what they made, or why they could not."""
        self._count = 0

    def go(self, tries: Sequence[tuple[Step, ...]]) -> Outcome:
        tried: list[str] = []
        report: Report | None = None
        smallest = 0
        for plan in tries:
            named = ", ".join(step.name for step in plan)
            self._say(f"trying {named}")
            try:
                made = self._make(plan)
            except (BundleError, ConfigurationError) as error:
                if len(tries) == 1:
                    raise
                tried.append(f"{named}: {error}")
                continue
            smallest = min(smallest or made.size, made.size)
            if not any(step.kept for step in made.steps):
                tried.append(f"{named}: {made.steps[-1].note}")
                continue
            sized = gate.size(made.size, self._wanted.budget)
            if sized.outcome == "fail" and len(tries) > 1:
                tried.append(f"{named}: {sized.why}")
                continue
            found, metrics = self._judge(made, sized, len(tries))
            if found.verdict.outcome == "pass":
                manifest = self._register(made, found, metrics)
                why = f"version {manifest.version} of {manifest.name} is version {found.version} with {found.name}"
                return Outcome(manifest.version, why, found, tuple(tried), smallest)
            tried.append(f"{named}: {found.verdict.why}")
            report = report or found
        return Outcome(0, self._refusal(report, tried, smallest), report, tuple(tried), smallest)

    def _refusal(self, report: Report | None, tried: list[str], smallest: int) -> str:
        subject, budget = self._subject, self._wanted.budget
        stays = f"Nothing was registered; version {subject.manifest.version} of {subject.manifest.name} is as it was."
        if budget and smallest > budget:
            return f"The smallest that was reached has {smallest:,} bytes, and the budget is {budget:,}. {stays}"
        if report is None:
            return f"{'; '.join(tried)}. {stays}"
        why = report.verdict.why
        return f"{why} {'Not shown to hold is not a pass. ' if report.verdict.outcome == 'inconclusive' else ''}{stays}"

    def _make(self, plan: tuple[Step, ...]) -> _Candidate:
        """The original after these steps; what was made before is not made again."""
        if not plan:
            return _Candidate(self._subject.graph, [], [], self._subject.size)
        found = self._done.get(plan)
        if found is None:
            before = self._make(plan[:-1])
            try:
                found = self._step(before, plan[-1])
            except (BundleError, ConfigurationError) as error:
                self._done[plan] = str(error)
                raise
            self._done[plan] = found
        if isinstance(found, str):
            raise ConfigurationError(found)
        return found

    def _step(self, before: _Candidate, step: Step) -> _Candidate:
        subject, notes = self._subject, list(before.notes)
        rows = subject.rows if subject.real else ()
        remark = ""
        if step.kind == "freeze":
            graph = freeze(before.graph)
            back = self._taken_back(before.graph, graph)
            if back:
                done = StepDone(step.name, before.size, nodes_of(before.graph), kept=False, note=back)
                return _Candidate(before.graph, [*before.steps, done], notes, before.size)
        elif step.kind == "prune":
            pruned = prune(before.graph, step.share, rows)
            graph, remark = pruned.model, f"{pruned.removed} channels removed"
            notes += pruned.notes
            if not rows:
                notes.append("channels were chosen by their weights alone: there are no rows to see what they do")
        elif step.kind == "sparse":
            graph, share = sparsify(before.graph, step.share)
            remark = f"{share:.1%} of the weights are zero"
            notes.append("zeros are stored and multiplied like other numbers: the model is no smaller and no faster")
        else:
            graph = quantise(before.graph, step.mode, subject.rows)
            notes += self._int8_notes(graph, step)
        size = save(graph, self._place / _FILE)
        self._check(self._place / _FILE, step)
        return _Candidate(graph, [*before.steps, StepDone(step.name, size, nodes_of(graph), note=remark)], notes, size)

    def _taken_back(self, before: Any, after: Any) -> str:
        """Why a folded graph is not used; empty when it is."""
        far, where = self._subject.apart(after)
        if far > 1:
            return f"output {where} is not what it was: {far:.3g} times the tolerance of the golden examples"
        timed = latency.measure(before, after, self._subject.rows, batched=self._subject.manifest.signature.batched)
        slower = [one for one in timed if one.low > _SLOWER]
        if slower:
            one = slower[0]
            return f"it is slower: {one.ratio:.2f} times [{one.low:.2f}, {one.high:.2f}] at {one.rows} rows a call"
        return ""

    def _int8_notes(self, graph: Any, step: Step) -> list[str]:
        subject = self._subject
        notes = []
        if step.mode == "static" and not subject.real:
            notes.append("ranges of activations are those of made-up inputs: real ones may be clipped")
        if step.mode == "dynamic" and subject.manifest.signature.batched and len(subject.rows) > 1:
            moved = batch_effect(graph, subject.rows[:64], subject.manifest.signature.outputs[0].name)
            notes.append(
                f"dynamic int8 takes one range for all rows of a call: an answer moved by up to {moved:.2%} of "
                "the range of all answers with the rows that shared its batch; static int8 does not do that"
            )
        return notes

    def _check(self, path: Path, step: Step) -> None:
        model = OnnxRuntime().load(path, LoadOptions())
        try:
            if model.signature != self._subject.manifest.signature:
                raise BundleError(f"{step.name} changed what the model takes or gives, so it cannot stand in for it")
        finally:
            model.close()

    def _judge(self, made: _Candidate, sized: Verdict, looks: int) -> tuple[Report, dict[str, float]]:
        subject, wanted = self._subject, self._wanted
        manifest = subject.manifest
        self._count += 1
        # A folder of its own: the file's name in the bundle is the original's.
        path = self._place / f"candidate-{self._count}" / _FILE
        path.parent.mkdir()
        save(made.graph, path)
        judged = subject.judge(path, made.graph, manifest.version + self._count)
        limit = gate.allowed(wanted.max_drop, judged.before)
        dropped = gate.drop(judged.difference, limit, judged.direction, looks=looks)
        if dropped.outcome == "inconclusive" and [step.name for step in made.steps if step.kept] == ["freeze"]:
            dropped = Verdict("pass", "equal", "Folding changed no answer beyond rounding.", dropped.evidence)
        timed = latency.measure(subject.graph, made.graph, subject.rows, batched=manifest.signature.batched)
        notes = [*subject.notes, *made.notes]
        notes += [
            f"it is slower than the original at {one.rows} rows a call on this machine" for one in timed if one.slower
        ]
        report = Report(
            model=manifest.name,
            version=manifest.version,
            digest=subject.digest,
            steps=tuple(made.steps),
            size_before=subject.size,
            size_after=made.size,
            nodes_before=nodes_of(subject.graph),
            nodes_after=nodes_of(made.graph),
            latency=timed,
            metric=judged.metric,
            before=judged.before,
            after=judged.after,
            difference=judged.difference,
            held_out=subject.held_out,
            verdict=gate.judge(dropped, sized),
            agree=judged.agree,
            slices=judged.slices,
            notes=tuple(notes),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return report, judged.metrics

    def _register(self, made: _Candidate, report: Report, metrics: dict[str, float]) -> Manifest:
        subject = self._subject
        old = subject.manifest
        artifact, written = self._place / "register" / _FILE, self._place / REPORT
        artifact.parent.mkdir(exist_ok=True)
        save(made.graph, artifact)
        written.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
        beside = {REPORT: written}
        if subject.profile is not None:
            beside[old.profile] = subject.profile
        lineage = msgspec.structs.replace(
            old.lineage,
            source=f"{old.name} version {old.version}, compressed: {report.name}",
            parent=subject.digest,
            extra={**old.lineage.extra, "compressed": report.name},
        )
        return models.register(
            self._store,
            artifact,
            name=old.name,
            runtime="onnx",
            examples=subject.examples,
            beside=beside,
            task=old.task,
            labels=old.labels,
            transforms=old.transforms,
            profile=old.profile,
            lineage=lineage,
            metrics=metrics or old.metrics,
            description=old.description,
        )
