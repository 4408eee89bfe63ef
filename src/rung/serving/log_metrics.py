"""What `/metrics` shows of the prediction log and of the arms of a release.

Histograms by arm carry exemplars in the OpenMetrics format: a prediction id per bucket, for `rung trace`.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from rung.serving.log import Logged, PredictionLog
from rung.serving.recorder import BOUNDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["collect"]

_LABELS = ["model", "version", "arm"]


def collect(log: PredictionLog) -> Iterator["Metric"]:
    """Metric families of prometheus-client."""
    yield from _log(log)
    yield from _arms(sorted(log.logged, key=lambda one: (one.name, one.version)))


def _log(log: PredictionLog) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    writer = log.writer
    yield CounterMetricFamily("rung_log_records", "Records on the disk.", writer.written)
    yield CounterMetricFamily("rung_log_bytes", "Bytes of them.", writer.written_bytes)
    shed = CounterMetricFamily("rung_log_shed", "Records lost, by reason.", labels=["model", "reason"])
    for (model, reason), count in sorted(writer.shed.items()):
        shed.add_metric([model, reason], count)
    yield shed
    yield GaugeMetricFamily("rung_log_buffer_bytes", "Bytes that are not on the disk yet.", writer.buffered)
    yield GaugeMetricFamily("rung_log_lag_seconds", "Age of the oldest record that is not on the disk.", writer.lag)
    yield CounterMetricFamily("rung_log_refusals", "Times that the disk refused.", writer.errors)
    failing = GaugeMetricFamily(
        "rung_log_failing", "1 with the reason while records cannot be written.", labels=["reason"]
    )
    failing.add_metric([writer.error], 1 if writer.error else 0)
    yield failing
    unclean = writer.unclean.lost if writer.unclean is not None else 0.0
    yield GaugeMetricFamily(
        "rung_log_unclean_seconds", "Seconds of records that the run before lost at most, by not closing.", unclean
    )
    events = CounterMetricFamily("rung_feedback_events", "Feedback acknowledged.", labels=["model", "kind"])
    for (model, kind), count in sorted(log.feedback.items()):
        events.add_metric([model, kind], count)
    yield events


def _arms(logged: list[Logged]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily

    requests = CounterMetricFamily("rung_arm_completed", "Requests that got an answer or an error.", labels=_LABELS)
    errors = CounterMetricFamily(
        "rung_arm_errors", "Errors by class, and whose they are.", labels=[*_LABELS, "error", "blame"]
    )
    times = HistogramMetricFamily(
        "rung_arm_duration_seconds", "Seconds from the arrival of a request to its answer.", labels=_LABELS
    )
    bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
    for one in logged:
        for name, arm in sorted(one.arms.items()):
            labels = [one.name, str(one.version), name]
            arm.fold()
            requests.add_metric(labels, arm.requests)
            for (error, blame), count in sorted(arm.errors.items()):
                errors.add_metric([*labels, error, blame], count)
            buckets: list[Any] = list(zip(bounds, accumulate(arm.histogram.counts), strict=True))
            for at, found in enumerate(arm.exemplars):
                if found is not None:
                    seconds, identity, when = found
                    buckets[at] = (*buckets[at], Exemplar({"prediction_id": identity}, seconds, when))
            times.add_metric(labels, buckets, arm.histogram.sum)
    yield from (requests, errors, times)
