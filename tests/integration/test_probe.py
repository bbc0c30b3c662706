# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: they tell from where a relay behind a router is reached, and give those who replay them nothing."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.capture import udp_socket
from harness.client import random_index
from harness.modules import run_module
from harness.netns import Namespace
from harness.processes import wait_until
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, STRANGER_V4, Lab
from harness.trio import Trio
from peer_common import packets
from peer_relay.wireguard.noise import Identity, InitiationWriter, generate_private_key, tai64n

Figure = Callable[..., None]
_REPLAYS = 20_000
_COST = 60e-6  # seconds; a handshake costs some 300e-6
_MARK = 0x7072


def _made(relay: Relay, count: int = 1) -> dict[str, Any]:
    return json.loads(relay.command("probe", "--json", "--count", str(count)))


def _probe(relay: Relay, host: Namespace, endpoint: str, count: int = 1, **options: Any) -> dict[str, Any]:
    made = _made(relay, count)
    return run_module(
        host,
        "relay_probe",
        endpoint=endpoint,
        relay_public_key=made["public_key"],
        initiations=made["initiations"],
        **{"timeout": 10, **options},
    )


def _drops(relay: Relay) -> dict[str, int]:
    return {reason: count["packets"] for reason, count in relay.status()["drops"].items()}


# --- where it is reached ----------------------------------------------------------------------------------------------


class Home:
    """A relay behind a router that forwards its port, a host beside it, and one behind another router."""

    def __init__(self, lab: Lab):
        self.site = lab.site()
        self.relay = Relay(self.site.host("home"), lab.folder)
        self.beside = self.site.host("beside")
        self.away = lab.site().host("away")
        self.inner = f"192.168.{self.site.number}.11:{PORT}"
        self.public = f"{self.site.wan_v4}:{PORT}"

    def forward(self, hairpin: bool = False) -> None:
        """Have the router forward the port, for packets from inside too where it does hairpin NAT."""
        to = self.inner.rpartition(":")[0]
        here = f"ip daddr {self.site.wan_v4} udp dport {PORT}"
        self.site.router.nft(
            f"""
            table ip forward; delete table ip forward
            table ip forward {{
              chain prerouting {{
                type nat hook prerouting priority dstnat
                {here} {"" if hairpin else 'iifname "wan0"'} dnat to {to}
              }}
              chain postrouting {{
                type nat hook postrouting priority srcnat - 10
                ip saddr 192.168.0.0/16 ip daddr {to} masquerade
              }}
            }}
            insert rule inet router forward ct status dnat accept
            """
        )


@pytest.fixture
def home(lab: Lab) -> Iterator[Home]:
    made = Home(lab)
    made.relay.start()
    yield made
    made.relay.stop()


def test_a_probe_tells_from_where_the_relay_is_reached(home: Home, figure: Figure) -> None:
    made = _made(home.relay)
    assert made["own_endpoints"] == [home.inner]
    assert made["inner_endpoint"] == home.inner

    closed = _probe(home.relay, home.away, home.public, count=2, timeout=1)
    assert not closed["reachable"]
    assert (closed["attempts"], closed["reason"]) == (2, "no answer to 2 probes")

    home.forward()
    outside = _probe(home.relay, home.away, home.public)
    inside = _probe(home.relay, home.beside, home.inner)
    hairpin = _probe(home.relay, home.beside, home.public, timeout=1)
    assert (outside["reachable"], outside["address"]) == (True, home.public)
    assert (inside["reachable"], inside["address"]) == (True, home.inner)
    assert not hairpin["reachable"]
    assert not _probe(home.relay, home.away, home.inner, timeout=1)["reachable"]
    figure("probe from outside", f"{outside['round_trip_ms']:.1f} ms")

    home.forward(hairpin=True)
    hairpin = _probe(home.relay, home.beside, home.public)
    assert (hairpin["reachable"], hairpin["address"]) == (True, home.public)

    status = home.relay.status()
    assert status["probes_answered"] == len(status["probes"]) == 3
    assert status["probes"][0]["source"].startswith("203.0.113.22:")
    assert status["probes"][0]["index"] == outside["indexes"][-1]
    assert status["devices"] == []
    assert status["drops"] == {}


def test_a_name_with_an_address_that_does_not_serve(home: Home) -> None:
    """The addresses of a name are tried in turn, and none for which there is no route costs a probe."""
    home.forward()
    folder = Path("/etc/netns", home.away.name)
    folder.mkdir(parents=True)
    try:
        (folder / "hosts").write_text(
            f"2001:db8::1 relay.test\n203.0.113.99 relay.test\n{home.site.wan_v4} relay.test\n"
        )
        answer = _probe(home.relay, home.away, f"relay.test:{PORT}", count=3, timeout=2)
    finally:
        (folder / "hosts").unlink()
        folder.rmdir()
    assert (answer["reachable"], answer["address"]) == (True, home.public)
    unknown = _probe(home.relay, home.away, f"nowhere.invalid:{PORT}")
    assert not unknown["reachable"]
    assert unknown["reason"].startswith("nowhere.invalid: ")


