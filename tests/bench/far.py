"""Makes hosts far away: relays TCP so that every byte arrives a given time later, in either direction.

Runs inside a sandbox's network. Arguments: the delay of one direction in milliseconds, then LISTEN=TARGET pairs
of addresses; port 22 throughout. Says `ready` when all listen, and ends when standard input ends.
"""

import asyncio
import sys

PORT = 22


async def later(reader, writer, delay):
    """Writes what is read, each piece `delay` seconds after it came."""
    loop = asyncio.get_running_loop()
    pieces = asyncio.Queue()

    async def take():
        while piece := await reader.read(1 << 16):
            pieces.put_nowait((loop.time() + delay, piece))
        pieces.put_nowait((loop.time() + delay, b""))

    taking = asyncio.create_task(take())
    try:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        taking.cancel()
        writer.close()


def relay(target, delay):
    async def serve(reader, writer):
        # The handshake of TCP takes a round trip, too.
        await asyncio.sleep(2 * delay)
        try:
            far_reader, far_writer = await asyncio.open_connection(target, PORT)
        except OSError:
            writer.close()
            return
        await asyncio.gather(later(reader, far_writer, delay), later(far_reader, writer, delay))

    return serve


async def main():
    delay = float(sys.argv[1]) / 1000
    for pair in sys.argv[2:]:
        listen, target = pair.split("=")
        await asyncio.start_server(relay(target, delay), listen, PORT)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
