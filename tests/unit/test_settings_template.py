# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' settings templates write TOML, whatever the strings are."""

import functools
import re
import sys
from pathlib import Path

import jinja2
from ansible_collections.homelab.peer_relay.plugins.filter.toml import toml
from ansible_collections.homelab.peer_relay.plugins.filter.word import word
from hypothesis import given
from hypothesis import strategies as st

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROLES = Path(__file__).resolve().parents[2] / "roles"
KEY = "eKzEGGDMERSFDuJFtwMcfDRPkNFDYpCPaRX+XPDdHTM="
# What is no text is refused: test_writers.py.
TEXT = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "))


def _as_list(function):
    """A filter that gives a list, as Ansible has it."""
    return functools.wraps(function)(lambda *args: list(function(*args)))


def template(file: str) -> jinja2.Template:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    for name in ("map", "select"):
        environment.filters[name] = _as_list(environment.filters[name])
    environment.filters["comment"] = lambda text: f"# {text}"
    environment.filters["regex_replace"] = lambda text, pattern, by: re.sub(pattern, by, text)
    environment.filters |= {"homelab.peer_relay.toml": toml, "homelab.peer_relay.word": word}
    return environment.from_string((ROLES / file).read_text(encoding="utf-8"))


def render(**variables) -> dict:
    fixed = {
        "ansible_managed": "Ansible managed",
        "relay_name": "relay",
        "relay_listen_port": 40000,
        "relay_listen_addresses": ["0.0.0.0"],
        "relay_networks": ["10.77.0.0/16"],
        "relay_addresses": ["10.77.0.1"],
        "relay_metrics_listen": "",
        "relay_data_plane": "auto",
        "relay_devices": [],
        "__relay_self": {"name": "host", "addresses": ["10.77.0.1"]},
        "__relay_public_endpoint": "192.0.2.1:40000",
        "__relay_ports": [40000],
        "__relay_bpf": "/b",
        "__relay_key": "/k",
        "__relay_state_directory": "/s",
        "__relay_status_socket": "/r",
    }
    return tomllib.loads(template("relay/templates/relay.toml.j2").render(fixed | variables))


@given(TEXT, st.lists(TEXT))
def test_any_string_survives(name, groups):
    device = {"name": name, "public_key": KEY, "addresses": ["10.77.0.2"], "groups": groups}
    settings = render(relay_name=name, relay_devices=[device])
    assert settings["relay"]["name"] == (name or "host")
    assert settings["device"] == [device | {"rate_limit_mbit": 0}]


def test_devices_stand_in_the_order_of_their_names():
    devices = [{"name": name, "public_key": KEY, "addresses": []} for name in ("nas", "laptop")]
    assert [device["name"] for device in render(relay_devices=devices)["device"]] == ["laptop", "nas"]


@given(TEXT, TEXT, st.lists(TEXT))
def test_the_agents_settings_too(name, url, endpoints):
    relay = {
        "name": name,
        "public_key": KEY,
        "addresses": ["10.77.0.1"],
        "fallback_url": url,
        "fallback_fingerprint": "",
    }
    device = {"name": name, "public_key": KEY, "addresses": ["10.77.0.3"]}
    variables = {
        "ansible_managed": "Ansible managed",
        "peer_interface": "pr0",
        "peer_networks": ["10.77.0.0/16"],
        "peer_endpoints": endpoints,
        "__peer_wanted": {"addresses": ["10.77.0.2/16", "fd77::2/64"]},
        "__peer_relays_usable": [relay | {"endpoint": "192.0.2.1:40000", "inner_endpoint": ""}],
        "__peer_others": [device],
    }
    settings = tomllib.loads(template("peer/templates/agent.toml.j2").render(variables))
    assert settings["agent"]["addresses"] == ["10.77.0.2", "fd77::2"]
    assert settings["agent"]["endpoints"] == endpoints
    assert settings["relay"] == [relay | {"endpoints": ["192.0.2.1:40000"]}]
    assert settings["peer"] == [device]
