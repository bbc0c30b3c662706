# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's settings template writes TOML, whatever the strings are."""

import json
import sys
from pathlib import Path

import jinja2
from hypothesis import given
from hypothesis import strategies as st

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROLE = Path(__file__).resolve().parents[2] / "roles/relay"
KEY = "eKzEGGDMERSFDuJFtwMcfDRPkNFDYpCPaRX+XPDdHTM="
# TOML knows neither surrogates nor a raw DEL; the service says so when it is given the latter.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"))


def render(**variables) -> dict:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["to_json"] = lambda value, **options: json.dumps(value, **options)
    environment.filters["comment"] = lambda text: f"# {text}"
    template = environment.from_string((ROLE / "templates/relay.toml.j2").read_text(encoding="utf-8"))
    fixed = {
        "ansible_managed": "Ansible managed",
        "relay_name": "relay",
        "relay_listen_port": 40000,
        "relay_listen_addresses": ["0.0.0.0"],
        "relay_networks": ["10.77.0.0/16"],
        "relay_addresses": ["10.77.0.1"],
        "relay_metrics_listen": "",
        "relay_devices": [],
        "__relay_public_endpoint": "192.0.2.1:40000",
        "__relay_key": "/k",
        "__relay_state_directory": "/s",
        "__relay_status_socket": "/r",
    }
    return tomllib.loads(template.render(fixed | variables))


@given(TEXT, st.lists(TEXT))
def test_any_string_survives(name, groups):
    device = {"name": name, "public_key": KEY, "addresses": ["10.77.0.2"], "groups": groups}
    settings = render(relay_name=name, relay_devices=[device])
    assert settings["relay"]["name"] == name
    assert settings["device"] == [device | {"rate_limit_mbit": 0}]


def test_devices_stand_in_the_order_of_their_names():
    devices = [{"name": name, "public_key": KEY, "addresses": []} for name in ("nas", "laptop")]
    assert [device["name"] for device in render(relay_devices=devices)["device"]] == ["laptop", "nas"]
