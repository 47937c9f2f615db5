"""A proxy that holds everything back by one millisecond each way: a server that is two milliseconds away.

python -m benchmarks.delay PORT      forwards to that port of this machine, and prints its own port
"""

import asyncio
import contextlib
import sys

SECONDS = 0.001


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, each piece as late as the others."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # one that is cut is closed, like one that ends
        while data := await reader.read(1 << 18):
            loop.call_later(SECONDS, writer.write, data)
    loop.call_later(SECONDS, writer.close)


async def main(port: int) -> None:
    """Accept connections until killed."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(forward(reader, back), forward(there, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
