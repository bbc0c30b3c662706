# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as a network: hosts that run containers have many addresses at which nobody else reaches them."""

from __future__ import annotations

import time

import pytest
from harness.netns import Namespace
from harness.paths import Figure, Paths, Watched
from harness.wireguard import Device

_BRIDGES = 12
_SECONDS = 25


def overlay(device: Device, other: Device, address: str) -> None:
    """Add a VXLAN through the tunnel, as flannel does on nodes that know each other by their overlay addresses."""
    own, remote = (each.address.split("/")[0] for each in (device, other))
    device.host.ip(
        f"link add flannel0 type vxlan id 1 local {own} remote {remote} dstport 8472",
        f"addr add {address}/16 dev flannel0",
        "link set flannel0 up",
    )


def bridges(host: Namespace, first: int) -> None:
    """Add bridges with an address and a container's link each, as Docker does for networks of its own."""
    for number in range(_BRIDGES):
        host.ip(
            f"link add br{number} type bridge",
            f"link add cont{number} type veth peer name c{number}",
            f"link set cont{number} master br{number} up",
            f"link set c{number} up",
            f"addr add 172.{first + number}.0.1/16 dev br{number}",
            f"link set br{number} up",
        )


def candidates(paths: Paths) -> set[str]:
    """Where the devices' paths have led so far."""
    return {agent.path(other)["endpoint"] for agent, other in paths.views()}


@pytest.mark.parametrize("symmetric", [False, True])
def test_an_overlay_through_the_tunnel_is_no_network(paths: Paths, figure: Figure, symmetric: bool) -> None:
    if symmetric:
        paths.symmetric()
    paths.up(agents=False)
    overlay(paths.ann, paths.bob, "10.42.1.1")
    overlay(paths.bob, paths.ann, "10.42.2.1")
    with Watched(paths.ann, paths.bob) as watched:
        paths.start_agents()
        paths.wait("relay" if symmetric else "direct", seconds=20)
        moment, before = time.monotonic(), [agent.path(other)["changes"] for agent, other in paths.views()]
        time.sleep(_SECONDS)
        _, lost = watched.since(moment)
        changes = sum(agent.path(other)["changes"] for agent, other in paths.views()) - sum(before)
    what = "symmetric NATs" if symmetric else "a direct path"
    figure(f"path: container overlay through the tunnel, {what}, {_SECONDS} s", f"{changes} changes, {lost} lost", "0")
    assert (changes, lost) == (0, 0)
    assert not any(endpoint.startswith("10.42.") for endpoint in candidates(paths))


def test_a_dozen_bridges_hide_no_way(paths: Paths) -> None:
    """Both hosts have the same networks for their containers."""
    for device in paths.devices:
        bridges(device.host, 17)
    paths.up()
    paths.wait("direct", seconds=20)


def test_a_bridge_that_is_the_way_out_is_a_network(paths: Paths) -> None:
    """As on hosts of virtual machines: the host's own address is the bridge's."""
    home, away = paths.sites
    host = paths.ann.host
    away.welcome(host, home)
    address = host.run("ip", "-4", "-br", "addr", "show", "dev", "eth0").split()[2]
    host.ip(
        "link add br0 type bridge",
        "addr flush dev eth0",
        "link set eth0 master br0",
        f"addr add {address} dev br0",
        "link set br0 up",
        "route add default via 192.168.2.1",
    )
    paths.up()
    paths.wait("lan", seconds=20)
