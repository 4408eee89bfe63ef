"""The body of `rung init`: the files of a template, written where none is."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from rung.domain.errors import ConfigurationError, Conflict, StorageFull

__all__ = ["TEMPLATES", "files_of", "init", "write"]

TEMPLATES = {
    "tabular": "a regression on rows of a table (XGBoost)",
    "text": "a classifier of short texts (scikit-learn)",
    "segmentation": "a small network that marks pixels (torch)",
}
"""Name of each template, and what it holds."""
_SUFFIX = ".txt"
"""Of the files as they lie in the package, so that none of them is taken for a module of rung."""


def init(folder: Path, template: str) -> None:
    """Write a project and say what to type next."""
    names = write(folder, template)
    print(f"{folder}: {template}, {TEMPLATES[template]}")
    for name in names:
        print(f"  {name}")
    where = "" if folder.resolve() == Path.cwd() else f"cd {folder};  "
    print(f"its data is generated, to be replaced by yours\nnext: {where}rung train")


def write(folder: Path, template: str) -> list[str]:
    """Write the files of a template into a folder, which is made if it is not there; their names.

    Raises:
        ConfigurationError: there is no such template.
        Conflict: one of the files is there already; nothing was written then.
        StorageFull: they cannot be written.
    """
    files = files_of(template)
    there = sorted(name for name in files if (folder / name).exists())
    if there:
        raise Conflict(
            f"{folder / there[0]} is there already, and rung init writes over nothing: name another folder, as in "
            f"rung init FOLDER --template {template}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            # "x": a file that came in between is kept, too.
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise StorageFull(f"the project cannot be written into {folder}: {error.strerror}") from None
    return sorted(files)


def files_of(template: str) -> dict[str, str]:
    """The files of a template by their names.

    Raises:
        ConfigurationError: there is no such template.
    """
    if template not in TEMPLATES:
        raise ConfigurationError(f"there is no template {template!r}; there are {', '.join(TEMPLATES)}")
    root = resources.files("rung.cli") / "templates"
    return {_name(file): file.read_text("utf-8") for place in (root, root / template) for file in _files(place)}


def _files(place: Traversable) -> list[Traversable]:
    return [file for file in place.iterdir() if file.name.endswith(_SUFFIX)]


def _name(file: Traversable) -> str:
    name = file.name.removesuffix(_SUFFIX)
    return ".gitignore" if name == "gitignore" else name
