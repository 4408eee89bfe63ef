"""The public surface: what each module exports is what it says."""

import ast
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path.read_text().strip()]
TREES = {path: ast.parse(path.read_text()) for path in MODULES}


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def made(tree: ast.Module) -> set[str]:
    """Names that the module makes itself, at its top level."""
    names = functions_and_classes(tree)
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names - {"__all__"}


def functions_and_classes(tree: ast.Module) -> set[str]:
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


@cache
def imports() -> dict[str, set[str]]:
    """Module of ours -> names that others import from it. Worked out once: every tree is walked for it."""
    found: dict[str, set[str]] = {}
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                found.setdefault(node.module, set()).update(alias.name for alias in node.names)
    return found


def imported_from(module: str) -> set[str]:
    """Names that other modules of ours import from it."""
    return imports().get(module, set())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_all_is_sorted_and_complete(path: Path) -> None:
    tree = TREES[path]
    names = exported(tree)
    if names is None:
        assert path.name in ("__init__.py", "__main__.py"), f"{path} has no __all__"
        assert not made(tree), f"{path} makes names but has no __all__"
        return

    # Constants, then classes, then functions, as ruff sorts them.
    assert names == sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))
    assert set(names) <= made(tree), "exported but not made here"
    if {"cli", "api"} & {*path.parts}:
        return  # Typer and FastAPI find commands and routes by their decorators; nobody imports them
    public = {name for name in functions_and_classes(tree) if not name.startswith("_")}
    assert public <= set(names), "public by its name, not exported: give it an underscore or export it"
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    assert imported_from(module) <= set(names), "imported elsewhere, so it belongs in __all__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_is_exported_is_documented(path: Path) -> None:
    tree = TREES[path]
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]

    assert ast.get_docstring(tree), f"{path} does not say what it is"
    assert bare == []
