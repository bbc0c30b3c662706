# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where devices are, whether they reach the relay there, and what to do when not."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.reachability_rows import reachability_rows
from ansible_collections.homelab.peer_relay.plugins.filter.reachability_table import reachability_table

PUBLIC = "203.0.113.7:40000"
RELAY = {"endpoint": PUBLIC, "inner_endpoint": "192.168.1.10:40000", "probes": []}
DIRECT = {"endpoint": PUBLIC, "inner_endpoint": ""}
SKIPPED = {"skipped": True, "changed": False}


def yes(address=PUBLIC):
    return {"reachable": True, "address": address, "round_trip_ms": 12.34, "attempts": 1, "indexes": [1], "reason": ""}


def no(*indexes, reason="no answer to 3 probes"):
    return {"reachable": False, "address": "", "round_trip_ms": None, "indexes": list(indexes), "reason": reason}


def rows(relay=RELAY, **results):
    hosts = {name: {"public": public, "inner": inner} for name, (public, inner) in results.items()}
    return reachability_rows(list(hosts), hosts, "public", "inner", relay)


def the_only(*results, relay=RELAY):
    (row,) = rows(relay, laptop=results)
    return row


def test_outside():
    row = the_only(yes(), no(4, 5, 6))
    assert (row["place"], row["reachable"], row["hairpin"], row["ok"]) == ("outside", True, None, True)
    assert (row["reason"], row["cure"]) == ("", "")


@pytest.mark.parametrize(("public", "hairpin"), [(yes(), True), (no(1, 2, 3), False)])
def test_inside_a_missing_hairpin_is_no_fault(public, hairpin):
    row = the_only(public, yes("192.168.1.10:40000"))
    assert (row["place"], row["hairpin"], row["ok"]) == ("inside", hairpin, True)


def test_the_way_to_the_inner_address_is_the_tunnel():
    assert the_only(yes(), no(reason="the way to it is the tunnel pr0"))["place"] == "outside"


@pytest.mark.parametrize("public", [yes(), no(1)])
def test_no_router(public):
    row = the_only(public, SKIPPED, relay=DIRECT)
    assert (row["place"], row["hairpin"], row["ok"]) == ("", None, public["reachable"])


@pytest.mark.parametrize(
    ("relay", "public", "said"),
    [
        (RELAY, no(1, 2, 3), "no answer to 3 probes: does the router forward UDP port 40000 to 192.168.1.10:40000?"),
        (DIRECT, no(1, 2, 3), "no answer to 3 probes: is UDP port 40000 open on the relay"),
        (RELAY, no(reason="home: Name or service not known"), "home: Name or service not known: does 203.0.113.7 have"),
        (RELAY | {"probes": [{"index": 2}]}, no(1, 2, 3), "the relay has answered, but the answer does not come back"),
    ],
)
def test_what_to_do(relay, public, said):
    row = the_only(public, no(4) if relay is not DIRECT else SKIPPED, relay=relay)
    assert not row["ok"]
    assert f"{row['reason']}: {row['cure']}".startswith(said)


def test_when_others_reach_it_the_devices_network_is_to_blame():
    result = rows(laptop=(no(1), no(2)), phone=(yes(), no(4)), home=(no(5), yes()))
    assert [row["ok"] for row in result] == [False, True, True]
    assert result[0]["cure"].startswith("others reach it: does the network where this device is now let UDP")


def test_an_answer_from_inside_clears_nobody():
    result = rows(laptop=(no(1), no(2)), home=(yes(), yes()))
    assert "does the router forward" in result[0]["cure"]


def test_devices_that_could_not_be_asked():
    result = rows(laptop=({"unreachable": True}, {}), home=({"msg": "no ip here"}, SKIPPED), phone=(SKIPPED, SKIPPED))
    assert [row["ok"] for row in result] == [True] * 3
    assert [row["reachable"] for row in result] == [None] * 3
    assert [row["reason"] for row in result] == ["Ansible did not reach it", "no ip here", "not asked"]


def test_who_is_left_out():
    hosts = {
        "tablet": {"peer_managed": False},
        "old": {"peer_state": "absent", "public": yes(), "inner": no()},
        "new": {},
    }
    assert [row["device"] for row in reachability_rows(list(hosts), hosts, "public", "inner", RELAY)] == ["new"]


def test_table():
    result = rows(laptop=(yes(), no(2)), home=(no(3), yes()), phone=({}, {}))
    assert reachability_table(result) == [
        "DEVICE  PLACE    PUBLIC ENDPOINT    ANSWERED  ROUND-TRIP  HAIRPIN",
        "laptop  outside  203.0.113.7:40000  yes       12.3ms      -",
        "home    inside   203.0.113.7:40000  no        -           no",
        "phone   -        203.0.113.7:40000  -         -           -",
    ]
