# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend azure with the real modules of azure.azcollection, their requests led to a stand-in for the API.

Of the 1.6 GB of packages that the collection asks for, only those that these modules use are real (see azure_sdk).
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from role import Role
from standins.azure import ENVIRONMENT, Azure
from standins.web import Web

SDK = Path(__file__).with_name("azure_sdk")


@pytest.fixture
def cloud(web: Web) -> Azure:
    cloud = web.application = Azure()
    cloud.rule("ssh", priority=1000, destinationPortRange="22")
    return cloud


@pytest.fixture
def role(tmp_path: Path, web: Web, cloud: Azure) -> Role:
    variables = {
        "port_forward_backend": "azure",
        "port_forward_azure_resource_group": "my-group",
        "port_forward_azure_security_group": "my-nsg",
    }
    return Role(tmp_path, variables, {**web.environment(), **ENVIRONMENT, "PYTHONPATH": str(SDK)})


def test_the_whole_life(role: Role, cloud: Azure) -> None:
    before = copy.deepcopy(cloud.rules)
    assert role.run("--check").changed == 1
    assert cloud.writes == []

    run = role.run()
    assert run.changed == 1
    rule = cloud.rules["peer-relay-home-relay"]
    assert (rule["protocol"], rule["destinationPortRange"], rule["sourceAddressPrefix"]) == (
        "Udp",
        "40000",
        "0.0.0.0/0",
    )
    assert rule["priority"] == 1001  # the first that nobody has
    assert "azure-secret" not in run.output

    assert role.run().changed == 0

    more = [{"name": "https", "protocol": "tcp", "port": 443, "families": ["ipv4", "ipv6"]}]
    assert role.run(port_forward_forwards=more).changed == 1
    assert list(cloud.rules) == ["ssh", "peer-relay-home-https"]
    assert cloud.rules["peer-relay-home-https"]["sourceAddressPrefix"] == "*"

    assert role.run(port_forward_state="absent").changed == 1
    assert cloud.rules == before


def test_what_it_refuses(role: Role, cloud: Azure) -> None:
    cloud.rule("peer-relay-home-relay", priority=300, destinationPortRange="22")
    assert "has a rule peer-relay-home-relay that is not this host's" in role.error()
    assert "has no network security group nope" in role.error(port_forward_azure_security_group="nope")
    assert cloud.writes == []
