"""What each step of a retraining does. A step may be killed anywhere and done again; its decision is kept once.

Whatever of a step can be seen outside, such as a version or a release, carries the retraining's number, and is found by
it when the step is done again.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import models, releases
from rung.data import datasets, validation
from rung.data.splits import divide
from rung.domain.errors import (
    BundleError,
    ConfigurationError,
    Conflict,
    InvalidData,
    NotFound,
    TrainingFailed,
    TrainingKilled,
)
from rung.domain.models import Manifest
from rung.domain.profiles import Profile
from rung.domain.retraining import Decision, Retraining, Step
from rung.domain.runs import RunResult
from rung.loop import requests
from rung.loop.extraction import Extracted, extract, labelled_rows
from rung.loop.gates import RULE, Rows, judge
from rung.loop.measuring import last
from rung.ports import BlobStore
from rung.settings.project import ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training import submitted
from rung.training.run import under
from rung.training.session import watch_of

__all__ = ["BY", "Work", "do"]

BY = "loop"
"""Who moves releases, in their ledger."""
TAG = "rung.retraining"
"""Tag of a run and word of a version's lineage: the number of the retraining that it belongs to."""


class Work(msgspec.Struct):
    """One step of one retraining, and what it works on."""

    project: ProjectSettings
    folder: Path
    retraining: Retraining
    progress: Callable[[float, str], None]
    should_stop: Callable[[], bool]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.retraining.model

    @property
    def model(self) -> ModelSettings:
        """Its settings."""
        return self.project.models[self.name]

    @property
    def repository(self) -> BlobStore:
        """Where models lie."""
        return open_store(under(self.folder, self.project.project.repository))

    @property
    def data(self) -> BlobStore:
        """Where data lies."""
        return open_store(under(self.folder, self.project.project.data))

    def result(self, step: Step) -> dict[str, Any]:
        """What an earlier step found."""
        return self.retraining.decisions[step].result

    @property
    def extracted(self) -> Extracted:
        """What the first step found."""
        return msgspec.convert(self.result("extract"), Extracted, strict=False)


def do(work: Work, step: Step) -> Decision:
    """Do a step, unless it was done or one before it did not pass.

    Raises:
        RungError: what may be over when it is tried again.
    """
    there = work.retraining
    if step in there.decisions:
        return there.decisions[step]
    if there.stopped is not None:
        return there.stopped
    outcome, why, result = _STEPS[step](work)
    return requests.decide(work.data, work.name, there.number, step, Decision(outcome, why, time.time(), result))


_Found = tuple[Any, str, dict[str, Any]]


def _extract(work: Work) -> _Found:
    model = work.model
    # A label counts once it is so old that most of its kind have come: those that come early are no fair sample.
    before = work.retraining.request.at - (model.release.maturity or last(work.data, work.name).maturity)
    champion = _champion(work)
    since = _learned_until(work, champion) if champion is not None else 0.0
    try:
        labelled = labelled_rows(work.folder, work.name, model.retrain, before=before)
        found = extract(work.data, work.folder, work.name, model, labelled, since=since)
    except (InvalidData, ConfigurationError) as error:
        return "fail", str(error), {}
    rows = ", ".join(f"{window.rows:,}" for window in found.windows)
    why = f"{found.labelled:,} labelled requests, {found.held_out:,} of them held out; {rows} rows to learn from"
    return "pass", why, msgspec.to_builtins(found) | {"before": before}


def _validate(work: Work) -> _Found:
    """Labelled requests that came since the serving version learned, against what it learned from."""
    champion = _champion(work)
    baseline = None
    if champion is not None and champion.profile:
        content = work.repository.get(f"{work.name}/{champion.version}/{champion.profile}")
        baseline = msgspec.json.decode(content, type=Profile)
    # A window leaves out the oldest requests, so the latest ones are those at its end.
    window = work.extracted.windows[0]
    rows, section = _dataset(work, window.dataset)
    fresh = rows[max(window.earlier, rows.height - work.extracted.fresh) :]
    findings = validation.check(fresh, baseline, section) if fresh.height else []
    texts = [f"{finding.verdict}: {finding.text}" for finding in findings]
    red = [finding.text for finding in findings if finding.verdict == "fail"]
    result = {"rows": fresh.height, "findings": texts}
    if red:
        return "fail", f"the data is red, so nothing is trained: {'; '.join(red)}", result
    return "pass", f"{fresh.height:,} new rows; {'; '.join(texts) or 'nothing is wrong with them'}", result


