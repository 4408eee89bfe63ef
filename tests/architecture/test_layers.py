"""The house: who may import whom, what a part may be called, and how large it should stay."""

import ast
import subprocess
import sys
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "rung"
MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), str(path)) for path in MODULES}

FILE_LINES, FUNCTION_LINES, PARAMETERS, PUBLIC_METHODS = 400, 60, 8, 15


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules that `tree` imports, at the top or late."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_run_downward() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


def test_layer_contract_has_no_exceptions() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(contract for contract in settings["contracts"] if contract["type"] == "layers")

    assert layers["exhaustive"] is True
    for contract in [settings, *settings["contracts"]]:
        assert not {"ignore_imports", "exhaustive_ignores", "unmatched_ignore_imports_alerting"} & contract.keys()


def test_no_two_parts_import_each_other() -> None:
    uses: dict[str, set[str]] = defaultdict(set)
    for path, tree in TREES.items():
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for name in imports(tree):
            if name.startswith("rung.") and (other := name.split(".")[1]) != part:
                uses[part].add(other)

    assert [(a, b) for a in uses for b in uses[a] if a < b and a in uses.get(b, ())] == []


def test_no_lumber_rooms() -> None:
    """A part is called after what it is. A name that fits everything collects everything."""
    lumber = {"util", "utils", "helper", "helpers", "common", "misc", "base", "core", "shared"}

    assert [path for path in MODULES if lumber & {part.strip("_") for part in path.with_suffix("").parts[-3:]}] == []


def test_no_class_has_two_bases_of_ours() -> None:
    ours = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and sum(ast.unparse(base).split("[")[0].split(".")[-1] in ours for base in node.bases) > 1
    ]

    assert found == []


def test_nothing_unpickles_or_runs_text() -> None:
    """Uploads are never code: no way to open them as code is left in the house."""
    modules = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    calls = {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    found = []
    for path, tree in TREES.items():
        where = path.relative_to(ROOT)
        found += [f"{where}: imports {name}" for name in imports(tree) if name.split(".")[0] in modules]
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in calls:
                    found.append(f"{where}:{node.lineno} calls {called}")
                if called == "torch.load" and not any(
                    word.arg == "weights_only" and isinstance(word.value, ast.Constant) and word.value.value is True
                    for word in node.keywords
                ):
                    found.append(f"{where}:{node.lineno} torch.load without weights_only=True")
                if called.endswith("np.load") and not any(
                    word.arg == "allow_pickle" and isinstance(word.value, ast.Constant) and word.value.value is False
                    for word in node.keywords
                ):
                    found.append(f"{where}:{node.lineno} np.load without allow_pickle=False")

    assert found == []


@pytest.mark.filterwarnings("default::UserWarning")
def test_sizes_are_told() -> None:
    """Over budget is no failure: it is shown at the end of the run, so that someone splits it."""
    over = [line for path, tree in TREES.items() for line in _over_budget(path, tree)]

    if over:
        warnings.warn("over the size budget:\n  " + "\n  ".join(over), stacklevel=1)


def _over_budget(path: Path, tree: ast.Module) -> Iterator[str]:
    where = path.relative_to(ROOT)
    lines = path.read_text().count("\n")
    if lines > FILE_LINES:
        yield f"{where}: {lines} lines, of {FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{where}:{node.lineno} {node.name}: {length} lines, of {FUNCTION_LINES}"
            count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
            # A command's parameters are its options, listed once and read by Typer.
            if count > PARAMETERS and "cli" not in where.parts:
                yield f"{where}:{node.lineno} {node.name}: {count} parameters, of {PARAMETERS}"
        elif isinstance(node, ast.ClassDef):
            public = [
                item.name
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name[0] != "_"
            ]
            if len(public) > PUBLIC_METHODS:
                yield f"{where}:{node.lineno} {node.name}: {len(public)} public methods, of {PUBLIC_METHODS}"
