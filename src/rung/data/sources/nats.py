"""A stream of JSON rows in NATS JetStream, taken in micro-batches by a durable consumer.

A message is acknowledged only when the version that holds it is there. What comes again, because a process died in
between, is known by its number in the stream and left out: each message is one row, once.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson

from rung.data.sources import Address, without_password
from rung.data.sources.records import piece_of
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData, MissingDependency

__all__ = ["open_nats"]

_ROWS = 1000
_WAIT = 1.0
"""Seconds without a message after which there are none."""
_CONNECT = 5.0


class _Nats:
    incremental = True

    def __init__(self, address: Address) -> None:
        address.allow("consumer")
        try:
            import nats
        except ModuleNotFoundError:
            raise MissingDependency("nats: sources need nats-py: pip install 'rung[nats]'") from None
        self._nats = nats
        place, _, self._subject = address.rest.removeprefix("//").partition("/")
        if not place or not self._subject:
            raise ConfigurationError(f"the source {without_password(address.url)!r} needs nats://HOST:PORT/SUBJECT")
        self._server = f"nats://{place}"
        self._shown = without_password(self._server)
        self._consumer = address.options.get("consumer", "rung")
        self._reply = ""

    def read(self, cursor: str) -> Iterator[Piece]:
        """What is in the stream now and was not kept before."""
        yield from asyncio.run(self._read(int(cursor or 0)))

    def keep(self, cursor: str) -> None:
        """Acknowledge all that was read."""
        if self._reply:
            asyncio.run(self._acknowledge())

    async def _read(self, after: int) -> list[Piece]:
        connection = await self._connect()
        try:
            stream = connection.jetstream()
            config = self._nats.js.api.ConsumerConfig(ack_policy=self._nats.js.api.AckPolicy.ALL)
            asked = await stream.pull_subscribe(self._subject, durable=self._consumer, config=config)
            pieces: list[Piece] = []
            while True:
                try:
                    messages = await asked.fetch(_ROWS, timeout=_WAIT)
                except (TimeoutError, self._nats.errors.TimeoutError):
                    return pieces
                pieces.append(self._piece(messages, after))
                after = max(after, messages[-1].metadata.sequence.stream)
                self._reply = messages[-1].reply
        except self._nats.errors.Error as error:
            what = str(error) or type(error).__name__
            raise InvalidData(f"{self._subject} at {self._shown}: {what}") from None
        finally:
            await connection.close()

    async def _acknowledge(self) -> None:
        connection = await self._connect()
        try:
            # The consumer acknowledges all up to a message, so the last one stands for every one.
            await connection.request(self._reply, b"+ACK", timeout=_CONNECT)
        except self._nats.errors.Error:
            # It will come again, and be left out.
            return
        finally:
            await connection.close()

    async def _connect(self) -> Any:
        try:
            return await self._nats.connect(
                self._server, connect_timeout=_CONNECT, allow_reconnect=False, error_cb=_quiet
            )
        except (OSError, self._nats.errors.Error) as error:
            raise InvalidData(f"NATS at {self._shown} cannot be reached: {error or type(error).__name__}") from None

    def _piece(self, messages: list[Any], after: int) -> Piece:
        rows: list[dict[str, Any]] = []
        numbers: list[int] = []
        refused: list[Quarantined] = []
        last = after
        for message in messages:
            number = message.metadata.sequence.stream
            if number <= after:
                continue
            last = number
            try:
                row = orjson.loads(message.data)
            except orjson.JSONDecodeError as error:
                row = f"no JSON: {error}"
            if isinstance(row, dict):
                rows.append(row)
                numbers.append(number)
            else:
                reason = row if isinstance(row, str) and row.startswith("no JSON") else "no object"
                shown = message.data[:200].decode(errors="replace")
                refused.append(Quarantined(f"{self._shown}/{self._subject}", number, reason, shown))
        return piece_of(rows, numbers, f"{self._shown}/{self._subject}", refused, str(last))


async def _quiet(_error: Exception) -> None:
    """Errors are raised where they matter; by default nats-py prints them as well."""


def open_nats(address: Address) -> _Nats:
    """`nats://HOST:4222/SUBJECT?consumer=NAME`."""
    return _Nats(address)
