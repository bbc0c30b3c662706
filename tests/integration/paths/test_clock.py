# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device whose clock has gone back meets another one again, although that one refuses its handshakes."""

from __future__ import annotations

import base64
import signal
import socket
import time
from collections.abc import Callable

from harness.client import random_index
from harness.paths import Paths
from harness.processes import wait_until
from peer_common import packets
from peer_relay.wireguard.noise import Identity, InitiationWriter, tai64n

Figure = Callable[..., None]


def test_the_other_devices_agent_begins_the_handshake(paths: Paths, figure: Figure) -> None:
    ann, bob = paths.ann, paths.bob
    paths.up()
    paths.wait("direct")
    paths.agents[0].stop(signal.SIGKILL)
    ann.process.stop()
    # Instead of setting ann's clock back: bob sees a handshake of hers from the future.
    writer = InitiationWriter(
        Identity(base64.b64decode(ann.private_key)),
        base64.b64decode(bob.public_key),
        random_index(),
        tai64n(time.time() + 1e6),
    )
    port = int(bob.host.run("wg", "show", bob.interface, "listen-port"))
    with bob.host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind(("127.0.0.1", 0))
        end.settimeout(5)
        end.sendto(writer.datagram, ("127.0.0.1", port))
        assert end.recv(2048)[0] == packets.RESPONSE
    ann.start()
    paths.connect(ann)
    ann.up()
    bobs = paths.agents[1].process
    bobs.send_signal(signal.SIGSTOP)
    paths.agents[0].start()
    time.sleep(12)
    assert not ann.handshakes()[bob.public_key], "bob refuses hers"
    bobs.send_signal(signal.SIGCONT)
    moment = time.monotonic()
    wait_until("they meet", lambda: ann.handshakes().get(bob.public_key), 200)
    took = time.monotonic() - moment
    figure("path: a device whose clock has gone back meets another one", f"{took:.0f} s", "< 150 s")
    paths.wait("direct", seconds=60)
    ann.host.run("ping", "-c", "3", "-W", "2", bob.address.split("/")[0])
    assert took < 150
