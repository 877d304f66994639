"""The relay: every connection of a cell to one of its services, so that all of them can be cut at once.

`python -m bench.relay PORT TARGET` listens on PORT of 127.0.0.1 and passes bytes on to TARGET and back. It is
there only where a fault cuts connections, because it takes its share of every message.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sys

HOST = "127.0.0.1"
CHUNK_BYTES = 65536


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until one side is done, and tell the other."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


async def connect(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection: two streams, one each way; a target that is down ends it."""
    try:
        far_reader, far_writer = await asyncio.open_connection(HOST, target)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def serve(port: int, target: int) -> None:
    """Listen until killed."""
    server = await asyncio.start_server(functools.partial(connect, target), HOST, port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
