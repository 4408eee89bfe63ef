"""Explicit model control: load, unload and add while the process runs.

What a request may add lies below the model store that whoever started the server named, and is data there: a
class of somebody's own is only ever taken from the command line.
"""

import asyncio
from pathlib import Path
from urllib.parse import unquote

from rung.catalog.source import artifact_in, open_source
from rung.domain.errors import BundleError, ConfigurationError, Conflict, InvalidInput, NotFound, Unsupported
from rung.domain.names import check_name
from rung.ports import Source
from rung.serving.background import in_background
from rung.serving.manager import Manager

__all__ = ["Control", "below"]


class Control:
    """`ports.Control` over a manager. `store` is a folder or a URL; empty refuses additions."""

    def __init__(self, manager: Manager, store: str, cache: Path, *, allowed: bool = True) -> None:
        self._manager = manager
        self._store = store
        self._cache = cache
        self._allowed = allowed
        self._added: dict[str, Source] = {}
        # Two changes at once would each wait for the other's models.
        self._changing = asyncio.Lock()

    def _check_allowed(self) -> None:
        if not self._allowed:
            raise Unsupported(
                "models are not loaded and unloaded by request here, since other machines can reach this port: "
                "set RUNG_MODEL_CONTROL=on to allow it"
            )

    async def load(self, name: str) -> None:
        """Load, or load anew, a model that a source offers."""
        self._check_allowed()
        async with self._changing:
            if not self._manager.offers(name):
                raise NotFound(f"no source of this server offers a model {name!r:.80}")
            await self._manager.bring(name)

    async def unload(self, name: str) -> None:
        """Drain and unload every version of a model."""
        self._check_allowed()
        async with self._changing:
            await self._unload(name)

    async def add(self, name: str, target: str) -> None:
        """Serve what lies at `target` below the model store."""
        self._check_allowed()
        check_name(name)
        async with self._changing:
            if self._manager.offers(name):
                raise Conflict(f"model {name!r} is served here already")
            source = await in_background(self._open, name, target)
            self._manager.attach(source)
            self._added[name] = source
            try:
                await self._manager.bring(name)
            except BaseException:
                await self._unload(name)
                raise
            if not self._manager.offers(name):
                await self._unload(name)
                raise NotFound(f"there is no model {name!r} at {target!r:.200}")

    async def _unload(self, name: str) -> None:
        source = self._added.pop(name, None)
        if source is None and not self._manager.offers(name):
            raise NotFound(f"unknown model {name!r:.80}")
        await self._manager.send_away(name)
        if source is not None:
            await self._manager.detach(source, name)

    def _open(self, name: str, target: str) -> Source:
        place = below(self._store, target)
        if "://" in place:
            folder, _, last = place.rstrip("/").rpartition("/")
            if last != name:
                raise InvalidInput(f"a model at a URL is called as its folder: use the name {last!r:.80}")
            place = folder
        try:
            return open_source(artifact_in(place), name, self._cache)
        except ConfigurationError as error:
            raise InvalidInput(str(error)) from None
        except OSError as error:
            raise BundleError(f"{target!r:.200} cannot be read: {error}") from error


def below(store: str, target: str) -> str:
    """Path or URL of `target`, which is relative to the model store, or lies below it.

    Raises:
        Unsupported: there is no model store.
        InvalidInput: the target leads out of it.
        NotFound: nothing lies there.
    """
    if not store:
        raise Unsupported("this server adds no models over the wire: start it with RUNG_MODEL_STORE=FOLDER")
    outside = InvalidInput(f"{target!r:.200} is not below the model store: give a path in it")
    if not target or "\0" in target or ".." in unquote(target).split("/"):
        raise outside
    if "://" in store:
        prefix = store.rstrip("/") + "/"
        if "://" not in target:
            target = prefix + target.lstrip("/")
        if not target.startswith(prefix) or not target[len(prefix) :].strip("/") or set(target) & set("?#%\\"):
            raise outside
        return target
    if "://" in target:
        scheme, _, target = target.partition("://")
        if scheme != "file" or not target.startswith("/"):
            raise InvalidInput(f"the model store is a folder: {scheme}:// is not fetched from here")
    root = Path(store).resolve()
    path = (root / target).resolve()
    if not path.is_relative_to(root) or path == root:
        raise outside
    if not path.exists():
        raise NotFound(f"there is nothing at {target!r:.200} in the model store")
    return str(path)
