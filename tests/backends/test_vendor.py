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
