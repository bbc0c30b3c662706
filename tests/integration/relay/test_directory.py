# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The directory, asked through the tunnels of stock devices behind NAT."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address

import pytest
from harness.processes import wait_until
from harness.service import ADDRESSES
from harness.trio import Trio
from harness.wireguard import Device
from peer_common import directory


def _ask(device: Device, relay: str, *targets: str) -> directory.Answer:
    nonce = os.urandom(directory.NONCE_SIZE)
    with device.host.inside():
        asking = socket.socket(socket.AF_INET6 if ":" in relay else socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.settimeout(3)
        asking.connect((relay, directory.PORT))
        asking.send(directory.write_request(nonce, [ip_address(target) for target in targets]))
        answer = directory.read_answer(asking.recv(2048))
    assert answer.nonce == nonce
    return answer


def _text(entry: directory.Entry) -> str | None:
    return ":".join(map(str, entry.seen)) if entry.seen else None


@pytest.mark.parametrize("address", ADDRESSES)
def test_devices_learn_where_the_relay_sees_them(trio_up: Trio, address: str) -> None:
    ann, bob, cat = trio_up.devices
    everybody = [device.address.split("/")[0] for device in (ann, bob, cat)]
    answer = _ask(ann, address, *everybody[1:], "10.77.9.9")
    assert _text(answer.own) == trio_up.relay.endpoint("ann")
    assert [_text(entry) for entry in answer.targets] == [*map(trio_up.relay.endpoint, ("bob", "cat")), None]
    assert answer.own.seen[0] == trio_up.sites[0].wan_v4

    trio_up.relay.registrations["cat"].groups = ["office"]
    trio_up.relay.reload()
    wait_until("cat is in another group", lambda: trio_up.relay.device("cat")["groups"] == ["office"], 5)
    assert _ask(ann, address, everybody[2]).targets == (directory.Entry(),)
    assert _ask(cat, address, everybody[0]).targets == (directory.Entry(),)
