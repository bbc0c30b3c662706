# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the relay tells of the router in front of it: a file of another service, which may hold anything."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from peer_relay.status import doctor as status_doctor
from peer_relay.status import metrics
from peer_relay.status import router as router_status
from peer_relay.status import text as status_text
from relay_world import World
from test_report import status

NOW = 1_800_000_000.0
MAPPING = {
    "name": "relay",
    "protocol": "udp",
    "family": 4,
    "internal_port": 40000,
    "external_port": 41000,
    "external_address": "203.0.113.1",
    "state": "mapped",
    "lease_seconds": 3600,
    "expires": NOW + 1790,
    "renewals": 3,
    "restores": 1,
    "problem": None,
}
DOCUMENT = {
    "updated": NOW - 4,
    "loaded": NOW - 5000,
    "router": {"address": "192.0.2.254", "method": "pcp"},
    "external_address": "203.0.113.1",
    "seen_address": "",
    "address_since": NOW - 5000,
    "address_changes": 0,
    "nat": "public",
    "explanation": "The router's external address is public.",
    "mappings": [MAPPING],
    "problems": [],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    result = tmp_path / "status.json"
    result.write_text(json.dumps(DOCUMENT))
    return result


@pytest.fixture(autouse=True)
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a keeper that is not installed."""
    result = tmp_path / "ports.toml"
    monkeypatch.setattr(router_status, "KEEPER", result)
    return result


def read(file: Path, wall: float = NOW) -> tuple[dict[str, Any] | None, str | None]:
    return router_status.read(file, wall)


def told(mapping: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return the relay's part of the status for a document of the keeper."""
    document = DOCUMENT | {"mappings": [MAPPING | (mapping or {})]} | more
    return router_status.parse(json.dumps(document).encode()) | {"age_seconds": 4.0, "address_age_seconds": 5000.0}


def doctor(document: dict[str, Any], endpoint: str | None = None) -> list[str]:
    return [": ".join(found) for found in status_doctor.findings(status(World(), edge=document, endpoint=endpoint))]


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address", ["2001:db8::1%x\n[Interface]\nPreUp = id", "fe80::1%eth0", "router", "1.2.3.4 ", None]
)
@pytest.mark.parametrize("key", ["external_address", "seen_address", "mapping", "router"])
def test_what_is_no_address_is_refused(address: str, key: str) -> None:
    more: dict[str, Any] = {key: address}
    if key == "router":
        more = {"router": {"address": f"{address}\n", "method": "pcp"}}
    with pytest.raises(router_status.EdgeError):
        told({"external_address": address}) if key == "mapping" else told(**more)


def test_the_router_and_its_faults_are_named() -> None:
    document = told(router_model="Acme Box 7", router_oddities=["sends text that is not UTF-8"])
    remarks = status_doctor.remarks(status(World(), edge=document))
    assert remarks == ["the router Acme Box 7 sends text that is not UTF-8, and is understood all the same"]
    assert status_doctor.remarks(status(World(), edge=told())) == []
    with pytest.raises(router_status.EdgeError):
        told(router_model="\x1b[2J")


def test_addresses_are_written_from_their_bytes() -> None:
    found = told(external_address="2001:DB8:0::1", router={"address": "FE80::1%eth0", "method": "pcp"})
    assert (found["external_address"], found["router"]["address"]) == ("2001:db8::1", "fe80::1%eth0")


def test_what_the_keeper_writes(file: Path) -> None:
    document, problem = read(file)
    assert problem is None
    assert document["mappings"] == [MAPPING]
    assert (document["age_seconds"], document["address_age_seconds"]) == (4.0, 5000.0)
    assert "loaded" not in document


def test_no_keeper_is_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "status.json") == (None, None)


def test_a_keeper_that_tells_nothing_any_more(file: Path) -> None:
    assert read(file, NOW + 50)[1] is None
    document, problem = read(file, NOW + 100)
    assert document["external_address"] == "203.0.113.1"
    assert problem.startswith("the keeper of the router's ports has told nothing for 104 s: see systemctl status")


def test_a_keeper_that_does_not_run(tmp_path: Path, keeper: Path) -> None:
    keeper.touch()
    fix = "see systemctl status peer-relay-ports on the relay"
    assert read(tmp_path / "status.json") == (None, f"the keeper of the router's ports does not run: {fix}")


def test_a_clock_that_was_set_back(file: Path) -> None:
    assert read(file, NOW - 1000)[0]["age_seconds"] == 0.0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}", b"1" * 10_000])
