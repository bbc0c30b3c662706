# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The keeper of the router's ports, and what it tells the relay."""

from __future__ import annotations

import json

import port_keeper.settings
import port_keeper.state
from peer_common.toml_table import SettingsError
from peer_relay.slices import finish
from peer_relay.status import doctor as status_doctor
from peer_relay.status import document as status_document
from peer_relay.status import metrics
from peer_relay.status import router as router_status
from peer_relay.status import text as status_text

from targets.disk import file
from targets.network import WORLD
from targets.target import JSON_WORDS, TOML_WORDS, Target


def keeper_settings(data: bytes) -> None:
    port_keeper.settings.load(file("ports.toml", data))


KEEPER_SETTINGS = b"""[router]
method = "auto"
gateway = "fe80::1%eth0"
stun_server = "stun.example.org:3478"
lease = 3600
poll_seconds = 3
[keeper]
status_file = "/run/peer-relay-ports/status.json"
state_file = "/var/lib/peer-relay-ports/state.json"
[[mapping]]
name = "relay"
protocol = "udp"
internal_port = 40000
external_port = 41000
[[mapping]]
name = "relay"
internal_port = 40000
family = 6
"""


def keeper_state(data: bytes) -> None:
    """A mapping that it remembers is one that can be deleted."""
    for wanted in port_keeper.state.read(file("state.json", data)).mappings:
        assert wanted.family in (4, 6)
        assert 0 < wanted.external_port < 65536


KEEPER_STATE = {
    "mappings": [[4, "udp", 40000, 41000], [6, "tcp", 80, 80]],
    "addresses": {"4": ["203.0.113.1", 1800000000.5, 2]},
}


def keeper_status(data: bytes) -> None:
    """What the keeper tells the relay: whatever is in the file, doctor, metrics and text can say it."""
    document = router_status.parse(data) | {"age_seconds": 1.0, "address_age_seconds": 2.0}
    told = (
        STATUS_HEAD | finish(status_document.traffic(WORLD.switchboard, WORLD.now, lambda *_: "")) | {"edge": document}
    )
    json.dumps(told, allow_nan=False)
    for finding in status_doctor.findings(told):
        assert finding.subject
    status_text.status(told)
    metrics.exposition(told)


STATUS_HEAD = {
    "expiring": [{"name": "visitor", "expires": "2026-12-31T18:00:00+00:00", "left_seconds": 9.5}],
    "version": "1.0.0",
    "name": "relay",
    "data_plane": "userspace",
    "data_plane_wanted": "userspace",
    "data_plane_reason": None,
    "kernel": None,
    "healthy": True,
    "problems": [],
    "uptime_seconds": 5.0,
    "listen": ["0.0.0.0:40000"],
    "endpoint": "203.0.113.9:40000",
}
ROUTER_STATUS = {
    "updated": 1800000000.5,
    "router": {"address": "192.0.2.1", "method": "pcp"},
    "external_address": "203.0.113.1",
    "seen_address": "",
    "address_since": 1800000000.5,
    "address_changes": 1,
    "nat": "cgnat",
    "explanation": "It is not public. Move.",
    "mappings": [
        {
            "name": "relay",
            "protocol": "udp",
            "family": 4,
            "internal_port": 40000,
            "external_port": 41000,
            "external_address": "203.0.113.1",
            "state": "refused",
            "lease_seconds": 3600,
            "expires": 1800000600.5,
            "renewals": 1,
            "restores": 0,
            "problem": "the router says no: ask it",
        }
    ],
    "problems": ["something: do something"],
}

TARGETS = {
    "keeper_settings": Target(
        keeper_settings,
        (SettingsError,),
        [KEEPER_SETTINGS],
        TOML_WORDS,
    ),
    "keeper_state": Target(keeper_state, (), [json.dumps(KEEPER_STATE).encode()], JSON_WORDS),
    "keeper_status": Target(
        keeper_status, (router_status.EdgeError,), [json.dumps(ROUTER_STATUS).encode()], JSON_WORDS
    ),
}
