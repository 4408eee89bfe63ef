"""MLflow's scoring protocol: `POST /invocations`, which is also SageMaker's, and `/ping`, `/health`, `/version`.

A data frame becomes rows: objects by column where the model names its columns, else lists in the order of the columns.
What MLflow does not read (pictures, text, raw bytes) is answered as under `/predict`, since SageMaker sends anything.
"""

import csv
import io
from base64 import b64decode
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import parse_qs

import orjson

from rung.domain.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    MissingDependency,
    NotFound,
    NotReady,
    Overloaded,
    Unsupported,
    UnsupportedMedia,
)
from rung.domain.models import Manifest, VersionState
from rung.domain.predictions import Call, Payload
from rung.ports import Directory, Served
from rung.protocols import sagemaker
from rung.protocols.access import check_model
from rung.protocols.bodies import payload_of
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.headers import priority_of, timeout_of
from rung.protocols.media import accepted, content_type
from rung.protocols.status import OK, UNAVAILABLE, error_reply

__all__ = ["Mlflow", "answer_rows", "invoke", "one_of", "read_csv", "read_json", "read_parquet"]

_FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_EXTRAS = ("params", "parameters")
"""MLflow's and Vertex AI's word for what goes beside the rows; the models here take nothing of the kind."""
_JSON = ("", "application/json", "application/x-www-form-urlencoded")
_PARQUET = ("application/vnd.apache.parquet", "application/x-parquet")
_ANSWER = ("application/json",)
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (NotFound, "RESOURCE_DOES_NOT_EXIST"),
    (Overloaded, "REQUEST_LIMIT_EXCEEDED"),
    (DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Unsupported, "NOT_IMPLEMENTED"),
    (ClientError, "BAD_REQUEST"),
    (NotReady, "TEMPORARILY_UNAVAILABLE"),
)
Frame = tuple[list[str], list[list[Any]]]


