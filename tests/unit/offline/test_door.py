import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from rung.domain.errors import NotReady
from rung.offline.door import Ask, Broken, Door

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ASK = Ask("/predict/m", (("content-type", "text/plain"),), b"hello")


@asynccontextmanager
async def listening(handle: Handle) -> AsyncIterator[str]:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(5)


@pytest.mark.asyncio
async def test_connections_are_kept_and_each_gets_its_own_answer():
    connections = 0

    async def handle(reader, writer):
        nonlocal connections
        connections += 1
        while asked := await read(reader):
            assert asked.startswith(b"POST /predict/m HTTP/1.1\r\nhost: 127.0.0.1:")
            # In pieces, as a network gives them.
            for piece in (b"HTTP/1.1 200 OK\r\nrung-ver", b"sion: 3\r\ncontent-length: 5\r\n\r\nhe", b"llo"):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)

    async with listening(handle) as url:
        door = Door(lambda: [url])
        for _ in range(3):
            replies = await asyncio.gather(*(door.ask(ASK, 10) for _ in range(4)))
            assert {(one.status, one.headers["rung-version"], one.body) for one in replies} == {(200, "3", b"hello")}
        assert connections == 4
        door.close()


@pytest.mark.asyncio
async def test_the_replica_with_the_fewest_is_asked():
    counts = [0, 0]

    def handler(place: int) -> Handle:
        async def handle(reader, writer):
            while await read(reader):
                counts[place] += 1
                await asyncio.sleep(0.02)
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        return handle

    async with listening(handler(0)) as one, listening(handler(1)) as two:
        door = Door(lambda: [one, two])
        await asyncio.gather(*(door.ask(ASK, 10) for _ in range(10)))
        assert counts == [5, 5]
        door.close()


@pytest.mark.asyncio
async def test_nobody_there_is_no_try():
    with pytest.raises(NotReady, match="no replica"):
        await Door(list).ask(ASK, 1)
    async with listening(read) as url:
        pass
    with pytest.raises(NotReady, match="cannot be reached"):
        await Door(lambda: [url]).ask(ASK, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhel", b"\0\1nonsense\r\n\r\n"])
async def test_an_answer_that_is_cut_off_is_a_try(answer: bytes):
    async def handle(reader, writer):
        await read(reader)
        writer.write(answer)
        await writer.drain()

    async with listening(handle) as url:
        door = Door(lambda: [url])
        with pytest.raises(Broken):
            await door.ask(ASK, 10)
        door.close()


@pytest.mark.asyncio
async def test_an_answer_that_never_comes_is_a_try():
    over = asyncio.Event()

    async def handle(reader, writer):
        await read(reader)
        await over.wait()

    async with listening(handle) as url:
        door = Door(lambda: [url])
        with pytest.raises(Broken, match="no answer within"):
            await door.ask(ASK, 0.05)
        over.set()
        door.close()


@pytest.mark.asyncio
async def test_a_connection_that_was_closed_between_is_not_used_again():
    async def handle(reader, writer):
        await read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with listening(handle) as url:
        door = Door(lambda: [url])
        for _ in range(3):
            assert (await door.ask(ASK, 10)).status == 200
        door.close()
