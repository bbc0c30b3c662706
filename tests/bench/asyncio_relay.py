# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The yardstick of the usual way: the relay's forwarding as an asyncio datagram protocol.

python asyncio_relay.py PORT FILE    where FILE has lines "SOURCE:PORT INDEX DESTINATION:PORT", the index as on the wire
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

Address = tuple[str, int]


def _address(text: str) -> Address:
    host, port = text.split(":")
    return host, int(port)


class Forwarder(asyncio.DatagramProtocol):
    def __init__(self, routes: dict[tuple[Address, bytes], Address]):
        self._routes = routes

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, source: Address) -> None:
        destination = self._routes.get((source, data[4:8]))
        if destination:
            self._transport.sendto(data, destination)


async def main() -> None:
    port, table = sys.argv[1:]
    routes = {}
    for line in Path(table).read_text().splitlines():
        source, index, destination = line.split()
        routes[_address(source), bytes.fromhex(index)] = _address(destination)
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Forwarder(routes), ("0.0.0.0", int(port)))
    print("ready", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
