# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A site that has only IPv6, and a NAT64; the relays are given as IPv4 addresses."""

from __future__ import annotations

import time
from pathlib import Path

from harness.dns import NameServer
from harness.paths import Figure, Paths
from harness.processes import wait_until
from harness.topology import Lab, Site

_NAT64 = """
tun-device nat64
ipv4-addr 192.168.255.1
prefix 2001:db8:64::/96
dynamic-pool 192.168.255.0/24
data-dir {folder}
"""


def nat64(site: Site, lab: Lab, folder: Path) -> None:
    """Have the site's router translate."""
    folder.mkdir()
    file = folder / "tayga.conf"
    file.write_text(_NAT64.format(folder=folder))
    site.router.run("tayga", "--config", str(file), "--mktun")
    site.router.ip(
        "link set nat64 up",
        "route add 192.168.255.0/24 dev nat64",
        "route add 2001:db8:64::/96 dev nat64",
    )
    site.router.nft('add rule inet router forward iifname "nat64" accept')
    lab.start(site.router.spawn("tayga", "--config", str(file), "--nodetach", log="tayga"))


def test_a_relay_with_an_ipv4_address_is_reached_from_a_site_that_has_none(
    paths: Paths, lab: Lab, figure: Figure
) -> None:
    agent, ann, bob = paths.agents[0], paths.ann, paths.bob
    number = paths.sites[0].number
    nat64(paths.sites[0], lab, lab.folder / "nat64")
    ann.host.ip(
        "addr flush dev eth0",
        f"addr add 2001:db8:{number}::50/64 dev eth0 nodad",
        f"route add default via 2001:db8:{number}::1",
    )
    agent.resolvers = lab.folder / "resolv.conf"
    agent.resolvers.write_text(f"nameserver 2001:db8:{number}::1\n")
    names = NameServer(paths.sites[0].router, f"2001:db8:{number}::1")
    for table in paths.tables:
        table.pop("fallback_url", None)
        table.pop("fallback_fingerprint", None)
    try:
        paths.up(bound=False)
        wait_until("the reason is told", lambda: "no IPv4 here" in str(agent.status().get("problems")), 15)
        assert not any(relay["rtt_ms"] for relay in agent.status()["relays"])
        names.addresses["ipv4only.arpa"] = "2001:db8:64::c000:aa"  # 192.0.0.170
        begun = time.monotonic()
        # A round trip is known of a relay that has answered; "alive" is each before it has been given up.
        wait_until("the relays answer", lambda: all(relay["rtt_ms"] for relay in agent.status()["relays"]), 20)
        took = time.monotonic() - begun
        agent.wait_path(bob, "relay")
        figure("path: a relay's IPv4 address through a NAT64, from when its prefix is told", f"{took:.1f} s", "< 10 s")
        assert took < 10
        assert agent.status()["problems"] == []
        assert {relay["endpoint"].split("::")[0] for relay in agent.status()["relays"]} == {"[2001:db8:64"}
        ann.host.run("ping", "-c", "3", "-W", "2", bob.address.split("/")[0])
    finally:
        names.close()
