"""Every error that rung raises on purpose, sorted by who has to act.

    RungError
    ├── ClientError             the caller has to change the request
    │   ├── InvalidInput        a field of it is wrong; `field` names it
    │   ├── Unauthenticated     it does not say who calls, or not truly
    │   ├── Forbidden           not for this caller
    │   ├── NotFound            no such model, version or path
    │   ├── TooLarge            over a stated limit
    │   ├── UnsupportedMedia    a content type or encoding nobody here reads
    │   ├── NotAcceptable       no answer in any form the caller accepts
    │   ├── Unsupported         known to the protocol, not offered here
    │   ├── Conflict            it exists already, or someone else moved first
    │   ├── Overloaded          come back in `retry_after` seconds
    │   ├── DeadlineExceeded    the caller's own time limit ran out
    │   └── Cancelled           the caller left
    ├── NotReady                the server is starting, draining or has not loaded this yet
    ├── ModelError              the model failed on an input that passed every check
    │   └── WorkerDied          the process that held the model ended or hung
    └── OperatorError           whoever runs rung has to change something
        ├── ConfigurationError  a setting, flag or project file
        ├── BundleError         a model version that may not be served, with the reason
        ├── MissingDependency   an optional extra that is not installed
        ├── StorageFull         no room on the disk; nothing was written
        ├── InvalidData         data that may not be trained on
        └── TrainingFailed      a run that ended without a model
            └── TrainingKilled  its process was killed from outside; it can go on

Messages are whole sentences for a person. Numbers of a protocol (HTTP, gRPC) are not known here:
`rung.protocols.status` maps these classes to them.
"""

__all__ = [
    "BundleError",
    "Cancelled",
    "ClientError",
    "ConfigurationError",
    "Conflict",
    "DeadlineExceeded",
    "Forbidden",
    "InvalidData",
    "InvalidInput",
    "MissingDependency",
    "ModelError",
    "NotAcceptable",
    "NotFound",
    "NotReady",
    "OperatorError",
    "Overloaded",
    "RungError",
    "StorageFull",
    "TooLarge",
    "TrainingFailed",
    "TrainingKilled",
    "Unauthenticated",
    "Unsupported",
    "UnsupportedMedia",
    "WorkerDied",
]


class RungError(Exception):
    """Something rung says on purpose; the docstring is the message where none is given."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class ClientError(RungError):
    """The request has to change."""


class InvalidInput(ClientError):
    """The input does not fit what the model expects."""

    def __init__(self, message: str = "", *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class Unauthenticated(ClientError):
    """A valid key is needed: send `Authorization: Bearer KEY`."""


class Forbidden(ClientError):
    """This caller may not do this."""


class NotFound(ClientError):
    """There is no such thing here."""


class TooLarge(ClientError):
    """The request is larger than this server accepts."""


class UnsupportedMedia(ClientError):
    """This content type or encoding is not read here."""


class NotAcceptable(ClientError):
    """The answer cannot be given in any of the accepted forms."""


class Unsupported(ClientError):
    """The protocol knows this, this server does not offer it."""


class Conflict(ClientError):
    """It exists already."""


class Overloaded(ClientError):
    """More is asked than can be answered in time; try again later."""

    def __init__(self, message: str = "", *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which the predicted wait has passed."""


class DeadlineExceeded(ClientError):
    """The deadline of the request passed before its answer was ready."""


class Cancelled(ClientError):
    """The caller left before the answer was ready."""


class NotReady(RungError):
    """Not ready to answer yet."""


class ModelError(RungError):
    """The model failed on this input."""


class WorkerDied(ModelError):
    """The process that holds the model ended while it computed."""

    def __init__(self, message: str = "", *, hung: bool = False) -> None:
        super().__init__(message)
        self.hung = hung
        """Whether it was ended because it gave no answer in time."""


class OperatorError(RungError):
    """Whoever runs rung has to change something."""


class ConfigurationError(OperatorError):
    """A setting is wrong."""


class BundleError(OperatorError):
    """This model version may not be served."""

    def __init__(self, message: str = "", *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final
        """Whether it is no use to try the same bytes again."""


class MissingDependency(OperatorError):
    """An optional part of rung is not installed."""


class StorageFull(OperatorError):
    """The disk is full; nothing was written."""


class InvalidData(OperatorError):
    """The data may not be trained on: it is empty, unreadable, or not what it was."""


class TrainingFailed(OperatorError):
    """A run ended without a model; the registry is as it was."""


class TrainingKilled(TrainingFailed):
    """The process of a run was killed from outside, by somebody or for want of memory; tried again, it goes on."""
