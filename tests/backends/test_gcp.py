# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend gcp with the real modules of google.cloud, their requests led to a stand-in for the API."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from role import Role
from standins.gcp import Gcp, credentials
from standins.web import Web

FOREIGN = {"name": "default-allow-ssh", "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "priority": 65534}


@pytest.fixture
def cloud(web: Web) -> Gcp:
    web.application = Gcp()
    web.application.rules["default-allow-ssh"] = dict(FOREIGN)
    return web.application


@pytest.fixture
def role(tmp_path: Path, web: Web, cloud: Gcp) -> Role:
    variables = {
        "port_forward_backend": "gcp",
        "port_forward_gcp_project": "my-project",
        "port_forward_gcp_zone": "europe-west3-a",
    }
    environment = {**web.environment(), "GOOGLE_APPLICATION_CREDENTIALS": str(credentials(tmp_path))}
    return Role(tmp_path, variables, environment)


def test_the_whole_life(role: Role, cloud: Gcp) -> None:
    assert role.run("--check").changed == 1
    assert cloud.writes == []

    run = role.run()
    assert run.changed == 1
    rule = cloud.rules["peer-relay-home"]
    assert rule["allowed"] == [{"IPProtocol": "udp", "ports": ["40000"]}]
    assert (rule["sourceRanges"], rule["targetTags"]) == (["0.0.0.0/0"], ["peer-relay"])
    assert run.result["external_address"] == "203.0.113.7"

    before = copy.deepcopy(cloud.rules)
    assert role.run().changed == 0
    assert cloud.rules == before

    more = [{"name": "https", "protocol": "tcp", "port": 443, "families": ["ipv4", "ipv6"]}]
    assert role.run(port_forward_forwards=more).changed == 1  # one task for both rules
    assert cloud.rules["peer-relay-home"]["allowed"] == [{"IPProtocol": "tcp", "ports": ["443"]}]
    assert cloud.rules["peer-relay-home-ipv6"]["sourceRanges"] == ["::/0"]

    assert role.run(port_forward_state="absent").changed == 1
    assert cloud.rules == {"default-allow-ssh": FOREIGN}


def test_what_it_refuses(role: Role, cloud: Gcp) -> None:
    cloud.rules["peer-relay-home"] = {**FOREIGN, "name": "peer-relay-home"}
    assert "The firewall rule peer-relay-home exists and is not this host's" in role.error()
    cloud.tags = ["web"]
    assert "gcloud compute instances add-tags home" in role.error()
    assert cloud.writes == []
