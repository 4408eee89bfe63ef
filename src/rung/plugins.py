"""Tables from a name to `"module:attr"`: nothing is imported until it is chosen.

To add a runtime or a transform: write its file, add its row here, and run its port's conformance suite.
"""

from importlib import import_module
from typing import Any

from rung.domain.errors import ConfigurationError

__all__ = ["QUEUES", "RUNTIMES", "TRANSFORMS", "resolve"]

RUNTIMES: dict[str, str] = {
    # In the order in which a file is offered to them.
    "mlflow": "rung.runtimes.mlflow:MlflowRuntime",  # first: its folder holds another framework's file
    "onnx": "rung.runtimes.onnx:OnnxRuntime",
    "sklearn": "rung.runtimes.sklearn:SklearnRuntime",
    "xgboost": "rung.runtimes.xgboost:XGBoostRuntime",
    "lightgbm": "rung.runtimes.lightgbm:LightGBMRuntime",
    "torch": "rung.runtimes.torch:TorchRuntime",
    "tensorflow": "rung.runtimes.tensorflow:TensorFlowRuntime",
    "litert": "rung.runtimes.litert:LiteRTRuntime",
    "table": "rung.runtimes.table:TableRuntime",
    "python": "rung.runtimes.python:PythonRuntime",
}

TRANSFORMS: dict[str, str] = {
    "image.decode": "rung.transforms.images:decode",
    "image.resize": "rung.transforms.images:resize",
    "image.normalize": "rung.transforms.images:normalize",
    "image.layout": "rung.transforms.images:layout",
    "text.encode": "rung.transforms.text:encode",
    "text.wordpiece": "rung.transforms.text:wordpiece",
    "text.tfidf": "rung.transforms.tfidf:tfidf",
    "tabular.columns": "rung.transforms.tabular:columns",
    "segmentation.mask": "rung.transforms.heads:segmentation_mask",
    "classification.top_k": "rung.transforms.classification:top_k",
    "detection.boxes": "rung.transforms.detection:boxes",
    "regression.value": "rung.transforms.regression:number",
    "embedding.vector": "rung.transforms.embedding:vector",
}

QUEUES: dict[str, str] = {
    # Scheme of the setting `queue` -> the function that opens it.
    "sql": "rung.jobs.brokers.sql:open_sql",
    "nats": "rung.jobs.brokers.nats:open_nats",
    "tls": "rung.jobs.brokers.nats:open_nats",
    "redis": "rung.jobs.brokers.redis:open_redis",
    "rediss": "rung.jobs.brokers.redis:open_redis",
    "valkey": "rung.jobs.brokers.redis:open_redis",
    "valkeys": "rung.jobs.brokers.redis:open_redis",
    "unix": "rung.jobs.brokers.redis:open_redis",
}


def resolve(table: dict[str, str], name: str, kind: str) -> Any:
    """Import and return what `name` stands for in `table`.

    Raises:
        ConfigurationError: there is no such name; the message lists those there are.
    """
    try:
        module, _, attribute = table[name].partition(":")
    except KeyError:
        raise ConfigurationError(f"there is no {kind} {name!r}; there are: {', '.join(table)}") from None
    return getattr(import_module(module), attribute)
