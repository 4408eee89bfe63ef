"""Where rows come from, by URL.

    csv:rides.csv  csv:days/*.csv?separator=;      parquet:DIR/*.parquet      jsonl:events.jsonl      files:pictures
    sqlite:shop.db?table=orders&cursor=id      postgresql://host/db?query=select...&cursor=id
    https://host/rows.csv      nats://host:4222/SUBJECT      log:MODEL      module:function

A path alone is known by its suffix. Each kind is one file here and a row in `SOURCES`.
"""

import re
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from rung.domain.errors import ConfigurationError
from rung.ports import RowSource

__all__ = ["SOURCES", "Address", "open_source", "without_password"]

SOURCES: dict[str, str] = {
    "csv": "rung.data.sources.delimited:open_csv",
    "tsv": "rung.data.sources.delimited:open_tsv",
    "parquet": "rung.data.sources.tables:open_parquet",
    "arrow": "rung.data.sources.tables:open_arrow",
    "jsonl": "rung.data.sources.lines:open_jsonl",
    "files": "rung.data.sources.folder:open_folder",
    "sqlite": "rung.data.sources.sql:open_sqlite",
    "postgresql": "rung.data.sources.sql:open_postgresql",
    "http": "rung.data.sources.web:open_web",
    "https": "rung.data.sources.web:open_web",
    "nats": "rung.data.sources.nats:open_nats",
    "log": "rung.data.sources.log:open_log",
    "function": "rung.data.sources.function:open_function",
}
"""Scheme -> the function that opens an `Address`."""

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_SECRET = re.compile(r"(?i)([?&](?:password|passwd|token|secret|api_?key|signature|x-amz-signature)=)[^&]*")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


class Address:
    """A source's URL, taken apart.

    Attributes:
        url: as it was written.
        scheme: key of `SOURCES`.
        rest: what follows the scheme, without options.
        options: `name=value` behind the question mark.
        folder: of the project; relative paths begin there.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        scheme, colon, rest = url.partition(":")
        if not colon or scheme not in SOURCES or scheme == "function":
            if _FUNCTION.match(url):
                scheme, rest = "function", url
            elif Path(url.partition("?")[0]).suffix.lower() in _SUFFIXES and "://" not in url:
                scheme, rest = _SUFFIXES[Path(url.partition("?")[0]).suffix.lower()], url
            else:
                raise ConfigurationError(
                    f"the source {without_password(url)!r} is none that rung knows: write SCHEME:PLACE with one of "
                    f"{', '.join(name for name in SOURCES if name != 'function')}, or module:function"
                )
        self.scheme = scheme
        self.rest, _, query = rest.partition("?")
        self.options = dict(parse_qsl(query, keep_blank_values=True))

    def files(self) -> list[Path]:
        """The files that the path or pattern names, in the order of their names; none is an error.

        Raises:
            ConfigurationError: there is none.
        """
        path = self.folder / self.rest
        if any(letter in self.rest for letter in "*?["):
            base = Path(path.anchor)
            found = sorted(one for one in base.glob(str(path.relative_to(base))) if one.is_file())
        elif path.is_dir():
            suffixes = {suffix for suffix, scheme in _SUFFIXES.items() if scheme == self.scheme}
            found = sorted(one for one in path.rglob("*") if one.suffix.lower() in suffixes)
        else:
            found = [path] if path.is_file() else []
        if not found:
            raise ConfigurationError(f"there is no file {self.rest} in {self.folder} (source {self.url!r})")
        return found

    def allow(self, *names: str) -> None:
        """Raises `ConfigurationError` for an option that is none of these."""
        strange = [name for name in self.options if name not in names]
        if strange:
            known = ", ".join(names) or "none"
            raise ConfigurationError(
                f"the source {without_password(self.url)!r} has an option {strange[0]!r}; {self.scheme} knows {known}"
            )


def open_source(url: str, folder: Path) -> RowSource:
    """The source at a URL.

    Raises:
        ConfigurationError: the URL makes no sense, or nothing is there.
    """
    address = Address(url, folder)
    module, _, attribute = SOURCES[address.scheme].partition(":")
    source: RowSource = getattr(import_module(module), attribute)(address)
    return source


def without_password(url: str) -> str:
    """The URL as it may be shown and kept."""
    url = _SECRET.sub(r"\1***", url)
    password = urlsplit(url).password
    return url if password is None else url.replace(f":{password}@", ":***@", 1)
