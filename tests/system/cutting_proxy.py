"""A TCP proxy that can be cut and frozen: the way between a hub and its database. Nothing here knows either of them."""

from __future__ import annotations

import asyncio

from conftest import ENDINGS, Loop

PIECE_BYTES = 64 * 1024


class Proxy:
    """Passes bytes on, both ways, to a port on loopback; from the test's own thread it is cut, frozen and mended."""

    def __init__(self, loop: Loop, target: int) -> None:
        self.target = target
        self._loop = loop
        self._open = asyncio.Event()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()

        async def begin() -> asyncio.base_events.Server:
            self._open.set()
            return await asyncio.start_server(self._talk, "127.0.0.1", 0)

        self._server: asyncio.base_events.Server = loop.run(begin())
        self.port: int = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Connections are taken and stay, and nothing passes: what is on its way is kept."""
        self._loop.run(self._set(passes=False, is_cut=False))

    def cut(self) -> None:
        """All connections are reset, and so is each new one."""
        self._loop.run(self._set(passes=True, is_cut=True))

    def mend(self) -> None:
        """Passes again, first what was kept."""
        self._loop.run(self._set(passes=True, is_cut=False))

    async def _set(self, passes: bool, is_cut: bool) -> None:
        self._is_cut = is_cut
        if passes:
            self._open.set()
        else:
            self._open.clear()
        if is_cut:
            for writer in self._writers:
                writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there = None
        try:
            await self._open.wait()
            if self._is_cut:
                return
            back, there = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(there)
            both = [asyncio.ensure_future(self._pass(reader, there)), asyncio.ensure_future(self._pass(back, writer))]
            try:
                # Either end's end is the other's.
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except ENDINGS:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    self._writers.discard(end)
                    end.close()

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while piece := await source.read(PIECE_BYTES):
            await self._open.wait()
            to.write(piece)
            await to.drain()
