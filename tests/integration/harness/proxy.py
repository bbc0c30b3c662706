# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TCP proxy that closes what is idle for too long, as proxies do."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from harness.netns import Namespace


class Proxy:
    """Listens on a port of a host and passes on to another address and port."""

    def __init__(self, host: Namespace, port: int, target: tuple[str, int], idle: float):
        self.closed = 0  # connections, for being idle
        self._idle, self._target = idle, target
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready, self._done = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(host, port), daemon=True)
        self._thread.start()
        if not self._ready.wait(5):
            raise RuntimeError(f"no proxy on port {port} of {host.label}")

    def cut(self) -> None:
        """Close all connections now."""
        self._loop.call_soon_threadsafe(self._abort)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(5)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _run(self, host: Namespace, port: int) -> None:
        with host.inside(), contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve(port))

    async def _serve(self, port: int) -> None:
        server = await asyncio.start_server(self._client, "0.0.0.0", port)
        self._ready.set()
        await self._done.wait()
        server.close()
        self._abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward[1]}
        watch = _Watch()
        both = [self._copy(reader, onward[1], watch), self._copy(onward[0], writer, watch)]
        tasks = [asyncio.ensure_future(one) for one in both]
        while not any(task.done() for task in tasks):
            left = watch.used_at + self._idle - time.monotonic()
            if left <= 0:
                self.closed += 1
                break
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, onward[1]):
            end.transport.abort()
            self._writers.discard(end)
        await asyncio.gather(*tasks, return_exceptions=True)

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, watch: _Watch) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                watch.used_at = time.monotonic()
                writer.write(data)
                await writer.drain()


class _Watch:
    def __init__(self) -> None:
        self.used_at = time.monotonic()