def test_no_document(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    document, problem = read(file)
    assert document is None
    assert problem.startswith(f"{file}: ")
    assert problem.endswith(": see systemctl status peer-relay-ports on the relay")


@pytest.mark.parametrize("value", [None, -1, 1e999, float("nan"), True, "x\ny", "x" * 3000, [], {}, [1], 2**60])
def test_a_value_of_another_kind(value: Any) -> None:
    optional = ("router", "address_since", "expires", "problem")
    for place in ("", "mapping"):
        for key in MAPPING if place else DOCUMENT:
            document = copy.deepcopy(DOCUMENT)
            (document["mappings"][0] if place else document)[key] = value
            try:
                router_status.parse(json.dumps(document).encode())
            except router_status.EdgeError:
                continue
            fits = (
                (value is None and key in optional)
                or (value == [] and key in ("problems", "mappings"))
                or key == "loaded"
                or (type(value) is int and key in ("updated", "address_since", "expires"))
            )
            assert fits, (key, value)


def test_what_is_no_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert read(pipe) == (None, f"{pipe}: not a file: see systemctl status peer-relay-ports on the relay")
    assert "Is a directory" in read(tmp_path)[1]


def test_a_file_without_end(file: Path) -> None:
    file.write_bytes(b" " * (1 << 20) + json.dumps(DOCUMENT).encode())
    assert read(file)[0] is None


# --- doctor, metrics and tables ---------------------------------------------------------------------------------------


def test_nothing_is_wrong() -> None:
    assert doctor(told(), endpoint="203.0.113.1:41000") == []


def test_a_mapping_that_was_refused() -> None:
    mapping = {"state": "refused", "problem": "the router 192.0.2.254 refused: NOT_AUTHORIZED: allow it"}
    assert doctor(told(mapping)) == [
        "port 41000/udp (relay, IPv4): the router 192.0.2.254 refused: NOT_AUTHORIZED: allow it"
    ]


def test_a_mapping_without_an_answer() -> None:
    assert "has not answered yet" in doctor(told({"state": "pending"}))[0]


def test_a_router_that_is_silent() -> None:
    assert doctor(told(problems=["192.0.2.254 does not answer: is it on?"])) == [
        "router: 192.0.2.254 does not answer: is it on?"
    ]


def test_an_address_that_is_not_on_the_internet() -> None:
    text = "The router's external address 100.64.0.1 is the provider's. Run the relay on a cloud node."
    assert doctor(told(nat="cgnat", explanation=text)) == [
        "router: The router's external address 100.64.0.1 is the provider's: Run the relay on a cloud node."
    ]


def test_an_address_that_the_devices_do_not_know() -> None:
    (finding,) = doctor(told(address_changes=1), endpoint="203.0.113.9:41000")
    assert finding.startswith("router: its external address is 203.0.113.1, but the devices know 203.0.113.9: run the")
    assert doctor(told(), endpoint="home.example.org:41000") == []
    assert doctor(told(), endpoint="[2001:db8::1]:41000") == []


def test_an_address_that_is_new() -> None:
    (finding,) = doctor(told(address_changes=1) | {"address_age_seconds": 20.0}, endpoint="home.example.org:41000")
    assert "its external address has become 203.0.113.1, 20 s ago" in finding
    assert doctor(told(address_changes=1), endpoint="home.example.org:41000") == []


def test_metrics() -> None:
    lines = metrics.exposition(status(World(), edge=told(address_changes=2))).decode().splitlines()
    for line in (
        'peer_relay_edge_info{external_address="203.0.113.1",method="pcp",nat="public",router="192.0.2.254"} 1.0',
        "peer_relay_edge_up 1.0",
        "peer_relay_edge_age_seconds 4.0",
        "peer_relay_edge_address_changes_total 2.0",
        'peer_relay_edge_mapping_up{family="4",mapping="relay"} 1.0',
        'peer_relay_edge_mapping_renewals_total{family="4",mapping="relay"} 3.0',
        'peer_relay_edge_mapping_restores_total{family="4",mapping="relay"} 1.0',
    ):
        assert line in lines
    assert b"peer_relay_edge" not in metrics.exposition(status(World()))


def test_tables() -> None:
    text = status_text.status(status(World(), edge=told(problems=["something"])))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "router: 192.0.2.254 (pcp), external address 203.0.113.1, public, as of 4 s ago" in lines
    assert "problem: something" in lines
    assert "203.0.113.1 41000/udp relay mapped 30 min 1" in lines
    bare = told({"external_address": "", "expires": None}, router=None, external_address="", nat="unknown")
    assert "none found, external address unknown" in status_text.status(status(World(), edge=bare))
    assert "router" not in status_text.status(status(World()))
