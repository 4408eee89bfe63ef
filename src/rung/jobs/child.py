"""The process of one job: imports its handler, runs it, tells the worker, ends."""

import sys
import traceback
from importlib import import_module
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import msgspec

from rung.channel import Channel
from rung.domain.errors import Cancelled, RungError, Unsupported
from rung.domain.jobs import Job
from rung.jobs.context import JobContext
from rung.processes import attach

__all__ = ["main", "reason_of"]


def main() -> None:
    """Run `python -m rung.jobs.child TARGET SEARCH_PATH`."""
    channel = attach()
    target, search_path = sys.argv[1:]
    sys.path.insert(0, search_path or str(Path.cwd()))
    channel.send("ready")
    message = channel.receive()
    job = msgspec.convert(message.detail["job"], Job)
    parents = dict(message.detail["parents"])
    stop, speak = Event(), Lock()
    Thread(target=_listen, args=(channel, stop), daemon=True).start()

    def say(kind: str, detail: Any = None) -> None:
        with speak:
            channel.send(kind, detail)

    def effect(_: Any) -> None:
        raise Unsupported("a handler in a process of its own cannot write to the job's database: return what it found")

    context = JobContext(
        job,
        report=lambda fraction, note: say("progress", (fraction, note)),
        stopped=stop.is_set,
        parents=lambda: parents,
        effect=effect,
    )
    try:
        module, _, attribute = target.partition(":")
        result = getattr(import_module(module), attribute)(context)
        say("done", msgspec.json.encode(result))
    except Cancelled:
        say("handed back")
    except BaseException as error:  # noqa: BLE001 - a boundary: the handler is the user's code
        traceback.print_exc()
        say("failed", reason_of(error))


def reason_of(error: BaseException) -> str:
    """One line that says what went wrong."""
    words = " ".join(str(error).split())
    if isinstance(error, RungError):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _listen(channel: Channel, stop: Event) -> None:
    try:
        while channel.receive().kind != "stop":
            pass
    except (EOFError, OSError):
        return
    stop.set()


if __name__ == "__main__":
    main()
