"""`rung predict`: answer files with a model in this process, or with one that is served."""

import mimetypes
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import orjson

from rung.domain.errors import ConfigurationError, InvalidInput, OperatorError
from rung.protocols.describe import VIEWS

__all__ = ["predict"]

Answerer = Callable[[bytes, str, str], tuple[str, bytes]]
"""(body, media type, media types wanted) -> media type and body of the answer."""

_KEY = "RUNG_API_KEY"
"""Variable with the key for a server that asks for one: a flag would be seen by everybody on this machine."""
_SUFFIXES = {"image/png": ".png", "image/vnd.rung.overlay+png": ".overlay.png", "application/json": ".json"}


def predict(target: str, files: list[Path], out: Path | None, accept: str | None) -> None:
    """Answer each file; with `out` the answers become files of that folder.

    Raises:
        InvalidInput: a file is missing, or the model does not take it.
        OperatorError: the server does not answer, or refuses.
    """
    wanted = VIEWS.get(accept or "", accept or ("*/*" if out else "application/json"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    written: dict[Path, Path] = {}
    with ExitStack() as stack:
        answer = _remote(target) if target.startswith(("http://", "https://")) else _local(target, stack)
        for file in files:
            try:
                body = file.read_bytes()
            except OSError as error:
                raise InvalidInput(f"{file} cannot be read: {error.strerror}", field=str(file)) from None
            media, result = answer(body, _media_type(file), wanted)
            if out is None:
                _show(file, media, result, alone=len(files) == 1)
            else:
                path = out / (file.stem + _SUFFIXES.get(media.partition(";")[0], ".bin"))
                if path in written:
                    raise InvalidInput(f"{written[path]} and {file} would both be answered in {path}: rename one")
                written[path] = file
                path.write_bytes(result)
                print(path)


def _media_type(file: Path) -> str:
    guessed = mimetypes.guess_type(file.name)[0]
    return (
        guessed
        if guessed and guessed.startswith(("image/", "application/json", "text/plain"))
        else ("application/octet-stream")
    )


def _show(file: Path, media: str, result: bytes, *, alone: bool) -> None:
    if media.startswith(("application/json", "text/")):
        print(result.decode() if alone else orjson.dumps({"file": str(file), "answer": orjson.loads(result)}).decode())
    elif sys.stdout.isatty():
        raise ConfigurationError(f"the answer is {media}: give --out FOLDER, or send it into a file")
    else:
        sys.stdout.buffer.write(result)


def _remote(url: str) -> Answerer:
    def answer(body: bytes, media: str, wanted: str) -> tuple[str, bytes]:
        headers = {"Content-Type": media, "Accept": wanted}
        if key := os.environ.get(_KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310 - http or https, checked
        try:
            with urllib.request.urlopen(request) as reply:  # noqa: S310
                return reply.headers.get_content_type(), reply.read()
        except urllib.error.HTTPError as error:
            raise OperatorError(f"{url} refused with {error.code}: {error.read().decode(errors='replace')}") from None
        except (urllib.error.URLError, OSError) as error:
            raise OperatorError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None

    return answer


def _local(target: str, stack: ExitStack) -> Answerer:
    from rung.catalog.source import open_source
    from rung.ports import LoadOptions
    from rung.protocols.bodies import payload_of
    from rung.protocols.media import accepted, content_type
    from rung.serving.loader import load
    from rung.telemetry import configure_logs

    configure_logs(level="warning")
    source = open_source(target, None, Path(".rung/cache"))
    # Twice: a folder that was copied just now is offered when it has held still.
    versions = source.poll() or source.poll()
    names = sorted({version.name for version in versions})
    if len(names) != 1:
        raise ConfigurationError(
            f"{target} holds the models {names}: name one, as in {target}/{(names or ['NAME'])[0]}"
        )
    loaded = load(source, max(versions, key=lambda version: version.version), LoadOptions(), 0.0)
    model = loaded.model
    if model is None:
        raise ConfigurationError(f"{target} is a graph of models: serve the repository and give the URL")
    stack.callback(model.close)

    def answer(body: bytes, media: str, wanted: str) -> tuple[str, bytes]:
        kind, parameters = content_type(media.encode())
        payload = payload_of(body, kind, parameters, loaded.manifest, 1)
        chosen = loaded.pipeline.negotiate(accepted(wanted.encode()))
        prepared = loaded.pipeline.prepare(payload)
        results = loaded.pipeline.finish(model.predict(prepared.inputs), prepared)
        return chosen, loaded.pipeline.render(results, chosen)

    return answer
