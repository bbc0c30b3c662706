# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the playbook verify says about from where the relay is reached."""

from pathlib import Path

import jinja2
from ansible_collections.homelab.peer_relay.plugins.filter.reachability_table import reachability_table

TEMPLATE = Path(__file__).resolve().parents[2] / "playbooks/templates/reachability.j2"
PUBLIC, INNER = "203.0.113.7:40000", "192.168.1.10:40000"
PROBES = {"own_endpoints": [INNER]}


def row(device, place, reachable, address=""):
    return {
        "device": device,
        "place": place,
        "endpoint": PUBLIC,
        "reachable": reachable,
        "address": address or (PUBLIC if reachable else ""),
        "round_trip_ms": 1.0 if reachable else None,
        "hairpin": reachable if place == "inside" else None,
    }


def said(*rows, inner=INNER, probes=PROBES, probe=None, paths=()):
    """The sentences below the table."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, autoescape=False)
    environment.filters["homelab.peer_relay.reachability_table"] = reachability_table
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        verify_reach=list(rows),
        verify_relay={"endpoint": PUBLIC, "inner_endpoint": inner},
        verify_probes=probes,
        verify_probe=probe or {},
        verify_rows=list(paths),
    )
    return [line for line in text.splitlines() if line][len(rows) + 1 :]


def test_proven_from_outside():
    lines = said(row("laptop", "outside", True), row("phone", "outside", False), row("nas", "inside", True))
    assert lines[0].startswith(f"In its own network, behind a router, the relay is at {INNER}:")
    assert lines[1:] == [f"Proven from outside: laptop reached {PUBLIC}."]


def test_nobody_is_outside():
    lines = said(row("nas", "inside", True))
    assert lines[1].startswith("Not proven from outside: no managed device is outside at the moment.")
    assert len(lines) == 2


def test_who_is_outside_and_cut_off_proves_nothing():
    assert len(said(row("laptop", "outside", False))) == 1


def test_no_hairpin():
    inside = row("nas", "inside", False)
    paths = [{"from": "nas", "to": "relay", "endpoint": INNER}, {"from": "laptop", "to": "anybody"}]
    assert said(inside, paths=paths)[-1].endswith("does no hairpin NAT: it uses the inner address there.")
    paths[0]["endpoint"] = PUBLIC
    assert said(inside, paths=paths)[-1].endswith("which gives it the inner address as well.")


def test_half_a_hairpin():
    line = said(row("nas", "inside", True, INNER))[-1]
    assert line == f"nas is inside and reaches {PUBLIC}, but is answered by {INNER}: WireGuard goes on with that one."


def test_no_router():
    direct = {"own_endpoints": [PUBLIC]}
    assert said(row("laptop", "", True), inner="", probes=direct) == [
        f"No router translates in front of the relay: {PUBLIC} is its own."
    ]


def test_nothing_known():
    (line,) = said(row("laptop", "", True), inner="", probes={"own_endpoints": []})
    assert line.endswith("so devices are not told apart as inside and outside.")


def test_no_probes():
    for probe, reason in (
        (
            {"stderr": "usage: peer-relay\ninvalid choice: 'probe'\n", "msg": "non-zero return code"},
            "invalid choice: 'probe'",
        ),
        ({"msg": "Failed to connect", "unreachable": True}, "Failed to connect"),
        ({}, "it was not reached"),
    ):
        (line,) = said(row("laptop", "", None), inner="", probes={}, probe=probe)
        assert line == f"The relay made no probes ({reason}), so nothing was proven about its endpoint."
