# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""firewalld: which commands open the relay's port, permanently and in the running firewall."""

from __future__ import annotations

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.firewall import FirewallError, Port
from ansible_collections.homelab.peer_relay.plugins.module_utils.firewalld import (
    Firewalld,
    Settings,
    make_plan,
    parse_blocks,
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
    state = Firewalld(runtime is not None, "public", permanent, runtime or Settings({}, None))
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
    plan = make_plan(Firewalld(True, "public", ours, ours), [])
    assert plan.closed_ports == (Port("tcp", 2222, "peer-relay"),)


def test_a_rich_rule_that_closes_the_port_on_purpose_is_refused() -> None:
    rule = 'rule port port="40000" protocol="udp" drop'
    closed = settings()
    closed.zones["public"]["rich rules"].append(rule)
    with pytest.raises(FirewallError, match=rule):
        commands(closed, closed, RELAY)
