"""What `/metrics` shows of the models: rung's own names, and those of Triton and TF Serving for dashboards that exist.

Histograms are true ones with fixed bounds, so they add up over replicas.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from rung.serving.recorder import BOUNDS, Recorder

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from rung.serving.servable import Servable
    from rung.serving.table import Table

__all__ = ["collect", "collect_releases"]

_LABELS = ["model", "version"]
_TRITON_REASON = {"Overloaded": "REJECTED", "Cancelled": "CANCELED", "ModelError": "BACKEND", "WorkerDied": "BACKEND"}

_TENSORFLOW_STATUS = {
    "InvalidInput": "INVALID_ARGUMENT",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "NotReady": "UNAVAILABLE",
    "ModelError": "INTERNAL",
    "WorkerDied": "INTERNAL",
}


def collect(servables: Iterable["Servable"]) -> Iterator["Metric"]:
    """Metric families of prometheus-client for these versions."""
    served = list(servables)
    recorders = [one.batcher.recorder for one in served]
    for recorder in recorders:
        recorder.read()
    yield from _times(recorders)
    yield from _counts(served)
    yield from _triton(served)
    yield from _tensorflow(recorders)


def _times(recorders: list[Recorder]) -> Iterator["Metric"]:
    from prometheus_client.core import HistogramMetricFamily

    parts = {
        "request": "Seconds from the arrival of a request to its answer.",
        "queue": "Seconds from the arrival of a request to the start of its model call.",
        "compute": "Seconds of the model call that a request was part of.",
    }
    for part, help_text in parts.items():
        family = HistogramMetricFamily(f"rung_{part}_duration_seconds", help_text, labels=_LABELS)
        for recorder in recorders:
            histogram = {"request": recorder.total, "queue": recorder.queue, "compute": recorder.compute}[part]
            bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
            buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
            family.add_metric(_labels(recorder), buckets, histogram.sum)
        yield family


def _counts(served: list["Servable"]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    rows = CounterMetricFamily("rung_inference_rows", "Rows computed.", labels=_LABELS)
    calls = CounterMetricFamily("rung_model_calls", "Model calls; rows / calls is the mean batch.", labels=_LABELS)
    released = CounterMetricFamily(
        "rung_batches_released", "Batches by the reason for their release.", labels=[*_LABELS, "reason"]
    )
    failures = CounterMetricFamily(
        "rung_request_failures", "Requests that got an error, by its class.", labels=[*_LABELS, "error"]
    )
    inflight = GaugeMetricFamily("rung_requests_in_flight", "Requests being worked on.", labels=_LABELS)
    cap = GaugeMetricFamily("rung_batch_rows_cap", "Rows beyond which a batch does not pay.", labels=_LABELS)
    joined = CounterMetricFamily(
        "rung_requests_coalesced", "Requests answered by an equal one's computation.", labels=_LABELS
    )
    wait = GaugeMetricFamily("rung_predicted_wait_seconds", "Wait of a request that came in now.", labels=_LABELS)
    for one in served:
        recorder = one.batcher.recorder
        statistics, labels = recorder.statistics, _labels(recorder)
        rows.add_metric(labels, statistics.inferences)
        calls.add_metric(labels, statistics.executions)
        for reason, count in statistics.reasons.items():
            released.add_metric([*labels, reason], count)
        for error, count in statistics.failures.items():
            failures.add_metric([*labels, error], count)
        inflight.add_metric(labels, one.batcher.inflight)
        cap.add_metric(labels, one.batcher.cost.cap)
        wait.add_metric(labels, one.batcher.wait())
        if one.coalescer is not None:
            joined.add_metric(labels, one.coalescer.joined)
    yield from (rows, calls, released, failures, inflight, cap, joined, wait)


def _triton(served: list["Servable"]) -> Iterator["Metric"]:
    from prometheus_client.core import Metric

    # Raw metrics: the client library would append `_total` to counters, and Triton's names have none.
    def family(name: str, kind: str, help_text: str) -> Metric:
        return Metric(name, help_text, "unknown" if kind == "counter" else kind)

    failures = family("nv_inference_request_failure", "counter", "Number of failed inference requests")
    plain = {
        "nv_inference_request_success": "Number of successful inference requests",
        "nv_inference_count": "Number of inferences performed (rows)",
        "nv_inference_exec_count": "Number of model executions performed",
        "nv_inference_request_duration_us": "Cumulative inference request duration in microseconds",
        "nv_inference_queue_duration_us": "Cumulative queuing duration in microseconds",
        "nv_inference_compute_infer_duration_us": "Cumulative compute duration in microseconds",
        "nv_inference_pending_request_count": "Requests waiting for execution",
    }
    families = {name: family(name, "gauge" if "pending" in name else "counter", text) for name, text in plain.items()}
    for one in served:
        recorder = one.batcher.recorder
        statistics = recorder.read()
        labels = dict(zip(_LABELS, _labels(recorder), strict=True))
        values = (
            statistics.success.count,
            statistics.inferences,
            statistics.executions,
            statistics.success.ns / 1e3,
            statistics.queue.ns / 1e3,
            statistics.compute.ns / 1e3,
            one.batcher.inflight,
        )
        for name, value in zip(plain, values, strict=True):
            families[name].add_sample(name, labels, value)
        for error, count in statistics.failures.items():
            reason = {"reason": _TRITON_REASON.get(error, "OTHER")}
            failures.add_sample(failures.name, labels | reason, count)
    yield from (*families.values(), failures)


def _tensorflow(recorders: list[Recorder]) -> Iterator["Metric"]:
    """Requests of every protocol, summed over the versions of a model: TF Serving tells none of these apart."""
    from prometheus_client.core import HistogramMetricFamily, Metric

    requests = Metric(":tensorflow:serving:request_count", "Requests by status, over all protocols.", "unknown")
    latency = HistogramMetricFamily(
        ":tensorflow:serving:request_latency",
        "Microseconds from the arrival of a request to its answer.",
        labels=["model_name"],
    )
    runtime = HistogramMetricFamily(
        ":tensorflow:serving:runtime_latency",
        "Microseconds of the model call that a request was part of.",
        labels=["model_name"],
    )
    models: dict[str, list[Recorder]] = {}
    for recorder in recorders:
        models.setdefault(recorder.statistics.name, []).append(recorder)
    bounds = [*(repr(round(bound * 1e6)) for bound in BOUNDS), "+Inf"]
    for model, versions in models.items():
        counts = Counter({"OK": sum(one.statistics.success.count for one in versions)})
        for one in versions:
            for error, count in one.statistics.failures.items():
                counts[_TENSORFLOW_STATUS.get(error, "UNKNOWN")] += count
        for status, count in counts.items():
            requests.add_sample(requests.name, {"model_name": model, "status": status}, count)
        for family, part in ((latency, "total"), (runtime, "compute")):
            histograms = [getattr(one, part) for one in versions]
            summed = accumulate(map(sum, zip(*(one.counts for one in histograms), strict=True)))
            seconds = sum(one.sum for one in histograms)
            family.add_metric([model], list(zip(bounds, summed, strict=True)), seconds * 1e6)
    yield from (requests, latency, runtime)


def _labels(recorder: Recorder) -> list[str]:
    return [recorder.statistics.name, str(recorder.statistics.version)]


def collect_releases(table: "Table") -> Iterator["Metric"]:
    """Metric families of how callers are divided, and of copies for shadows."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    epoch = GaugeMetricFamily("rung_release_epoch", "Epoch of the release in force; 0 without one.", labels=["model"])
    share = GaugeMetricFamily("rung_arm_share", "Share of the units that an arm gets.", labels=["model", "arm"])
    chosen = CounterMetricFamily(
        "rung_arm_requests", "Requests by the arm that the release gave them.", labels=["model", "arm", "version"]
    )
    missing = GaugeMetricFamily("rung_arms_missing", "Arms whose version is not loaded here.", labels=["model"])
    for name, split in table.splits():
        epoch.add_metric([name], split.epoch)
        missing.add_metric([name], len(split.missing))
        for choice in split.choices:
            share.add_metric([name, choice.arm], choice.propensity)
            chosen.add_metric([name, choice.arm, str(choice.version)], choice.requests)
    yield from (epoch, share, chosen, missing)
    copies = CounterMetricFamily(
        "rung_shadow_copies",
        "Requests copied for a shadow, by what became of them.",
        labels=["model", "candidate", "outcome"],
    )
    for name, mirror in sorted(table.mirrors.items()):
        labels = [name, str(mirror.candidate.manifest.version)]
        equal = mirror.compared - mirror.differing - mirror.failed
        outcomes = {"equal": equal, "different": mirror.differing, "failed": mirror.failed, "shed": mirror.shed}
        for outcome, count in outcomes.items():
            copies.add_metric([*labels, outcome], count)
    yield copies
