"""Reads a project's `rung.toml`, and says of a slip where it stands and what was probably meant."""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

from rung.domain.errors import ConfigurationError, InvalidInput, RungError
from rung.domain.names import check_name, nearest
from rung.settings.front import FrontSection
from rung.settings.offline import OfflineSection
from rung.settings.oidc import OidcSettings
from rung.settings.project import ControlSettings, ProjectSection, ProjectSettings, WorkerSettings
from rung.settings.replica import DoorSettings, overlay

__all__ = ["FILE", "load_project", "parse", "project_here", "read_project"]

FILE = "rung.toml"
_CONTROL_KEY = "RUNG_CONTROL_KEY"
_EXAMPLE = '[project]\nname = "{name}"\n\n[models.{name}]   # optional: one section a model'
_Path = tuple[str, ...]
_ALERT_SECRET = "RUNG_ALERT_SECRET"  # noqa: S105 - a variable's name
_SECRET = frozenset(
    {
        ("control", "keys"),
        ("alerts", "webhook"),
        ("alerts", "webhook_secret"),
        ("alerts", "slack"),
        ("alerts", "smtp"),
        ("offline", "key"),
        ("offline", "callback_secret"),
    }
)
_KEY = re.compile(r"[!-~]{16,}", re.ASCII)
"""What a header can carry, and nobody guesses."""


def project_here() -> ProjectSettings:
    """The project in the working directory, or the defaults where there is none. Raises as `load_project` does."""
    return load_project(Path()) if Path(FILE).exists() else ProjectSettings()


def load_project(
    folder: Path, flags: Mapping[str, Mapping[str, Any]] | None = None, environ: Mapping[str, str] = os.environ
) -> ProjectSettings:
    """The settings of the project in `folder`: its file, then the environment, then flags that are not None.

    `flags` has a table for each section. The environment is RUNG_PROJECT_<NAME>, RUNG_<NAME> for `[serve]`,
    RUNG_DOOR_<NAME>, RUNG_OIDC_<NAME>, RUNG_CONTROL_<NAME>, RUNG_WORKERS_<NAME>, RUNG_FRONT_<NAME>,
    RUNG_OFFLINE_<NAME>, RUNG_CONTROL_KEY for one key more, and RUNG_ALERT_SECRET.

    Raises:
        ConfigurationError: there is no such file, or something in it or beside it is wrong.
    """
    settings = read_project(folder)
    given = flags or {}
    door = overlay(DoorSettings, settings.serve.door, {}, environ, "RUNG_DOOR_")
    oidc = overlay(OidcSettings, settings.serve.oidc, {}, environ, "RUNG_OIDC_").checked()
    serve = overlay(type(settings.serve), settings.serve, given.get("serve", {}), environ, "RUNG_")
    control = overlay(ControlSettings, settings.control, given.get("control", {}), _open(environ), "RUNG_CONTROL_")
    if key := environ.get(_CONTROL_KEY):
        control = msgspec.structs.replace(control, keys=(*control.keys, key))
    if any(not _KEY.fullmatch(key) for key in control.keys):
        raise ConfigurationError(
            f"a key of the control API ([control] keys, or {_CONTROL_KEY}) must be at least 16 printable ASCII "
            "characters without spaces"
        )
    alerts = settings.alerts
    if secret := environ.get(_ALERT_SECRET):
        alerts = msgspec.structs.replace(alerts, webhook_secret=secret)
    if not settings.project.name:
        named = msgspec.structs.replace(settings.project, name=folder.resolve().name)
        settings = msgspec.structs.replace(settings, project=named)
    return msgspec.structs.replace(
        settings,
        project=overlay(ProjectSection, settings.project, given.get("project", {}), environ, "RUNG_PROJECT_"),
        serve=msgspec.structs.replace(serve, door=door, oidc=oidc),
        control=control,
        offline=overlay(OfflineSection, settings.offline, given.get("offline", {}), environ, "RUNG_OFFLINE_"),
        front=overlay(FrontSection, settings.front, given.get("front", {}), environ, "RUNG_FRONT_"),
        workers=overlay(WorkerSettings, settings.workers, given.get("workers", {}), environ, "RUNG_WORKERS_"),
        alerts=alerts,
    )


