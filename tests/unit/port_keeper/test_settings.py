# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper's settings file, and the template that writes it."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.toml import toml
from peer_common.toml_table import SettingsError
from port_keeper.settings import Settings, load
from port_mapping.mapping import Wanted

ROLE = Path(__file__).resolve().parents[3] / "roles/port_forward"
RELAY = '[[mapping]]\nname = "relay"\ninternal_port = 40000\n'


def parse(text: str, folder: Path) -> Settings:
    file = folder / "ports.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


def test_defaults(tmp_path: Path) -> None:
    found = parse(RELAY, tmp_path)
    assert (found.method, found.gateway, found.stun_server, found.poll_seconds) == ("auto", "", "", 3)
    assert found.status_file == Path("/run/peer-relay-ports/status.json")
    assert found.state_file == Path("/var/lib/peer-relay-ports/state.json")
    assert found.mappings == (("relay", Wanted(40000, 40000, "udp", 4, 3600)),)


def test_everything(tmp_path: Path) -> None:
    found = parse(
        """
        [router]
        method = "nat-pmp"
        gateway = "fe80::1%eth0"
        stun_server = "stun.example.org:3478"
        lease = 120
        poll_seconds = 10
        [keeper]
        status_file = "/a"
        state_file = "/b"
        [[mapping]]
        name = "relay"
        internal_port = 40000
        external_port = 41000
        [[mapping]]
        name = "relay"
        internal_port = 40000
        family = 6
        [[mapping]]
        name = "web"
        protocol = "tcp"
        internal_port = 40000
        """,
        tmp_path,
    )
    assert (found.method, found.gateway, found.stun_server, found.poll_seconds) == (
        "nat-pmp",
        "fe80::1%eth0",
        "stun.example.org:3478",
        10,
    )
    assert (found.status_file, found.state_file) == (Path("/a"), Path("/b"))
    assert [mapping.wanted for mapping in found.mappings] == [
        Wanted(40000, 41000, "udp", 4, 120),
        Wanted(40000, 40000, "udp", 6, 120),
        Wanted(40000, 40000, "tcp", 4, 120),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file's mapping is missing: write at least one [[mapping]] table"),
        ("mapping = []", "the file's mapping = []: write at least one"),
        ("mapping = [1]", "[[mapping]] number 1: is 1: write a table"),
        ("router = 1\n" + RELAY, "[router] is 1: write a table"),
        ('[router]\nmethod = "upmp"\n' + RELAY, "[router] method = 'upmp': one of auto, pcp, nat-pmp, upnp"),
        ('[router]\nmetod = "pcp"\n' + RELAY, "[router] metod = 'pcp': unknown key"),
        ('[router]\ngateway = "router"\n' + RELAY, "[router] gateway = 'router': the router's address"),
        ('[router]\nstun_server = "a b"\n' + RELAY, "[router] stun_server = 'a b': "),
        ("[router]\nlease = 1\n" + RELAY, "[router] lease = 1: seconds, from 2 to 604800"),
        ("[router]\nlease = true\n" + RELAY, "[router] lease = True: seconds"),
        ("[router]\npoll_seconds = 0.5\n" + RELAY, "[router] poll_seconds = 0.5: seconds, from 1 to 60"),
        ('[keeper]\nstatus_file = "a"\n' + RELAY, "[keeper] status_file = 'a': an absolute path"),
        ("[[mapping]]\ninternal_port = 1", "[[mapping]] number 1: name is missing: one word"),
        ('[[mapping]]\nname = "a b"\ninternal_port = 1', "[[mapping]] a b: name = 'a b': one word"),
        ('[[mapping]]\nname = "a"', "[[mapping]] a: internal_port is missing: a port from 1 to 65535"),
        (RELAY + "external_port = 65536", "[[mapping]] relay: external_port = 65536: a port from 1 to 65535"),
        (RELAY + "family = 5", "[[mapping]] relay: family = 5: 4, or 6 for a hole in the router's IPv6 firewall"),
        (RELAY + 'protocol = "sctp"', '[[mapping]] relay: protocol = \'sctp\': "udp" or "tcp"'),
        (RELAY + "family = 6\nexternal_port = 1", "external_port = 1: IPv6 ports are not translated: leave it out, or"),
        (RELAY + RELAY, "[[mapping]] relay: name = 'relay': already the name of another mapping"),
        (RELAY + RELAY.replace("relay", "b"), "[[mapping]] b: external_port = 40000: already that of relay"),
        (
            RELAY + RELAY.replace("relay", "b") + "external_port = 41000",
            "[[mapping]] b: internal_port = 40000: already that of relay",
        ),
        ("x = 1\n" + RELAY, "the file's x = 1: unknown key"),
        ("x = " + "1" * 5000, "not TOML"),
        ("[", "not TOML"),
    ],
)
def test_errors_name_the_value_and_the_cure(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(text, tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/ports.toml: ")
    assert said in str(error.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory: create it"):
        load(tmp_path / "ports.toml")


def test_the_template_writes_what_is_read(tmp_path: Path) -> None:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["homelab.peer_relay.toml"] = toml
    environment.filters["comment"] = lambda text: f"# {text}"
    text = environment.from_string((ROLE / "templates/ports.toml.j2").read_text(encoding="utf-8")).render(
        ansible_managed="Ansible managed",
        port_forward_auto_method="pcp",
        port_forward_auto_gateway="192.0.2.1",
        port_forward_auto_stun_server="",
        port_forward_auto_lease=600,
        __port_forward_wanted=[
            {"name": "relay", "protocol": "udp", "port": 1, "external_port": 2, "families": ["ipv4", "ipv6"]},
            {"name": "web", "protocol": "tcp", "port": 3, "external_port": 4, "families": ["ipv4"]},
        ],
    )
    found = parse(text, tmp_path)
    assert (found.method, found.gateway) == ("pcp", "192.0.2.1")
    assert found.mappings == (
        ("relay", Wanted(1, 2, "udp", 4, 600)),
        ("relay", Wanted(1, 1, "udp", 6, 600)),
        ("web", Wanted(3, 4, "tcp", 4, 600)),
    )
