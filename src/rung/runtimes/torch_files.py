"""What a file of PyTorch is, and whether loading it would run code: judged before PyTorch opens it.

`torch.export.load` evaluates text of the file as Python (sizes that vary, guards), looks functions up by dotted
names and unpickles objects. So every such text is checked against the little that an honest export writes.
"""

import ast
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rung.domain.errors import BundleError

__all__ = ["check_exported", "is_exported", "is_torchscript", "names_torchscript"]

_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|prim|quantized|quantized_decomposed|mkldnn|onednn|torchvision)\.([A-Za-z]\w*|_[a-z]\w*)\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|torch\._?sym_\w+"
    r"|math\.[a-z]\w*"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|abs|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|getitem)"
)
_TOUCHES_FILES = frozenset({"from_file", "save", "load", "_save", "_load"})
"""Operators of aten and prims that read or write files."""

_SYMBOL = re.compile(r"[A-Za-z]\w{0,63}")
_MATHS = frozenset({
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv",
    "CeilToInt", "FloorToInt", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "IntTrueDiv", "FloatTrueDiv",
    "PowByNatural", "FloatPow", "ModularIndexing", "Where", "Max", "Min", "Abs", "Identity", "Eq", "Ne", "Lt", "Le",
    "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or",
    "Not", "ITE", "Piecewise", "ExprCondPair", "LShift", "RShift", "floor", "ceiling", "sqrt", "log", "max", "min",
    "abs", "int", "float",
})  # fmt: skip
_SIZES = frozenset({"size", "stride", "storage_offset", "shape", "ndim", "dim"})
_NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Call, ast.keyword, ast.Constant, ast.Name,
    ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.IfExp, ast.Load, ast.operator, ast.boolop, ast.unaryop,
    ast.cmpop,
)  # fmt: skip
_LONGEST_EXPRESSION = 10_000


def names_torchscript(names: Sequence[str]) -> bool:
    """Whether a zip with these names is TorchScript: code as text, and constants."""
    inside = {name.partition("/")[2] for name in names}
    return "constants.pkl" in inside and any(name.startswith("code/") for name in inside)


def is_torchscript(path: Path) -> bool:
    """Whether the file is TorchScript, whatever its name."""
    return names_torchscript(_names(path))


def is_exported(path: Path) -> bool:
    """Whether the file is what `torch.export.save` writes, whatever its name."""
    inside = {name.partition("/")[2] for name in _names(path)}
    return "archive_version" in inside and any(name.startswith("models/") for name in inside)


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError):
        return []


def check_exported(names: Sequence[str], read: Callable[[str], bytes]) -> None:
    """Refuse an exported program that holds machine code, pickled objects or expressions that are not arithmetic.

    `names` and `read` come from the reader that will load it: two readers may see two things in one zip.

    Raises:
        BundleError: naming what was found.
    """
    for name in names:
        if name.startswith("data/aotinductor/"):
            raise BundleError(f"it holds compiled machine code ({name}): export it with torch.export.save instead")
        if name.startswith("data/constants/") and not re.fullmatch(
            r"data/constants/(tensor_\w+|\w+\.json|\w+\.pt)", name
        ):
            raise BundleError(f"it holds a pickled object ({name}), which rung never opens: keep tensors only")
        if name.startswith("models/") and name != "models/model.json":
            raise BundleError("it holds several programs; save the one to be served alone")
    if "models/model.json" not in names:
        raise BundleError("it holds no exported program: save one with torch.export.save")
    try:
        for config in [name for name in names if name.startswith("data/constants/") and name.endswith(".json")]:
            for path in _values(json.loads(read(config)), "path_name"):
                if not str(path).startswith("tensor_"):
                    raise BundleError(f"it holds a pickled object ({path}), which rung never opens")
        _check_program(json.loads(read("models/model.json")))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"it is damaged: {error}") from None


def _check_program(program: Any) -> None:
    for key in ("target", "as_operator"):
        for target in _values(program, key):
            matched = isinstance(target, str) and _OPERATOR.fullmatch(target)
            # Buffers and parameters are targets too; names without a dot reach nothing.
            plain = target is None or (
                isinstance(target, str) and not target.startswith(("torch", "_operator", "math", "#"))
            )
            if (not matched and not plain) or (matched and matched[2] in _TOUCHES_FILES):
                raise BundleError(f"it calls {target!r:.100}, which is no operator that rung lets a model call")
    for expression in [*_values(program, "expr_str"), *_keys(program, "range_constraints")]:
        _check_expression(expression, guard=False)
    for guards in _values(program, "guards_code"):
        for guard in guards or ():
            _check_expression(guard, guard=True)
    for text in _texts(program):
        if "default_factory" in text or "__enum__" in text:
            raise BundleError("it takes or gives a defaultdict or an enum, which cannot be loaded safely: use a dict")


def _check_expression(text: Any, *, guard: bool) -> None:
    try:
        nodes = list(ast.walk(ast.parse(str(text)[:_LONGEST_EXPRESSION].strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        nodes = []
    if not nodes or not all(isinstance(node, _NODES) and _harmless(node, guard=guard) for node in nodes):
        raise BundleError(f"it has {text!r:.100} where a size is expected")


def _harmless(node: ast.AST, *, guard: bool) -> bool:
    if isinstance(node, ast.Name):
        return (
            node.id in _MATHS
            or node.id in {"L", "math", "inf", "oo", "int_oo", "true", "false"}
            or (re.fullmatch(r"[a-z]{1,5}\d+", node.id) is not None)
        )
    if isinstance(node, ast.Attribute):
        return guard and (node.attr in _SIZES or (isinstance(node.value, ast.Name) and node.value.id == "math"))
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (isinstance(node.func, ast.Name) and node.func.id in _MATHS)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _SYMBOL.fullmatch(node.value) is not None
    return not isinstance(node, ast.Subscript) or guard


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Every value under this key, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)


def _keys(tree: Any, key: str) -> Iterator[str]:
    for value in _values(tree, key):
        if isinstance(value, dict):
            yield from value


def _texts(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _texts(value)
