"""The relay at home is reached from elsewhere, by each protocol, and whatever the router does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from home import OUTSIDE, RELAY, drop_announcements, knocking, mappings, restart_without_mappings, wait_mapped
from lab import attempt, figure, is_bound, last_words, overlay, ping, play, run, status, wait_for

MAP = str(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "map.yml")
LEASE = 4  # seconds


def map_port(**variables: object) -> int:
    """Run the role; how much it changed."""
    words = json.dumps({f"port_forward_{name}": value for name, value in variables.items()})
    return play(MAP, "--extra-vars", words)["relay"]["changed"]


def test_the_laptop_elsewhere_reaches_home() -> None:
    assert f"\t{OUTSIDE}:40000\n" in run("laptop", "wg show pr0 endpoints"), "the relay"
    for name in ("laptop", "nas"):
        wait_for(f"{name} is bound", lambda name=name: is_bound(name))
    ping("laptop", overlay("nas", 4))
    ping("nas", overlay("laptop", 6))
    assert mappings() == {40000: RELAY}


def test_the_relay_reports_its_way_in() -> None:
    edge = status()["edge"]
    assert (edge["external_address"], edge["nat"]) == (OUTSIDE, "public")
    assert edge["router"] == {"address": "192.168.1.1", "method": "pcp"}
    assert [mapping["state"] for mapping in edge["mappings"]] == ["mapped"]
    assert status()["healthy"], status()["problems"]


def test_the_playbook_verify_proves_reachability_from_outside(tmp_path: Path) -> None:
    play("homelab.peer_relay.verify", "--extra-vars", f"verify_report={tmp_path}/report.json")
    rows = {row["device"]: row for row in json.loads((tmp_path / "report.json").read_text())["reachability"]}
    laptop, nas = rows["laptop"], rows["nas"]
    assert (laptop["place"], laptop["reachable"], laptop["address"]) == ("outside", True, f"{OUTSIDE}:40000")
    assert (nas["place"], nas["hairpin"]) == ("inside", False), "it has the relay's inner address"


@pytest.mark.parametrize("method", ["pcp", "nat-pmp", "upnp"])
def test_nothing_interrupts_the_way_but_a_restart_and_that_not_for_long(method: str) -> None:
    """A lease that ends several times meanwhile, then a restart of the router's daemon that loses the mapping."""
    assert map_port(auto_method=method, auto_lease=LEASE)
    assert status()["edge"]["router"]["method"] == method
    drop_announcements()
    with knocking() as knocks:
        ping("laptop", overlay("nas", 4), count=10 * LEASE)  # five a second
        lost = restart_without_mappings()
        wait_mapped()
        ping("laptop", overlay("nas", 4))
    seconds, missing = knocks.first_after(lost), knocks.lost_before(lost - 1)
    figure(
        f"{method}, lease of {LEASE} s",
        f"{missing} of {sum(at < lost - 1 for at in knocks.arrived.values())} new flows lost",
    )
    figure(f"{method}, daemon restarted and mappings lost", f"reachable again after {seconds:.1f} s")
    # The router replaces its rule at a renewal, and a new flow of that very moment has none.
    assert missing <= 2
    assert seconds < 10


def test_absent_leaves_no_mapping() -> None:
    assert mappings() == {40000: RELAY}
    assert map_port(state="absent") > 0
    assert mappings() == {}
    assert map_port(state="absent") == 0


def test_a_refusal_is_translated() -> None:
    forward = {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 40099, "families": ["ipv4"]}
    variables = {"port_forward_auto_method": "upnp", "port_forward_forwards": [forward]}
    result = attempt(MAP, "--extra-vars", json.dumps(variables))
    assert result.returncode != 0
    assert "rules" in last_words(result.stdout), "of the router, which deny this port"
    assert mappings() == {}
