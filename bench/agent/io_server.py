"""The io server: the other end of the work kind `io`. Waits as long as it was asked to, then answers.

`python -m bench.agent.io_server FILE` listens on a free port of 127.0.0.1 and writes it into FILE.
"""

from __future__ import annotations

import asyncio
import os
import sys

from bench.agent.work import IO_REQUEST


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, one reply, then close."""
    try:
        delay_ms, size = IO_REQUEST.unpack(await reader.readexactly(IO_REQUEST.size))
        await asyncio.sleep(delay_ms / 1000)
        writer.write(bytes(size))
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        print(f"io: {error}", file=sys.stderr)
    finally:
        writer.close()


async def serve(path: str) -> None:
    """Listen until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(str(port))
    os.replace(path + ".new", path)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
