"""Protocol buffers in text form, as TF Serving and Triton write their configurations. Read without a schema.

    name: "simple"  input [ { name: "INPUT0" dims: [ 16 ] } ]  version_policy { latest { num_versions: 2 } }

becomes `{"name": ["simple"], "input": [{"name": ["INPUT0"], "dims": [16]}], ...}`: every field is a list, since
only a schema says which repeat. Words (`TYPE_INT32`) are strings.
"""

import re
from typing import Any, TypeVar

from rung.domain.errors import ConfigurationError

__all__ = ["Message", "Value", "messages", "one", "parse_textproto"]

Message = dict[str, list[Any]]
Value = TypeVar("Value", str, int, dict[str, list[Any]])
_DEEPEST = 64
_TOKEN = re.compile(
    r"""(?P<blank>[\s]+|\#[^\n]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    |(?P<real>[-+]?(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?(?![\w.])|[-+]?\d+(?:[eE][-+]?\d+[fF]?|[fF])(?![\w.]))
    |(?P<whole>[-+]?(?:0[xX][0-9a-fA-F]+|\d+)(?![\w.]))
    |(?P<word>-?[A-Za-z_]\w*)
    |(?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.ASCII | re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_CLOSING = {"{": "}", "<": ">"}


def parse_textproto(text: str, where: str) -> Message:
    """Read a message; `where` names the file in messages.

    Raises:
        ConfigurationError: it is not a message in text form; with line and column.
    """
    return _Parser(text, where).message("", 0)


def one(message: Message, field: str, default: Value) -> Value:
    """The value of a field that does not repeat: the last one of the default's type."""
    return next((value for value in reversed(message.get(field, [])) if type(value) is type(default)), default)


def messages(message: Message, field: str) -> list[Message]:
    """The values of a field that are messages."""
    return [value for value in message.get(field, []) if isinstance(value, dict)]


class _Parser:
    """Tokens, and the place of the next one."""

    def __init__(self, text: str, where: str) -> None:
        self._text = text
        self._where = where
        self._tokens = self._split(text)
        self._at = 0

    def _split(self, text: str) -> list[tuple[str, str, int]]:
        """Kind, text and position of each token, with one of the kind `end` at the end."""
        tokens, position = [], 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._error(position, f"{text[position : position + 10]!r} cannot be read")
            if match.lastgroup != "blank":
                tokens.append((str(match.lastgroup), match[0], position))
            position = match.end()
        return [*tokens, ("end", "", len(text))]

    def _error(self, position: int, what: str) -> ConfigurationError:
        line = self._text.count("\n", 0, position) + 1
        column = position - self._text.rfind("\n", 0, position)
        return ConfigurationError(f"{self._where}, line {line}, column {column}: {what}")

    def _next(self) -> tuple[str, str, int]:
        token = self._tokens[self._at]
        self._at += token[0] != "end"
        return token

    def _takes(self, *marks: str) -> str:
        """The mark that comes next, if it is one of these; it is then behind us."""
        kind, text, _ = self._tokens[self._at]
        if kind != "mark" or text not in marks:
            return ""
        self._at += 1
        return text

    def message(self, closing: str, depth: int) -> Message:
        """Fields up to the closing mark, or to the end of the text."""
        if depth > _DEEPEST:
            raise self._error(self._tokens[self._at][2], f"nested more than {_DEEPEST} deep")
        fields: Message = {}
        while not (closing and self._takes(closing)):
            kind, name, position = self._next()
            if kind == "end" and not closing:
                return fields
            if kind != "word" or name.startswith("-"):
                expected = f"a field or {closing!r}" if closing else "a field"
                raise self._error(position, f"expected {expected}, found {name or 'the end'!r}")
            colon = bool(self._takes(":"))
            values = self._list(depth) if self._takes("[") else [self._value(depth, scalar=colon)]
            fields.setdefault(name, []).extend(values)
            self._takes(",", ";")
        return fields

    def _list(self, depth: int) -> list[Any]:
        values: list[Any] = []
        if self._takes("]"):
            return values
        while True:
            values.append(self._value(depth, scalar=True))
            if self._takes("]"):
                return values
            if not self._takes(","):
                _, text, position = self._next()
                raise self._error(position, f"expected ',' or ']', found {text or 'the end'!r}")

    def _value(self, depth: int, *, scalar: bool) -> Any:
        mark = self._takes("{", "<")
        if mark:
            return self.message(_CLOSING[mark], depth + 1)
        kind, text, position = self._next()
        if not scalar:
            raise self._error(position, f"expected ':' or '{{' after the field's name, found {text or 'the end'!r}")
        if kind == "string":
            parts = [text]
            while self._tokens[self._at][0] == "string":
                parts.append(self._next()[1])
            return "".join(_unescape(part[1:-1]) for part in parts)
        if kind == "word":
            return {"true": True, "false": False}.get(text, text)
        if kind == "whole":
            return _whole(text)
        if kind == "real":
            return float(text.rstrip("fF"))
        raise self._error(position, f"expected a value, found {text or 'the end'!r}")


def _whole(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    if digits[:2].lower() == "0x":
        return sign * int(digits, 16)
    # A leading zero means octal, as in C; Python's own `int` would read 010 as ten.
    octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit() and not set(digits) & {"8", "9"}
    return sign * int(digits[:400], 8 if octal else 10)


def _unescape(text: str) -> str:
    def letter(match: re.Match[str]) -> str:
        octal, digits, plain = match.groups()
        if octal or digits:
            return chr(int(octal, 8) if octal else int(digits, 16))
        return _LETTERS.get(plain, plain)

    return _ESCAPE.sub(letter, text)
