"""Which role each route takes: stated beside the route, shown in the document, and checked before the route is."""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from fastapi import Depends, Request
from starlette.routing import BaseRoute, Match

from rung.domain.access import Key, Needs

__all__ = ["ROLE", "Caller", "Wanted", "finder", "name_of", "needs"]

ROLE = "x-rung-role"
"""Where the document states the role of an operation."""
LARGEST = "x-rung-largest"
"""Where it states the bytes that a body may have, where these are more than usual."""

_LARGEST = 1 << 20


class Wanted(msgspec.Struct, frozen=True):
    """What a request takes."""

    role: Needs
    model: str | None = None
    """The model that it is about."""
    largest: int = _LARGEST
    """Bytes that its body may have."""


def needs(role: Needs, largest: int = 0) -> dict[str, Any]:
    """For `openapi_extra`: the least role that may call this route, and the bytes of a body where they are many."""
    return {ROLE: role, LARGEST: largest} if largest else {ROLE: role}


def finder(routes: list[BaseRoute]) -> Callable[[Any], Wanted]:
    """What a request takes, by its scope. What leads nowhere here takes a viewer, as the document of the routes does;
    a route that says nothing takes an admin.
    """

    def find(scope: Any) -> Wanted:
        for route in routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                stated = getattr(route, "openapi_extra", None) or {}
                model = child.get("path_params", {}).get("model")
                return Wanted(stated.get(ROLE, "admin"), model, stated.get(LARGEST, _LARGEST))
        return Wanted("viewer")

    return find


def _caller(request: Request) -> Key | None:
    found = request.scope.get("rung.key")
    assert found is None or isinstance(found, Key)
    return found


Caller = Annotated[Key | None, Depends(_caller)]
"""The key that a request came with; None where none is asked for."""


def name_of(caller: Key | None, said: str) -> str:
    """Who makes a change: the name of the key, and beside it who else the request says, if it does."""
    if caller is None:
        return said
    return caller.name if said == "api" else f"{said} (key {caller.name})"
