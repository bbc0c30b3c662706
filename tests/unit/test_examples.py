# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventories that people copy: every variable is an option of a role, and site takes its value."""

import json
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.options import faults, specs
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.overlay import collect_devices
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.relays import collect_relays

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/hosts.yml"))
ROLES = {"relays": ("relay", "firewall", "port_forward"), "peers": ("peer",)}  # as site has them checked
OF_ALL = {"overlay_networks", "ansible_host", "ansible_become"}
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)


@cache
def listed(example: Path) -> tuple[dict[str, list[str]], dict[str, dict]]:
    """Return the hosts of the groups relays and peers, and the variables of each host, as Ansible reads them."""
    command = [Path(sys.executable).with_name("ansible-inventory"), "-i", example / "hosts.yml", "--list"]
    environment = {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
    environment["ANSIBLE_LOCAL_TEMP"] = str(ROOT / "build/ansible-local")
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    variables = {host: {"inventory_hostname": host, **of} for host, of in document["_meta"]["hostvars"].items()}
    return {group: document[group]["hosts"] for group in ROLES}, variables


def wrong(example: Path) -> list[str]:
    """Return what is wrong with an inventory: variables that nothing reads, and values that site refuses."""
    groups, hosts = listed(example)
    found = []
    for host, variables in hosts.items():
        roles = [role for group, of_group in ROLES.items() if host in groups[group] for role in of_group]
        known = OF_ALL | {"inventory_hostname"} | {option for role in roles for option in specs(role)}
        found += [f"{host}: no role of it has {name}" for name in sorted(set(variables) - known)]
        found += faults(variables, roles)
    return found


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@each_example
def test_every_variable_is_an_option_with_a_value_that_site_takes(example):
    assert wrong(example) == []


@each_example
def test_it_does_not_contradict_itself(example):
    groups, hosts = listed(example)
    networks = next(iter(hosts.values()))["overlay_networks"]
    relays = collect_relays(groups["relays"], hosts, networks, groups["peers"])
    taken = [address for relay in relays for address in relay.addresses]
    devices = collect_devices(groups["peers"], hosts, networks, taken)
    assert [device.name for device in devices] == sorted(groups["peers"])


@each_example
def test_it_says_what_to_change(example):
    assert "To change: " in (example / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("relay_fallbak", True, "cloud: no role of it has relay_fallbak"),
        ("peer_subnets", ["10.0.0.0/8"], "cloud: no role of it has peer_subnets"),
        ("relay_listen_port", "many", "cloud: relay_listen_port is 'many': give a whole number"),
    ],
)
def test_a_mistake_in_one_is_found(tmp_path, name, value, said):
    copy = shutil.copytree(ROOT / "examples/relay-in-a-cloud", tmp_path / "copy")
    (copy / "group_vars/relays.yml").write_text(yaml.safe_dump({name: value}), encoding="utf-8")
    assert said in wrong(copy)
