"""What an importer found: models to register, and what stays behind, each with its reason."""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from rung.catalog.importers.textproto import Message, one
from rung.domain.errors import InvalidInput
from rung.domain.models import Graph
from rung.domain.names import check_name, name_from

__all__ = ["Found", "Left", "Plan", "called", "chosen_versions", "named", "version_folders"]


class Found(msgspec.Struct, frozen=True):
    """One version that may be registered."""

    name: str
    artifact: Path
    source: str
    """Where it came from, as the user knows it."""
    version: int = 0
    """The peer's number; 0 takes the next."""
    task: str = ""
    labels: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    """Datatypes that the peer's configuration states, by tensor; compared with the artifact's."""
    outputs: dict[str, str] = {}
    graph: Graph | None = None
    """How other models of the plan make it, in place of an artifact."""


class Left(msgspec.Struct, frozen=True):
    """Something that was not carried over."""

    what: str
    """A setting or file of the peer's, with the model that it belongs to: `simple: instance_group`."""
    reason: str


class Plan(msgspec.Struct):
    """Everything found at one place."""

    kind: str
    """What the source was taken for."""
    found: list[Found] = []
    left: list[Left] = []

    def leave(self, what: str, reason: str) -> None:
        """Say that something stays behind."""
        self.left.append(Left(what, reason))


def called(name: str) -> str:
    """The name under which a peer's model is registered."""
    try:
        return check_name(name)
    except InvalidInput:
        return name_from(name)


def named(plan: Plan, name: str) -> str:
    """As `called`; a change of name is noted."""
    try:
        return check_name(name)
    except InvalidInput as error:
        plan.leave(f"{name}: its name", f"it is called {called(name)} here: {error}")
        return called(name)


def version_folders(folder: Path) -> dict[int, Path]:
    """Number -> folder of each version in a model's folder, ascending."""
    if not folder.is_dir():
        return {}
    numbered = {int(c.name): c for c in folder.iterdir() if c.is_dir() and c.name.isdecimal() and len(c.name) < 16}
    return dict(sorted((number, path) for number, path in numbered.items() if number))


def chosen_versions(numbers: Iterable[int], policy: Message) -> list[int]:
    """Versions that a version policy serves; TF Serving and Triton write it alike: `all`, `specific`, else `latest`."""
    numbers = sorted(numbers)
    if "all" in policy:
        return numbers
    if "specific" in policy:
        listed = one(policy, "specific", {}).get("versions", [])
        return [number for number in numbers if number in listed]
    return numbers[-max(1, one(one(policy, "latest", {}), "num_versions", 1)) :]
