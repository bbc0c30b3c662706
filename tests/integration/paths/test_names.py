# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What brings the tunnel back does not depend on it: names of relays and fallbacks are looked up past the tunnel."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from harness.dns import NameServer
from harness.paths import Figure, Paths
from harness.service import PORT
from harness.topology import RELAY_V4, Lab

_NAME = "relay.example"
_MOVED = "203.0.113.77"
_MARK = 51820


@pytest.fixture
def names(paths: Paths, lab: Lab) -> Iterator[NameServer]:
    """A name server of the provider's, which the network has told both devices; their only relay has a name."""
    host = lab.stranger()
    address = host.run("ip", "-4", "-br", "addr", "show", "scope", "global").split()[2].split("/")[0]
    server = NameServer(host, address)
    server.addresses[_NAME] = RELAY_V4[0]
    resolvers = lab.folder / "resolv.conf"
    resolvers.write_text(f"nameserver {address}\n")
    for agent in paths.agents:
        agent.resolvers = resolvers
        agent.relays = [paths.tables[0] | {"endpoints": [f"{_NAME}:{PORT}"]}]
    yield server
    server.close()


def use_exit_node(paths: Paths) -> None:
    """Have all that ann sends go by bob."""
    ann, bob = paths.devices
    ann.host.run("wg", "set", ann.interface, "fwmark", str(_MARK))
    ann.host.run("wg", "set", ann.interface, "peer", bob.public_key, "allowed-ips", "0.0.0.0/0")
    ann.host.ip(  # as wg-quick does it
        f"route add default dev {ann.interface} table {_MARK}",
        f"rule add not fwmark {_MARK} table {_MARK} pref 32764",
        "rule add table main suppress_prefixlength 0 pref 32763",
    )


def test_a_relay_that_moves_is_found_again_by_a_device_whose_everything_goes_through_the_tunnel(
    paths: Paths, names: NameServer, figure: Figure
) -> None:
    paths.up(agents=False)
    use_exit_node(paths)
    for site in paths.sites:
        site.partition_from(paths.sites[1 - paths.sites.index(site)].wan_v4)
    paths.start_agents()
    paths.wait("relay", seconds=20)
    paths.lab.relay_host.ip(
        *(f"addr del {address}/24 dev eth0" for address in reversed(RELAY_V4)),
        f"addr add {_MOVED}/24 dev eth0",
        "route replace default via 203.0.113.1",
    )
    names.addresses[_NAME] = _MOVED
    moved = time.monotonic()
    agent = paths.agents[0]
    while not any(relay["alive"] and _MOVED in relay["endpoint"] for relay in agent.status()["relays"]):
        assert time.monotonic() - moved < 60, agent.status()
        time.sleep(0.2)
    took = time.monotonic() - moved
    figure("path: relay's name found past the dead tunnel of an exit node", f"{took:.1f} s", "< 20 s")
    assert took < 20


def test_a_fallback_is_found_by_its_name_by_a_device_whose_everything_goes_through_the_tunnel(
    paths: Paths, names: NameServer, figure: Figure
) -> None:
    for agent in paths.agents:
        agent.relays[0]["fallback_url"] = f"wss://{_NAME}/"
    paths.up(agents=False)
    use_exit_node(paths)
    paths.sites[0].block_udp(but_dns=True)
    begun = time.monotonic()
    paths.start_agents()
    paths.wait("fallback", "relay", seconds=30)
    took = time.monotonic() - begun
    figure("path: fallback's name found past the dead tunnel of an exit node", f"{took:.1f} s", "< 20 s")
    assert took < 20
    ann, bob = paths.devices
    ann.host.run("ping", "-c", "3", "-W", "2", bob.address.split("/")[0])
