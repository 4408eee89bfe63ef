"""Settings of a replica. Flags override the environment (`RUNG_PORT=9000`), which overrides defaults.

These are msgspec structs: importing pydantic would cost a replica more than half of its cold-start
budget (docs/decisions/0002).
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from rung.domain.errors import ConfigurationError
from rung.settings.cache import cache_place
from rung.settings.oidc import OidcSettings

__all__ = ["DoorSettings", "Platform", "ServeSettings", "load", "overlay", "platform"]

_Settings = TypeVar("_Settings", bound=msgspec.Struct)


# Bounds are part of the types, so that a slip is refused with its name and not served.
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_Duration = Annotated[float, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class DoorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the HTTP door. Each protects every caller from one."""

    max_body: _Count = 64 << 20
    """Largest request body in bytes, also after decompression; 413 beyond it."""
    max_head: _AtLeastOne = 32 << 10
    """Largest request line with headers in bytes; 431 beyond it."""
    max_headers: _AtLeastOne = 100
    """Most header lines in a request; 431 beyond it."""
    max_connections: _AtLeastOne = 10_000
    """Connections at once; further ones are closed on arrival."""
    max_pipelined: _AtLeastOne = 64
    """Requests of one connection in work at once; reading pauses beyond it."""
    head_seconds: _Seconds = 8.0
    """Time for a request's head to arrive whole."""
    body_seconds: _Seconds = 8.0
    """Time in which `min_rate` is judged, for bodies coming in and replies going out."""
    min_rate: _Count = 1024
    """Slowest transfer in bytes per second over `body_seconds`; slower connections are closed."""
    idle_seconds: _Seconds = 75.0
    """Time a connection may wait for its next request."""
    drain_seconds: _Duration = 30.0
    """Time that requests in work get to finish after SIGTERM."""


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How `rung serve` answers."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: _Port = 8000
    """Port of the data door; 0 lets the kernel choose."""
    objective_ms: _Duration = 0.0
    """Latency to hold, in milliseconds: batches are capped so that a call stays within it.
    0 means twice the cost of one row, and at least 10 ms."""
    max_wait_ms: _Duration = 1000.0
    """Longest predicted wait at which a request is still let in; 429 beyond it."""
    coalesce: bool = False
    """Compute equal requests in flight once. For models whose answer depends on the input alone."""
    cache: str = ""
    """Keep answers: a size (`64MiB`), a URL (`redis://HOST:PORT/DATABASE`, to share them) or both with a
    comma between. For models whose answer depends on the input alone. Empty: none are kept."""
    cache_ttl_seconds: _Seconds = 600.0
    """Longest time for which an answer is given again."""
    cache_private: bool = False
    """Give an answer again to the same caller only (`authorization`, `x-api-key`, unit); without one, never."""
    cache_models: tuple[str, ...] = ()
    """Models whose answers are kept; empty: all whose call costs more than looking an answer up."""
    log: str = ""
    """Folder of the prediction log; empty: answers get no id, nothing is logged and no feedback is taken."""
    log_inputs: Literal["off", "digest", "body", "tensors", "both"] = "off"
    """What the log keeps of what was asked: nothing, a digest, the body as it came, the tensors made of it, or both."""
    log_outputs: Literal["off", "digest", "summary", "tensors"] = "summary"
    """What it keeps of what was answered; `summary` is mean, minimum and maximum of each output."""
    log_sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of the units whose requests are logged."""
    log_tensor_bytes: _Count = 64 << 10
    """Tensors and bodies above this size are left out of the log; digest or summary stand in for them."""
    log_buffer: _Count = 64 << 20
    """Bytes of records held until the disk has them; beyond it records are left out, and counted."""
    log_key: str = ".rung/keys/prediction.key"
    """File with the key that prediction ids are signed with; made when there is none."""
    lanes: _Count = 0
    """Model calls at once per model; 0 means one per core of this process."""
    threads: _Count = 0
    """Cores a lone call may spread over; 0 means all of this process."""
    keep: Literal["latest", "all"] = "latest"
    """Which versions of each model to serve: the `versions` latest, or all."""
    versions: _AtLeastOne = 1
    """How many of the latest versions to keep, with `keep = latest`."""
    pin: tuple[_AtLeastOne, ...] = ()
    """Serve exactly these versions."""
    swap: Literal["availability", "resources"] = "availability"
    """Load the new version before the old one goes, or free the old one's memory first."""
    poll_seconds: _Seconds = 0.5
    """How often the repository is looked at."""
    load_retries: _Count = 2
    """How often a failed load is tried again, for the same bytes."""
    hang_seconds: _Seconds = 30.0
    """After this a call in a Python model's process counts as hung, and the process is replaced."""
    worker_memory: _Count = 0
    """Memory limit in bytes of a Python model's process; 0 means none."""
    access_log: bool = False
    """Write one line per request."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """`auto` writes for people on a terminal and JSON elsewhere."""
    server_name: Literal["rung", "triton"] = "rung"
    """What server metadata says: some Triton clients insist on `triton`."""
    model_control: Literal["auto", "on", "off"] = "auto"
    """Whether requests may load, unload and add models. `auto` allows it where only this machine can
    ask (a loopback `host`), and where `model_store` is set."""
    arm_header: Literal["auto", "on", "off"] = "auto"
    """Whether a request may pick its arm of a release by the header `rung-arm`, as testers do. `auto` allows it
    where only this machine can ask; where keys are asked for, to operators."""
    key_store: str = ".rung/access"
    """Where the keys of callers lie: a folder, or `s3://bucket/prefix` that several machines share."""
    require_key: bool = False
    """Ask for a key also before there is one for callers; else the first one closes the door to who has none."""
    tls_certificate: str = ""
    """PEM file of the certificate with its chain, read again when it changes; empty: nothing is encrypted."""
    tls_key: str = ""
    """PEM file of its private key; empty: it is in the file of the certificate."""
    model_store: str = ""
    """Folder or URL below which models may be added over the wire; empty refuses that."""
    health_route: str = ""
    """A further path for health, such as Vertex AI's AIP_HEALTH_ROUTE."""
    predict_route: str = ""
    """A further path for predictions, such as Vertex AI's AIP_PREDICT_ROUTE."""
    door: DoorSettings = DoorSettings()
    oidc: OidcSettings = OidcSettings()

    def __post_init__(self) -> None:
        cache_place(self.cache)


