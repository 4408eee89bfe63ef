"""The prediction log of a replica, put together from settings."""

from collections.abc import Mapping
from pathlib import Path

from rung.domain.errors import ConfigurationError
from rung.serving.log import PredictionLog
from rung.serving.log_encoding import LogPolicy
from rung.settings import ServeSettings
from rung.settings.project import ProjectSettings
from rung.store.keys import load_key

__all__ = ["open_log", "policies_of"]

_MOST = 64
"""Replicas of one folder that are counted up before giving up."""


def policies_of(settings: ProjectSettings) -> dict[str, LogPolicy]:
    """What the log keeps, for each model that the project says something about."""
    sections = {name: model.serve.log for name, model in settings.models.items()}
    return {name: LogPolicy(one.inputs, one.outputs, one.sample, one.tensor_bytes) for name, one in sections.items()}


def open_log(
    settings: ServeSettings, replica: str = "", policies: Mapping[str, LogPolicy] | None = None
) -> PredictionLog | None:
    """A log that writes; None where the settings name no folder.

    Without a name of its own a replica takes the first of `serve-1`, `serve-2`, ... that no other process has.

    Raises:
        ConfigurationError: the folder or the key cannot be used.
    """
    if not settings.log:
        return None
    key = load_key(Path(settings.log_key))
    default = LogPolicy(settings.log_inputs, settings.log_outputs, settings.log_sample, settings.log_tensor_bytes)
    names = [replica] if replica else [f"serve-{number}" for number in range(1, _MOST + 1)]
    refused: ConfigurationError | None = None
    for name in names:
        log = PredictionLog(
            Path(settings.log),
            key,
            replica=name,
            default=default,
            policies=policies,
            buffer_bytes=settings.log_buffer,
        )
        try:
            log.open()
        except ConfigurationError as error:
            # The first reason is that of the folder, or of the process that was here first.
            refused = refused or error
        else:
            return log
    assert refused is not None
    raise refused
