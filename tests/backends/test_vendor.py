# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every vendor's backend refuses before it asks anybody."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from role import ROOT, Role

VENDORS = yaml.safe_load((ROOT / "roles/port_forward/vars/main.yml").read_text(encoding="utf-8"))[
    "__port_forward_vendors"
]


@pytest.fixture
def role(tmp_path: Path) -> Role:
    return Role(tmp_path, {"port_forward_backend": "aws", "port_forward_aws_instance_id": "i-0"}, {})


def test_a_missing_collection_is_named(role: Role, tmp_path: Path) -> None:
    namespace = tmp_path / "collections/ansible_collections/homelab"
    namespace.mkdir(parents=True)
    (namespace / "peer_relay").symlink_to(ROOT)
    role.environment["ANSIBLE_COLLECTIONS_PATH"] = str(tmp_path / "collections")
    assert "Install it: ansible-galaxy collection install amazon.aws" in role.error()


def test_a_missing_variable_is_named(role: Role) -> None:
    error = role.error(port_forward_aws_instance_id="")
    assert "The backend aws needs the variable port_forward_aws_instance_id, which is empty." in error


def test_a_cloud_does_not_translate(role: Role) -> None:
    forward = {"name": "relay", "port": 40000, "external_port": 443}
    assert "the forward relay has the port 443 outside and 40000 here" in role.error(port_forward_forwards=[forward])


@pytest.mark.parametrize("backend", VENDORS)
def test_the_tasks_use_the_collection_that_is_checked(backend: str) -> None:
    folder = ROOT / "roles/port_forward/tasks/backends"
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob(f"{backend}*.yml"))
    assert f" {VENDORS[backend]['collection']}." in text
    for variable in VENDORS[backend]["needs"]:
        assert variable in text


NAMES = {
    "gcp": {"rule": "a" * 70, "instance": "home_1", "target_tag": "peer-relay-", "zone": "", "project": "My project"},
    "aws": {"security_group": "sg-home", "instance_id": "home"},
    "azure": {"resource_group": "home.", "security_group": "x" * 81, "priority": 99},
    "opnsense": {"wan": "igc0.7", "lan": "", "url": "192.168.1.1"},
    "routeros": {"lan": "/", "wan_list": "", "host": "a b"},
}


@pytest.mark.parametrize("backend", NAMES)
def test_names_that_the_vendor_does_not_take(role: Role, backend: str) -> None:
    wrong = {f"port_forward_{backend}_{name}": value for name, value in NAMES[backend].items()}
    needed = VENDORS[backend]["needs"] | {"port_forward_backend": backend}
    error = role.error(**needed | {name: value for name, value in wrong.items() if value or name not in needed})
    for name, value in wrong.items():
        if value or name not in needed:  # that it is needed is told before
            assert f'cannot take {name} \\"{value}\\"' in error or f'cannot take {name} "{value}"' in error


def test_every_name_is_tried_here() -> None:
    known = {backend: set(VENDORS[backend].get("names", ())) for backend in VENDORS}
    tried = {backend: {f"port_forward_{backend}_{name}" for name in names} for backend, names in NAMES.items()}
    others = {"inventory_hostname", "__port_forward_azure_too_long"}
    assert {backend: names - others for backend, names in known.items() if backend != "hcloud"} == tried


def test_a_rule_of_google_for_ipv6_has_a_longer_name(role: Role) -> None:
    needed = VENDORS["gcp"]["needs"] | {"port_forward_backend": "gcp", "port_forward_gcp_rule": "a" * 60}
    forward = {"name": "relay", "port": 40000, "families": ["ipv6"]}
    assert "up to 58, as -ipv6 is added" in role.error(**needed, port_forward_forwards=[forward])
