# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend hcloud with the real modules of hetzner.hcloud, against a stand-in for Hetzner's API."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from role import Role
from standins.hcloud import TOKEN, Hcloud
from standins.web import Web

SSH = {"description": "ssh", "direction": "in", "protocol": "tcp", "port": "22", "source_ips": ["198.51.100.0/24"]}
PING = {"direction": "in", "protocol": "icmp", "source_ips": ["0.0.0.0/0", "::/0"]}
RELAY = {
    "description": "homelab.peer_relay home: relay",
    "direction": "in",
    "protocol": "udp",
    "port": "40000",
    "source_ips": ["0.0.0.0/0"],
    "destination_ips": [],
}


@pytest.fixture
def cloud(web: Web) -> Hcloud:
    web.application = Hcloud()
    return web.application


@pytest.fixture
def role(tmp_path: Path, web: Web, cloud: Hcloud) -> Role:
    return Role(tmp_path, {"port_forward_backend": "hcloud", "port_forward_hcloud_token": TOKEN}, web.environment())


def test_the_whole_life(role: Role, cloud: Hcloud) -> None:
    cloud.firewall("base", [SSH, PING])
    cloud.firewall("other", [SSH], server=43)
    before = copy.deepcopy(cloud.firewalls)

    assert role.run("--check").changed == 1
    assert cloud.firewalls == before

    run = role.run()
    assert run.changed == 1
    assert cloud.firewalls["base"]["rules"] == [*before["base"]["rules"], RELAY]
    assert cloud.firewalls["other"] == before["other"]
    assert run.result["external_address"] == "203.0.113.42"
    assert TOKEN not in run.output

    assert role.run().changed == 0

    assert role.run(port_forward_state="absent").changed == 1
    assert cloud.firewalls == before
    assert cloud.writes == ["set_rules base"] * 2


def test_a_server_without_a_firewall_stays_open(role: Role, cloud: Hcloud) -> None:
    """One with the relay's rule alone would shut SSH out."""
    cloud.firewall("unused", [SSH], server=None)
    role.environment["HCLOUD_TOKEN"] = TOKEN
    run = role.run(port_forward_hcloud_token="")
    assert run.changed == 0
    assert "Hetzner lets everything in" in " ".join(run.output.split())


def test_several_firewalls(role: Role, cloud: Hcloud) -> None:
    cloud.firewall("base", [SSH])
    cloud.firewall("web", [SSH], by_label=True)
    assert "applied to home (server 42) are base, web" in role.error()
    assert role.run(port_forward_hcloud_firewall="web").changed == 1
    assert cloud.writes == ["set_rules web"]


def test_what_it_refuses(role: Role, cloud: Hcloud) -> None:
    assert "set port_forward_hcloud_token to it" in role.error(port_forward_hcloud_token="")
    cloud.metadata = {}
    assert "home is not a server of Hetzner's cloud" in role.error()


def test_a_host_that_says_to_be_every_server(role: Role, cloud: Hcloud) -> None:
    """It has been taken over; what it says is compared with the servers that the firewalls name."""
    cloud.firewall("other", [SSH], server=43)
    for said in (b"[0-9]+", b"43\n44"):
        cloud.metadata["instance-id"] = said
        assert "home is not a server of Hetzner's cloud" in role.error()
        assert role.run(port_forward_state="absent").changed == 0
    assert not cloud.writes