class Mlflow:
    """The door. `problems` says what keeps the process from being ready."""

    def __init__(self, directory: Directory, problems: Callable[[], list[str]], version: str) -> None:
        self._directory = directory
        self._problems = problems
        self._version = version

    def routes(self) -> list[Route]:
        """Where it answers."""
        return [
            Route("POST", "/invocations", self.invocations, _error),
            Route("POST", "/models/{model}/invoke", self._invoke, _error),
            Route("GET", "/ping", self.ping, needs="open"),
            Route("GET", "/health", self.ping, needs="open"),
            Route("GET", "/version", self._about, needs="open"),
        ]

    async def invocations(self, head: Head, body: bytes, call: Call) -> Reply:
        """Answer with the one model, or the one that the request names."""
        return await invoke(one_of(self._directory, head, call), head, body, call)

    async def _invoke(self, head: Head, body: bytes, call: Call) -> Reply:
        return await invoke(self._directory.find(head.params["model"], None, call), head, body, call)

    async def ping(self, head: Head, body: bytes, call: Call) -> Reply:
        """200 when every model that should answer can: MLflow, SageMaker and TorchServe look at nothing else."""
        problems = self._problems()
        if problems:
            return Reply(UNAVAILABLE, orjson.dumps({"status": "Unhealthy", "error": "; ".join(problems)}))
        return Reply(OK, b'{"status":"Healthy"}')

    async def _about(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(OK, self._version.encode(), b"text/plain")


def one_of(directory: Directory, head: Head, call: Call) -> Served:
    """The model that a request without one in its path is for.

    Named by `X-Amzn-SageMaker-Target-Model`, `rung-target-model` or `?model=`; else the only one.

    Raises:
        InvalidInput: there are several, and none is named.
        NotReady: there is none yet.
        Forbidden: the caller's key is not for it.
    """
    name = head.headers.get(b"x-amzn-sagemaker-target-model") or head.headers.get(b"rung-target-model")
    if name is not None:
        return _allowed(directory, name.decode("latin-1"), call)
    named = parse_qs(head.query).get("model") if head.query else None
    if named:
        return _allowed(directory, named[-1], call)
    names = sorted({one.name for one in directory.statuses() if one.state is not VersionState.END})
    if not names:
        # Failed ones know the reason.
        ended = sorted({one.name for one in directory.statuses()})
        if ended:
            return directory.find(ended[0])
        raise NotReady("no model is served here yet")
    if len(names) > 1:
        raise InvalidInput(
            f"there are several models here, {', '.join(names)}: name one by ?model= or the header rung-target-model",
            field="model",
        )
    return _allowed(directory, names[0], call)


def _allowed(directory: Directory, name: str, call: Call) -> Served:
    check_model(call, name)
    return directory.find(name, None, call)


async def invoke(served: Served, head: Head, body: bytes, call: Call) -> Reply:
    """Answer a body of any form that `/invocations` takes.

    Raises:
        RungError: of every kind that `Served` raises, `InvalidInput` and `UnsupportedMedia` for the body.
    """
    tensors = await sagemaker.infer(served, head, body, call)
    if tensors is not None:
        return tensors
    media, parameters = content_type(head.headers.get(b"content-type"))
    accept: tuple[str, ...] = _ANSWER
    if media in _JSON:
        payload = _payload(read_json(body), served.manifest)
    elif media == "text/csv":
        payload = _payload(_shape(read_csv(body), served.manifest), served.manifest)
    elif media in _PARQUET:
        payload = _payload(_shape(read_parquet(body), served.manifest), served.manifest)
    elif media == sagemaker.NPY:
        payload = _payload(sagemaker.read_npy(body), served.manifest)
    elif media.startswith("image/") or media in ("application/octet-stream", "text/plain", "multipart/form-data"):
        payload = payload_of(body, media, parameters, served.manifest)
        accept = accepted(head.headers.get(b"accept"))
    else:
        raise UnsupportedMedia(
            f"{media!r:.100} is not read here: send application/json, text/csv or application/vnd.apache.parquet"
        )
    reply = await _answer(served, payload, accept, head, call)
    return sagemaker.rewrite(reply, accepted(head.headers.get(b"accept"))) if accept is _ANSWER else reply


async def answer_rows(served: Served, rows: Any, head: Head, call: Call) -> Reply:
    """Answer JSON rows, or an object of columns, with `{"predictions": [...]}`."""
    return await _answer(served, _payload(rows, served.manifest), _ANSWER, head, call)


async def _answer(served: Served, payload: Payload, accept: tuple[str, ...], head: Head, call: Call) -> Reply:
    payload.deadline = call.arrived + timeout_of(head.headers.get(b"rung-timeout-ms"))
    payload.priority = priority_of(head.headers.get(b"rung-priority"))
    payload.arrived, payload.call = call.arrived, call
    answer = await served.respond(payload, accept)
    headers = ((b"rung-model", answer.model.encode("ascii")), (b"rung-version", b"%d" % answer.version))
    return Reply(OK, answer.body, answer.media_type.encode("latin-1"), headers)


class _Table:
    """A data frame that is to become rows as its model wants them."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame


def read_json(body: bytes) -> Any:
    """Rows, an object of columns, or a data frame. Raises `InvalidInput`."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is no JSON: {error}") from None
    if isinstance(value, list):
        # What SageMaker's SDK sends unless it is told otherwise.
        return value
    forms = f"an object with exactly one of {', '.join(_FORMS)}"
    if not isinstance(value, dict):
        raise InvalidInput(f"the JSON body must be {forms}")
    given = [key for key in value if key in _FORMS]
    if len(given) != 1:
        raise InvalidInput(f"the JSON body must be {forms}; it has {', '.join(given) or 'none of them'}")
    unknown = [key for key in value if key not in _FORMS and key not in _EXTRAS]
    if unknown:
        raise InvalidInput(
            f"there is no field {unknown[0]!r:.50} here: beside {given[0]} goes params", field=unknown[0]
        )
    form, content = given[0], value[given[0]]
    if form == "dataframe_split":
        return _Table(_split(content))
    if form == "dataframe_records":
        return _Table(_records(content))
    if not isinstance(content, list) and not (form == "inputs" and isinstance(content, dict)):
        raise InvalidInput(
            f"{form} must hold a list{' or an object of columns' if form == 'inputs' else ''}", field=form
        )
    return content


def _split(content: Any) -> Frame:
    columns = content.get("columns") if isinstance(content, dict) else None
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not all(isinstance(row, list) for row in data):
        raise InvalidInput('dataframe_split must be {"columns": [...], "data": [[...], ...]}', field="dataframe_split")
    if columns is None:
        columns = list(range(len(data[0]) if data else 0))
    if not isinstance(columns, list) or any(len(row) != len(columns) for row in data):
        raise InvalidInput("each row of dataframe_split must have a value for each of its columns", field="data")
    return [str(column) for column in columns], data


def _records(content: Any) -> Frame:
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise InvalidInput("dataframe_records must be a list of objects, and not empty", field="dataframe_records")
    columns = list(content[0])
    if any(row.keys() != content[0].keys() for row in content):
        raise InvalidInput("the objects of dataframe_records must have the same fields", field="dataframe_records")
    return columns, [[row[column] for column in columns] for row in content]


