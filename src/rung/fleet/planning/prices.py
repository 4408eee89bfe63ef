"""What platforms cost and how they start: a file that whoever plans fills in from their provider's page.

    [platforms.vm]                  # a machine, with so many replicas on it
    kind = "machine"
    hour = 0.0832                   # price of a running one
    replicas = 2
    start_seconds = 60

    [platforms.container]           # one replica, paid while it runs
    kind = "container"
    hour = 0.0506
    start_seconds = 15

    [platforms.function]            # paid by request and by second of computing
    kind = "function"
    request = 0.0000002
    second = 0.0000166667
    start_seconds = 3
    idle_seconds = 300

The same as JSON. Prices are in any one currency.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = ["Platform", "Prices", "read_prices"]

_Price = Annotated[float, msgspec.Meta(ge=0)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]


class Platform(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where replicas may run."""

    kind: Literal["machine", "container", "function"]
    hour: _Price = 0.0
    """Of a machine or a container that runs, from its start on."""
    request: _Price = 0.0
    """Of a request."""
    second: _Price = 0.0
    """Of a second that a function computes."""
    replicas: Annotated[int, msgspec.Meta(ge=1)] = 1
    """On one machine."""
    start_seconds: _Price = 0.0
    """From the wish for a replica until it answers."""
    idle_seconds: _Price = 300.0
    """For which a function that has answered stays warm."""
    speed: _Positive = 1.0
    """How fast it computes, compared with where the model was measured."""
    most: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Most replicas, or functions at once; 0: no limit."""


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Platforms by name."""

    platforms: dict[str, Platform]
    currency: str = ""
    """Such as `USD`."""


def read_prices(path: Path) -> Prices:
    """Read a file of prices, TOML or JSON by its ending.

    Raises:
        ConfigurationError: it cannot be read; the message names the field.
    """
    try:
        data = path.read_bytes()
        table: Any = msgspec.json.decode(data) if path.suffix == ".json" else tomllib.loads(data.decode())
        prices = msgspec.convert(table, Prices)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.MsgspecError) as error:
        raise ConfigurationError(f"{path} is no file of prices: {error}") from None
    if not prices.platforms:
        raise ConfigurationError(f"{path} has no platform: write a section [platforms.NAME] with its kind and price")
    return prices
