"""What the Open Inference Protocol and Triton's extensions say about a server and its models, as JSON values."""

from collections.abc import Iterable
from typing import Any

from rung.domain.models import Manifest, VersionState, VersionStatus
from rung.domain.predictions import Statistics, Timing
from rung.domain.tensors import Signature, TensorSpec

__all__ = [
    "EXTENSIONS",
    "MAX_BATCH",
    "model_config",
    "model_metadata",
    "model_statistics",
    "not_ready",
    "repository_index",
    "server_metadata",
]

EXTENSIONS = (
    "binary_tensor_data",
    "logging",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
)
"""Names of the protocol's extensions that this server honours in full."""

MAX_BATCH = 65536
"""What the configuration of a batched model states as its largest batch: clients ask for a number,
rung splits what is too large for one call, and the limit on a body is the real one."""

_STATES = {
    VersionState.START: "LOADING",
    VersionState.LOADING: "LOADING",
    VersionState.AVAILABLE: "READY",
    VersionState.UNLOADING: "UNLOADING",
    VersionState.END: "UNAVAILABLE",
}


def server_metadata(name: str, version: str) -> dict[str, Any]:
    """The answer of `GET /v2`."""
    return {"name": name, "version": version, "extensions": EXTENSIONS}


def model_metadata(manifest: Manifest, platform: str, versions: Iterable[int]) -> dict[str, Any]:
    """The answer of `GET /v2/models/{model}`; `versions` are those that can answer."""
    return {
        "name": manifest.name,
        "versions": [str(version) for version in versions],
        "platform": platform,
        "inputs": [_tensor(spec) for spec in manifest.signature.inputs],
        "outputs": [_tensor(spec) for spec in manifest.signature.outputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": spec.shape}


def model_config(manifest: Manifest, platform: str) -> dict[str, Any]:
    """The answer of `GET /v2/models/{model}/config`, in the shape of Triton's model configuration."""
    signature = manifest.signature
    largest = _largest_batch(signature)
    config: dict[str, Any] = {
        "name": manifest.name,
        "platform": platform,
        "backend": platform.partition("_")[0],
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "max_batch_size": largest,
        "input": [
            {"format": "FORMAT_NONE", "is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
            | _config_tensor(spec, batched=largest > 0)
            for spec in signature.inputs
        ],
        "output": [
            {"label_filename": "", "is_shape_tensor": False} | _config_tensor(spec, batched=largest > 0)
            for spec in signature.outputs
        ],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [{"name": manifest.name, "kind": "KIND_CPU", "count": 1, "gpus": [], "profile": []}],
        "default_model_filename": manifest.artifact,
        "cc_model_filenames": {},
        "metric_tags": {},
        "parameters": {},
        "model_warmup": [],
        "model_transaction_policy": {"decoupled": False},
    }
    if largest > 0:
        config["dynamic_batching"] = {
            "preferred_batch_size": [],
            "max_queue_delay_microseconds": 0,
            "preserve_ordering": False,
            "priority_levels": 0,
            "default_priority_level": 0,
            "priority_queue_policy": {},
        }
    return config


def _largest_batch(signature: Signature) -> int:
    """0 for a model that is not batched, the fixed number of rows if there is one, else `MAX_BATCH`."""
    if not signature.batched:
        return 0
    first = {spec.shape[0] for spec in (*signature.inputs, *signature.outputs) if spec.shape}
    return first.pop() if len(first) == 1 and -1 not in first else MAX_BATCH


def _config_tensor(spec: TensorSpec, *, batched: bool) -> dict[str, Any]:
    dims = list(spec.shape[1:] if batched else spec.shape)
    kind = "STRING" if spec.datatype == "BYTES" else spec.datatype
    tensor: dict[str, Any] = {"name": spec.name, "data_type": f"TYPE_{kind}", "dims": dims}
    if not dims:
        # The format has no empty list of dimensions: it says [1] and takes it back.
        tensor |= {"dims": [1], "reshape": {"shape": []}}
    return tensor


def model_statistics(statistics: Iterable[Statistics]) -> dict[str, Any]:
    """The answer of the statistics routes. Copying tensors in and out is part of `compute_infer`."""
    return {"model_stats": [_statistics(entry) for entry in statistics]}


def _statistics(entry: Statistics) -> dict[str, Any]:
    copies = {"count": entry.compute.count, "ns": 0}
    return {
        "name": entry.name,
        "version": str(entry.version),
        "last_inference": int(entry.last * 1e3),
        "inference_count": entry.inferences,
        "execution_count": entry.executions,
        "inference_stats": {
            "success": _timing(entry.success),
            "fail": _timing(entry.failure),
            "queue": _timing(entry.queue),
            "compute_input": copies,
            "compute_infer": _timing(entry.compute),
            "compute_output": copies,
            "cache_hit": {"count": 0, "ns": 0},
            "cache_miss": {"count": 0, "ns": 0},
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": {"count": timing.count, "ns": 0},
                "compute_infer": _timing(timing),
                "compute_output": {"count": timing.count, "ns": 0},
            }
            for rows, timing in sorted(entry.batches.items())
        ],
        "memory_usage": [],
    }


def _timing(timing: Timing) -> dict[str, int]:
    return {"count": timing.count, "ns": timing.ns}


def repository_index(statuses: Iterable[VersionStatus], *, ready: bool) -> list[dict[str, str]]:
    """The answer of `POST /v2/repository/index`; with `ready`, only what can answer."""
    return [
        {
            "name": status.name,
            "version": str(status.version),
            "state": _STATES[status.state],
            "reason": status.reason,
        }
        for status in statuses
        if not ready or status.state is VersionState.AVAILABLE
    ]


def not_ready(statuses: Iterable[VersionStatus]) -> list[str]:
    """A sentence for every version that cannot answer."""
    return [
        f"{status.name} version {status.version} is {_STATES[status.state]}" + (status.reason and f": {status.reason}")
        for status in statuses
        if status.state is not VersionState.AVAILABLE
    ]