class Platform(msgspec.Struct, frozen=True):
    """What a managed platform says in its container's environment."""

    settings: dict[str, str]
    """Name of a setting -> its value; a flag or `RUNG_<NAME>` wins over it."""
    targets: tuple[str, ...]
    """What to serve where the command line names nothing."""
    model_store: bool = False
    """Whether models come one by one over the wire, so that none at the start is right."""


def platform(environ: Mapping[str, str] = os.environ) -> Platform | None:
    """The platform that started this process, by its variables; None where there is none.

    SageMaker: SAGEMAKER_BIND_TO_PORT, SAGEMAKER_MULTI_MODEL, SM_MODEL_DIR. Vertex AI: AIP_HTTP_PORT,
    AIP_HEALTH_ROUTE, AIP_PREDICT_ROUTE, AIP_STORAGE_URI. Both reach the container from outside, so the address
    is every one.
    """
    if "SAGEMAKER_BIND_TO_PORT" in environ:
        found = {"host": "0.0.0.0", "port": environ["SAGEMAKER_BIND_TO_PORT"]}  # noqa: S104 - the platform asks for it
        if environ.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
            return Platform(_free(found | {"model_store": "/opt/ml/models"}, environ), (), model_store=True)
        return Platform(_free(found, environ), (environ.get("SM_MODEL_DIR") or "/opt/ml/model",))
    if "AIP_HTTP_PORT" in environ:
        found = {"host": "0.0.0.0", "port": environ["AIP_HTTP_PORT"]}  # noqa: S104 - the platform asks for it
        for setting in ("health_route", "predict_route"):
            if environ.get(f"AIP_{setting.upper()}"):
                found[setting] = environ[f"AIP_{setting.upper()}"]
        storage = environ.get("AIP_STORAGE_URI")
        return Platform(_free(found, environ), (storage,) if storage else ())
    return None


def _free(found: dict[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if f"RUNG_{name.upper()}" not in environ}


def load(overrides: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServeSettings:
    """Defaults, then `RUNG_<NAME>` (`RUNG_DOOR_<NAME>` for the door, `RUNG_OIDC_<NAME>` for tokens), then the overrides
    that are not None.

    Raises:
        ConfigurationError: naming the setting and where its value came from.
    """
    door = overlay(DoorSettings, DoorSettings(), {}, environ, "RUNG_DOOR_")
    rest = overlay(ServeSettings, ServeSettings(), overrides, environ, "RUNG_")
    oidc = overlay(OidcSettings, OidcSettings(), {}, environ, "RUNG_OIDC_").checked()
    return msgspec.structs.replace(rest, door=door, oidc=oidc)


def overlay(
    kind: type[_Settings], base: _Settings, overrides: Mapping[str, Any], environ: Mapping[str, str], prefix: str
) -> _Settings:
    """`base`, then the variables that begin with `prefix`, then the overrides that are not None.

    Raises:
        ConfigurationError: naming the setting and where its value came from.
    """
    chosen: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        variable = prefix + field.name.upper()
        if overrides.get(field.name) is not None:
            value, origin = overrides[field.name], f"--{field.name.replace('_', '-')}"
        elif prefix and variable in environ:
            text = environ[variable]
            # Several values are separated by commas.
            value, origin = text.split(",") if isinstance(field.default, tuple) else text, variable
        else:
            continue
        # One by one, so that the message can say which and from where.
        try:
            chosen[field.name] = getattr(msgspec.convert({field.name: value}, kind, strict=False), field.name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{origin} is not a valid setting: {error}") from None
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{origin}={value!r} is not a valid setting: {error}") from None
    return msgspec.structs.replace(base, **chosen)