def read_csv(body: bytes) -> Any:
    """A data frame of text whose first line names the columns, unless that is numbers alone.

    Raises:
        InvalidInput: it is not UTF-8, is empty, or a line has another number of values.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"the CSV cannot be read: {error}") from None
    if not lines:
        raise InvalidInput("the CSV is empty")
    # SageMaker's convention is a body without names, MLflow's one with them.
    headless = all(isinstance(_value(cell), int | float) for cell in lines[0])
    columns = [str(number) for number in range(len(lines[0]))] if headless else lines[0]
    data = lines if headless else lines[1:]
    for number, line in enumerate(data):
        if len(line) != len(columns):
            raise InvalidInput(f"row {number} of the CSV has {len(line)} values for {len(columns)} columns")
    return _Table((columns, [[_value(cell) for cell in line] for line in data]))


def _value(cell: str) -> Any:
    if not cell:
        return None
    for kind in (int, float):
        try:
            # `1_000` is no number of a CSV.
            return kind(cell) if "_" not in cell else cell
        except ValueError:
            continue
    return cell


def read_parquet(body: bytes) -> Any:
    """A data frame in Parquet.

    Raises:
        InvalidInput: it is none.
        MissingDependency: the extra is not installed.
    """
    try:
        import polars as pl
    except ImportError:
        raise MissingDependency('Parquet needs an extra: pip install "rung[table]"') from None
    try:
        frame = pl.read_parquet(io.BytesIO(body), use_pyarrow=False)
    except Exception as error:  # noqa: BLE001 - the library has no common class for a body that is no Parquet
        raise InvalidInput(f"the body is no Parquet: {str(error)[:200]}") from None
    return _Table((frame.columns, [list(row) for row in frame.iter_rows()]))


def _shape(table: Any, manifest: Manifest) -> Any:
    """Rows as this model wants them: objects where it knows the columns by name, else lists or values."""
    if not isinstance(table, _Table):
        return table
    columns, data = table.frame
    if not data:
        raise InvalidInput("the data frame has no rows")
    first = manifest.transforms.input[0].name if manifest.transforms.input else ""
    inputs = manifest.signature.inputs
    if not first and len(inputs) == 1 and inputs[0].columns:
        data, columns = _in_order(columns, data, inputs[0].columns), list(inputs[0].columns)
    if first.startswith(("text.", "image.")) or (not first and len(inputs) == 1 and columns != [inputs[0].name]):
        # A column of values goes to a model of scalars as values, to one of vectors as vectors of one.
        scalars = first.startswith(("text.", "image.")) or len(inputs[0].shape) <= 1
        return [row[0] for row in data] if scalars and len(columns) == 1 else data
    return [dict(zip(columns, row, strict=True)) for row in data]


def _in_order(columns: list[str], data: list[list[Any]], wanted: tuple[str, ...]) -> list[list[Any]]:
    """Put a frame's columns into the order that the model was trained with; those it does not know are left out.

    A frame without names (numbers stand for them) is in that order already.
    """
    if columns == list(wanted) or (columns == [str(number) for number in range(len(columns))] and "0" not in wanted):
        return data
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise InvalidInput(
            f"the data frame has no column {missing[0]!r:.80}; the model takes {', '.join(wanted)}", field=missing[0]
        )
    places = [columns.index(name) for name in wanted]
    return [[row[place] for place in places] for row in data]


def _payload(rows: Any, manifest: Manifest) -> Payload:
    rows = _shape(rows, manifest)
    steps = manifest.transforms.input
    first = steps[0].name if steps else ""
    kind: Literal["image", "rows", "text"] = "rows"
    if first.startswith("image."):
        return Payload("image", [_picture(row) for row in rows])
    if first.startswith("text."):
        kind = "text"
        rows = [next(iter(row.values())) if isinstance(row, dict) and len(row) == 1 else row for row in rows]
    return Payload(kind, rows)


def _picture(row: Any) -> bytes:
    text: Any = row.get("b64") if isinstance(row, dict) else row
    try:
        return b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise InvalidInput('this model takes pictures: each must be {"b64": "..."}, the file in base64') from None


def _error(error: Exception) -> Reply:
    reply = error_reply(error)
    message = orjson.loads(bytes(reply.body))["error"] if isinstance(reply.body, bytes) else ""
    if isinstance(error, UnsupportedMedia):
        return Reply(reply.status, message.encode(), b"text/plain")
    code = next((code for kind, code in _CODES if isinstance(error, kind)), "INTERNAL_ERROR")
    return Reply(reply.status, orjson.dumps({"error_code": code, "message": message}), headers=reply.headers)