def _train(work: Work) -> _Found:
    """A run for each window; the candidate is the one that does best on the same later rows."""
    _pin(work)
    found = work.extracted
    runs: list[RunResult] = []
    for place, window in enumerate(found.windows):
        job = f"retraining-{work.name}-{work.retraining.number}-{window.name}"
        share = place / len(found.windows)
        try:
            runs.append(
                submitted.train(
                    work.folder,
                    job,
                    work.name,
                    {},
                    dataset=window.dataset,
                    tags={TAG: str(work.retraining.number)},
                    progress=lambda part, note, share=share: work.progress(share + part / len(found.windows), note),  # type: ignore[misc]
                    should_stop=work.should_stop,
                )
            )
        except TrainingKilled:
            raise  # nothing is wrong with what was to be learned: the job is tried again, and the run goes on
        except (InvalidData, TrainingFailed, BundleError) as error:
            return "fail", str(error), {}
    watch = watch_of(work.model)
    scores = [run.metrics.get(watch.metric) for run in runs]
    if len(runs) > 1 and None in scores:
        return "fail", f"the windows cannot be compared: the runs report no {watch.metric}", {}
    sign = 1 if watch.minimize else -1
    best = min(range(len(runs)), key=lambda place: sign * (scores[place] or 0.0))
    tried = [
        {"window": window.name, "run": run.name, "version": run.version, watch.metric: score}
        for window, run, score in zip(found.windows, runs, scores, strict=True)
    ]
    run, window = runs[best], found.windows[best]
    which = f", the best of {len(runs)} windows" if len(runs) > 1 else ""
    return (
        "pass",
        f"{run.name} made version {run.version}{which}",
        {"version": run.version, "run": run.name, "dataset": window.dataset, "tried": tried, "metrics": run.metrics},
    )


def _gate(work: Work) -> _Found:
    candidate = int(work.result("train")["version"])
    champion = _champion(work, but=candidate)
    if champion is None:
        return "pass", "there is no version before it", {"champion": 0, "rule": RULE}
    window = next(one for one in work.extracted.windows if one.dataset == work.result("train")["dataset"])
    rows, section = _dataset(work, window.dataset)
    numbered = rows.with_row_index("rung_row")
    held = divide(numbered, section)["test"]
    newest = (held["rung_row"] >= window.earlier).to_numpy()
    work.progress(0.1, f"asks versions {champion.version} and {candidate} {held.height:,} rows each")
    try:
        verdict = judge(
            work.repository,
            work.name,
            champion.version,
            candidate,
            Rows(held.drop("rung_row"), newest, section),
            work.model.retrain,
            task=work.model.task,
        )
    except (InvalidData, BundleError) as error:
        return "fail", str(error), {"champion": champion.version, "rule": RULE}
    return verdict.outcome, verdict.why, {"champion": champion.version, "rule": RULE, "verdict": verdict.evidence}


def _release(work: Work) -> _Found:
    number, candidate = work.retraining.number, int(work.result("train")["version"])
    gate = work.retraining.decisions["gate"]
    why: Mapping[str, Any] = {
        "by": BY,
        "rule": RULE,
        "reason": f"retraining {number}: {work.retraining.request.why}",
        "evidence": {"retraining": number, "gate": gate.result},
    }
    done = next((one for one in _history(work) if one.move.evidence.get("retraining") == number), None)
    if done is None:
        release = work.model.release
        try:
            done = releases.rollout(
                work.repository, work.name, candidate, ladder=release.ladder, unit=release.unit, **why
            )
        except Conflict as error:
            current = releases.current(work.repository, work.name)
            if current is not None and current.rollout is not None:
                raise  # another candidate is on its way; this one waits for its turn
            return "fail", str(error), {}
    return "pass", f"version {candidate} sets out, in epoch {done.epoch}", {"version": candidate, "epoch": done.epoch}


_STEPS: dict[Step, Callable[[Work], _Found]] = {
    "extract": _extract,
    "validate": _validate,
    "train": _train,
    "gate": _gate,
    "release": _release,
}


def _dataset(work: Work, digest: str) -> tuple[Any, Any]:
    """Rows, and the section that divides them."""
    version = datasets.load(work.data, work.name, digest)
    section = datasets.divided(work.model.dataset, version)
    return datasets.frame(work.data, version), section


def _history(work: Work) -> list[Any]:
    try:
        return releases.history(work.repository, work.name)
    except NotFound:
        return []


def _champion(work: Work, but: int = 0) -> Manifest | None:
    """The version that answers most; None where there is none but the candidate."""
    current = releases.current(work.repository, work.name)
    if current is not None and current.main.version != but:
        return models.show(work.repository, work.name, current.main.version)
    older = [one.version for one in models.list_models(work.repository) if one.name == work.name and one.version != but]
    return models.show(work.repository, work.name, max(older)) if older else None


def _pin(work: Work) -> None:
    """Release what answers now: without a release the latest version answers, and that would be the candidate."""
    champion = _champion(work)
    if champion is not None and releases.current(work.repository, work.name) is None:
        reason = "it answers while the next one is trained and judged"
        releases.release(
            work.repository, work.name, champion.version, unit=work.model.release.unit, by=BY, rule="pin", reason=reason
        )


def _learned_until(work: Work, champion: Manifest) -> float:
    """When the last request was asked that the version may have learned from."""
    number = champion.lineage.extra.get("retraining", "")
    try:
        known = requests.find(work.data, work.name, int(number)) if number else None
    except NotFound:
        known = None
    return float(known.decisions["extract"].result["until"]) if known and "extract" in known.decisions else 0.0
