# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""firewalld: which commands open the relay's port, permanently and in the running firewall."""

from __future__ import annotations

import json

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.firewalld import (
    Firewalld,
    Settings,
    closed_interfaces,
    make_plan,
    parse_blocks,
    read_firewalld,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import (
    CommandError,
    FirewallError,
    Port,
)

RELAY = Port("udp", 40000, "relay")
ZONES = """\
block
  target: %%REJECT%%
  services: 
  ports: 

public (active)
  target: default
  interfaces: eth0
  services: dhcpv6-client ssh{services}
  ports: 8080/tcp{ports}
  rich rules: 
\trule family="ipv4" source address="192.0.2.66" drop
"""  # noqa: W291


def settings(services: str = "", ports: str = "", service_ports: list[str] | None = None) -> Settings:
    return Settings(parse_blocks(ZONES.format(services=services, ports=ports)), service_ports)


def commands(permanent: Settings, runtime: Settings | None, *ports: Port, ssh: tuple[int, ...] = ()) -> list[str]:
    state = Firewalld(runtime is not None, ("public",), permanent, runtime or Settings({}, None), {"eth0": "public"})
    return [" ".join(command) for command in make_plan(state, list(ports), list(ssh)).commands]


def test_blocks() -> None:
    assert settings().zones["public"] == {
        "target": ["default"],
        "interfaces": ["eth0"],
        "services": ["dhcpv6-client", "ssh"],
        "ports": ["8080/tcp"],
        "rich rules": ['rule family="ipv4" source address="192.0.2.66" drop'],
    }


def test_the_first_time_without_a_reload() -> None:
    assert commands(settings(), settings(), RELAY) == [
        "firewall-cmd --permanent --new-service=peer-relay",
        "firewall-cmd --permanent --service=peer-relay "
        "--set-description=homelab.peer_relay: the ports that the relay listens on",
        "firewall-cmd --permanent --service=peer-relay --add-port=40000/udp",
        "firewall-cmd --permanent --zone=public --add-service=peer-relay",
        "firewall-cmd --zone=public --add-port=40000/udp",
    ]


DONE = settings(" peer-relay", service_ports=["40000/udp"])


def test_the_second_time_before_and_after_a_reload() -> None:
    assert commands(DONE, settings(ports=" 40000/udp"), RELAY) == []
    assert commands(DONE, DONE, RELAY) == []


def test_removal_before_and_after_a_reload() -> None:
    permanent = [
        "firewall-cmd --permanent --zone=public --remove-service=peer-relay",
        "firewall-cmd --permanent --delete-service=peer-relay",
    ]
    before = commands(DONE, settings(ports=" 40000/udp"))
    assert before == [*permanent, "firewall-cmd --zone=public --remove-port=40000/udp"]
    assert commands(DONE, DONE) == [*permanent, "firewall-cmd --zone=public --remove-service=peer-relay"]


def test_another_port() -> None:
    assert commands(DONE, DONE, Port("udp", 40001, "relay")) == [
        "firewall-cmd --permanent --service=peer-relay --remove-port=40000/udp",
        "firewall-cmd --permanent --service=peer-relay --add-port=40001/udp",
        "firewall-cmd --zone=public --remove-service=peer-relay",
        "firewall-cmd --zone=public --add-port=40001/udp",
    ]


def test_a_port_of_somebody_is_left_alone() -> None:
    open_anyway = settings(ports=" 40000-40010/udp")
    assert commands(open_anyway, open_anyway, RELAY) == []
    assert commands(open_anyway, open_anyway) == []


def test_off_with_ssh_on_another_port() -> None:
    assert commands(DONE, None, RELAY, ssh=(22,)) == []
    assert commands(DONE, None, RELAY, ssh=(2222,)) == ["firewall-offline-cmd --zone=public --add-port=2222/tcp"]


def test_removal_tells_which_ports_it_closes() -> None:
    ours = settings(" peer-relay", service_ports=["2222/tcp", "22/tcp", "8080/tcp"])
    plan = make_plan(Firewalld(True, ("public",), ours, ours, {}), [])
    assert plan.closed_ports == (Port("tcp", 2222, "peer-relay"),)


def test_a_rich_rule_that_closes_the_port_on_purpose_is_refused() -> None:
    rule = 'rule port port="40000" protocol="udp" drop'
    closed = settings()
    closed.zones["public"]["rich rules"].append(rule)
    with pytest.raises(FirewallError, match=rule):
        commands(closed, closed, RELAY)


ALL_ZONES = """\
drop
  target: DROP
  interfaces: eth2
  services:
  ports:

external (active)
  target: default
  interfaces: eth1
  services: ssh
  ports:

friends (active)
  target: default
  sources: 203.0.113.0/24
  services:
  ports:

banned (active)
  target: DROP
  sources: ipset:bans
  services:
  ports:

trusted (active)
  target: ACCEPT
  interfaces: docker0
  services:
  ports:

public (default)
  target: default
  services: ssh
  ports: 40000/udp
"""
ADDRESSES = json.dumps(
    [{"ifname": name, "addr_info": [{"local": "192.0.2.1"}]} for name in ("lo", "eth0", "eth1", "eth2", "docker0")]
    + [{"ifname": "eth9", "addr_info": []}]
)


def host(zone: str = "", iproute2: bool = True) -> Firewalld:
    outputs = {"--state": "running\n", "--get-default-zone": "public\n", "--list-all-zones": ALL_ZONES}

    def run(argv: list[str], stdin: str = "") -> str:
        if argv[0] == "ip" and iproute2:
            return ADDRESSES
        if argv[-1] not in outputs:
            raise CommandError("INVALID_SERVICE")
        return outputs[argv[-1]]

    return read_firewalld(run, zone)


def test_the_port_goes_into_the_zone_of_every_interface_and_of_senders_that_are_not_banned() -> None:
    found = host()
    assert found.interfaces == {"eth0": "public", "eth1": "external", "eth2": "drop", "docker0": "trusted"}
    plan = make_plan(found, [RELAY])
    placed = [command[2] for command in plan.commands if command[-1] == "--add-service=peer-relay"]
    opened = [command[1] for command in plan.commands if command[1] != "--permanent"]
    assert placed == opened == ["--zone=drop", "--zone=external", "--zone=friends"]
    assert plan.found == ("40000/udp is open already in zone public", "40000/udp is open already in zone trusted")
    assert closed_interfaces(found, [RELAY]) == []


def test_without_iproute2_the_port_goes_into_every_zone_that_has_an_interface() -> None:
    assert set(host(iproute2=False).zones) == set(host().zones)
    assert host("external", iproute2=False).zones == ("external",)


def test_a_zone_that_is_named_is_told_which_interfaces_it_is_not_for() -> None:
    found = host("external")
    plan = make_plan(found, [RELAY])
    assert [command[2] for command in plan.commands if command[-1] == "--add-service=peer-relay"] == ["--zone=external"]
    (told,) = closed_interfaces(found, [RELAY])
    assert "interface eth2 is in firewalld's zone drop" in told