def test_a_probe_does_not_pass_the_tunnel(trio_up: Trio) -> None:
    relay, ann = trio_up.relay, trio_up.devices[0]
    public = f"{RELAY_V4[0]}:{PORT}"
    # Everything goes through the tunnel but what WireGuard itself sends, which carries a mark.
    ann.host.run("wg", "set", ann.interface, "fwmark", str(_MARK))
    ann.host.ip(
        f"route add default dev {ann.interface} table 100",
        f"rule add not fwmark {_MARK} table 100",
    )
    answer = _probe(relay, ann.host, public, interface=ann.interface)
    assert (answer["reachable"], answer["address"]) == (True, public)
    assert relay.status()["probes"][-1]["source"].startswith(f"{trio_up.sites[0].wan_v4}:")
    # A network behind the tunnel is reached by no other way.
    ann.host.ip(f"route add 192.168.77.0/24 dev {ann.interface}")
    answer = _probe(relay, ann.host, f"192.168.77.1:{PORT}", interface=ann.interface)
    assert (answer["reachable"], answer["through_tunnel"], answer["attempts"]) == (False, True, 0)
    assert answer["reason"] == f"the way to it is the tunnel {ann.interface}"


# --- what others make of it -------------------------------------------------------------------------------------------


def _cpu(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answers(end: Any, expected: int = 0) -> list[bytes]:
    """Wait for so many answers, and a moment for others."""
    end.settimeout(10)
    found = [end.recv(2048) for _ in range(expected)]
    end.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(end.recv(2048))
    return found


def test_replayed_probes_get_nothing_and_cost_little(trio_up: Trio, figure: Figure) -> None:
    relay, target = trio_up.relay, (RELAY_V4[0], PORT)
    bound = {device.name: relay.endpoint(device.name) for device in trio_up.devices}
    (initiation,) = (bytes.fromhex(text) for text in _made(relay)["initiations"])
    host = trio_up.lab.stranger()
    with udp_socket(host, STRANGER_V4) as first, udp_socket(host, "198.18.0.7") as second:
        # Whoever brings it is answered, once.
        first.sendto(initiation, target)
        (answer,) = _answers(first, 1)
        assert len(answer) == packets.RESPONSE_SIZE
        # A copy with another index carries a mac1 that anybody can make.
        other = initiation[:4] + struct.pack("<I", random_index()) + initiation[8:116]
        copies = [initiation, packets.append_macs(other, packets.mac1_key(b64decode(relay.public_key)))]
        for end in (first, second):
            for copy in copies:
                end.sendto(copy, target)
        assert _answers(first) + _answers(second) == []
        wait_until("the replays are counted", lambda: _drops(relay).get("probe_replayed") == 4, 10)
        # Nor does anything that follows the answer.
        index = struct.unpack_from("<I", answer, 4)[0]
        first.sendto(packets.HEAD.pack(packets.TRANSPORT, index) + bytes(24), target)
        assert _answers(first) == []
        # Strangers who know the relay's key make no probe with it.
        stranger = Identity(generate_private_key())
        for claimed in (stranger.public, b64decode(relay.public_key)):
            stranger.public = claimed
            writer = InitiationWriter(stranger, b64decode(relay.public_key), random_index(), tai64n(time.time()))
            first.sendto(writer.datagram, target)
        assert _answers(first) == []
        wait_until("both are counted", lambda: {"unknown_device", "handshake_invalid"} <= _drops(relay).keys(), 10)

        memory, before = relay.memory(), _cpu(relay.process.pid)
        for number in range(_REPLAYS):
            first.sendto(initiation, target)
            if number % 50 == 0:
                time.sleep(0.001)  # as fast as the relay, which shares its processor with others
        assert _answers(first) == []
        spent, grown = _cpu(relay.process.pid) - before, relay.memory() - memory
    seen = _drops(relay)["probe_replayed"] - 4
    figure("replayed probe", f"{spent / seen * 1e6:.0f} µs of {seen:,} each", f"< {_COST * 1e6:.0f} µs")
    assert seen > _REPLAYS / 2
    assert spent / seen < _COST
    assert grown < 2**20
    # Handshakes have their whole share: a device that comes now is served at once.
    assert not {"cookie_required", "handshake_limited"} & _drops(relay).keys()
    assert {device.name: relay.endpoint(device.name) for device in trio_up.devices} == bound
    assert relay.status()["probes_answered"] == 1
    trio_up.devices[0].host.run("ping", "-c", "2", "-i", "0.2", "-W", "2", "10.77.1.2")


def test_a_restarted_relay_answers_no_probe_from_before(trio_up: Trio) -> None:
    relay, target = trio_up.relay, (RELAY_V4[0], PORT)
    spent, fresh = (bytes.fromhex(text) for text in _made(relay, 2)["initiations"])
    with udp_socket(trio_up.lab.stranger(), STRANGER_V4) as end:
        end.sendto(spent, target)
        assert len(_answers(end, 1)) == 1
        relay.stop()
        relay.start()
        for initiation in (spent, fresh):
            end.sendto(initiation, target)
        assert _answers(end) == []
        end.sendto(bytes.fromhex(_made(relay)["initiations"][0]), target)
        assert len(_answers(end, 1)) == 1
    assert _drops(relay)["probe_expired"] == 2
