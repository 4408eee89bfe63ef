"""The public surface: what each module exports is what it says."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = [path for path in sorted(SOURCE.rglob("*.py")) if path.read_text().strip()]


def exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def defined(tree: ast.Module) -> set[str]:
    """Public names that the module makes itself."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_all_is_sorted_and_complete(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = exported(tree)
    if path.name == "__init__.py" and names is None:
        assert not defined(tree), f"{path} defines names but no __all__"
        return

    assert names is not None, f"{path} has no __all__"
    # Constants, then classes, then functions, as ruff sorts them.
    assert names == sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))
    if "cli" not in path.parts:  # Typer reads commands by their decorators; nobody imports them
        assert defined(tree) <= set(names), "public by its name, not exported: give it an underscore or export it"
    if path.name != "__init__.py":
        assert set(names) <= defined(tree), "exported but not made here"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_what_is_exported_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.name == "__init__.py" and exported(tree) is None:
        assert ast.get_docstring(tree), f"{path} does not say what it is"
        return
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]

    assert ast.get_docstring(tree), f"{path} does not say what it is"
    assert bare == []
