"""Asks a served model `tiny` at a steady rate, open-loop, with a key; a process of its own, for tests.

    python sender.py PORT KEY RATE SECONDS

It prints JSON: status and seconds of each answer, counted from when its request was due.
"""

import asyncio
import json
import sys
from time import perf_counter

CONNECTIONS = 8
BODY = bytes(64)


async def send(port: int, key: str, rate: float, seconds: float) -> list[tuple[int, float]]:
    head = (
        f"POST /predict/tiny HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(BODY)}\r\n\r\n"
    ).encode()
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(CONNECTIONS):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    found: list[tuple[int, float]] = []

    async def ask(due: float) -> None:
        reader, writer = await free.get()
        writer.write(head + BODY)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        found.append((int(answer[9:12]), perf_counter() - due))
        free.put_nowait((reader, writer))

    began, asked = perf_counter(), []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        await asyncio.sleep(max(due - perf_counter(), 0))
        asked.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*asked)
    while not free.empty():
        free.get_nowait()[1].close()
    return found


if __name__ == "__main__":
    port, key, rate, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(send(int(port), key, float(rate), float(seconds)))))