def _open(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without a variable whose slips would be quoted."""
    return {name: value for name, value in environ.items() if name != "RUNG_CONTROL_KEYS"}


def read_project(folder: Path) -> ProjectSettings:
    """What the file alone says. Raises `ConfigurationError`."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        name = "".join(letter if letter.isalnum() else "-" for letter in folder.resolve().name.lower()).strip("-")
        raise ConfigurationError(
            f"there is no {FILE} in {folder.resolve()}: a project is a folder with one, such as\n\n"
            f"{_EXAMPLE.format(name=name or 'my-project')}\n"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    if not text.strip():
        raise ConfigurationError(f"{path} is empty: write at least\n\n{_EXAMPLE.format(name='my-project')}\n")
    return parse(text, str(path))


def parse(text: str, where: str = FILE) -> ProjectSettings:
    """The settings in the text of a project file.

    Raises:
        ConfigurationError: with file and line, the key, and for an unknown one the nearest that there is.
    """
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{where} is not valid TOML: {error or 'it is nested too deeply'}") from None
    try:
        settings: ProjectSettings = _struct(ProjectSettings, table, ())
    except _Slip as slip:
        line = _line_of(text, slip.path)
        place = f"{where}:{line}" if line else where
        raise ConfigurationError(f"{place}: {slip.reason}") from None
    return settings


class _Slip(Exception):
    """Something is wrong at `path`."""

    def __init__(self, path: _Path, reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


def _struct(kind: type[Any], table: Any, path: _Path) -> Any:
    if not isinstance(table, dict):
        raise _Slip(path, f"`{_dotted(path)}` must be a table of settings, not {table!r:.60}")
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            raise _Slip((*path, key), _unknown(kind, key, path))
    found = {key: _value(fields[key], value, (*path, key)) for key, value in table.items()}
    try:
        return kind(**found)
    except RungError as error:
        # A rule that a type cannot say; the setting that it names is one of these.
        slip = next((key for key, value in found.items() if repr(value)[:60] in str(error)), "")
        raise _Slip((*path, slip) if slip else path, f"in [{_dotted(path)}]: {error}") from None


def _value(kind: Any, value: Any, path: _Path) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(kind, value, path)
    if isinstance(value, dict) and get_origin(kind) is UnionType:
        # A setting that has a short form as text and a long one as a table.
        tables = [one for one in get_args(kind) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
        if len(tables) == 1:
            return _struct(tables[0], value, path)
    if get_origin(kind) is dict and path == ("models",):
        if not isinstance(value, dict):
            raise _Slip(path, "`models` must have a section for each model: [models.NAME]")
        return {name: _model(get_args(kind)[1], name, one, (*path, name)) for name, one in value.items()}
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, InvalidInput) as error:
        shown = "" if path in _SECRET else f" = {value!r:.80}"
        raise _Slip(path, f"`{_dotted(path)}`{shown} will not do: {error}") from None


def _model(kind: type[Any], name: str, table: Any, path: _Path) -> Any:
    try:
        check_name(name)
    except InvalidInput as error:
        raise _Slip(path, f"`{_dotted(path)}`: {error}") from None
    return _struct(kind, table, path)


def _unknown(kind: type[Any], key: str, path: _Path) -> str:
    """What to say of a key that is none: what it resembles, or where it belongs, or what there is."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    inside = f"in [{_dotted(path)}]" if path else f"at the top of {FILE}"
    known = f"there is no `{key}` {inside}"
    for name, below in fields.items():
        if isinstance(below, type) and issubclass(below, msgspec.Struct) and key in below.__struct_fields__:
            return f"{known}; it belongs into [{_dotted((*path, name))}]"
    if near := nearest(key, fields):
        return f"{known}; did you mean `{near}`?"
    return f"{known}; there are {', '.join(sorted(fields))}"


def _dotted(path: _Path) -> str:
    return ".".join(path)


# --- where a key stands ---------------------------------------------------------------------------


def _line_of(text: str, path: _Path) -> int:
    """The line in which the key at `path` is given, counted from 1; 0 where that cannot be told."""
    table: _Path = ()
    best = 0
    for line, statement in _statements(text):
        content = tomllib.loads(statement)
        if statement.lstrip().startswith("["):
            table = _keys(content)
            if table[: len(path)] == path:
                return line
        elif table == path[: len(table)] and _holds(content, path[len(table) :]):
            # The innermost wins: a long table over several lines is one statement.
            best = line + _offset(statement, path[-1])
    return best


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Headers and assignments of a valid TOML text, each with its first line."""
    begun, parts = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not parts:
            begun = number
            if not line.strip() or line.lstrip().startswith("#"):
                continue
        parts += line + "\n"
        try:
            tomllib.loads(parts)
        except tomllib.TOMLDecodeError:
            continue  # a value that goes on over further lines
        yield begun, parts
        parts = ""


def _keys(table: Any) -> _Path:
    found: list[str] = []
    while isinstance(table, dict) and table:
        name, table = next(iter(table.items()))
        found.append(name)
        if isinstance(table, list):
            table = table[-1]
    return tuple(found)


def _holds(table: Any, path: _Path) -> bool:
    for name in path:
        if not isinstance(table, dict) or name not in table:
            return False
        table = table[name]
    return True


def _offset(statement: str, key: str) -> int:
    lines = statement.split("\n")
    return next((number for number, line in enumerate(lines) if key in line.partition("#")[0]), 0)
