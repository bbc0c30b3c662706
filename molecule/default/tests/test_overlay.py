"""The overlay as its devices see it."""

import json

import pytest
from lab import capture, device, machine, overlay, ping, play, run, source_address, status, wait_for

DEVICES = ["laptop", "home"]
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def other(name):
    return next(device for device in DEVICES if device != name)


def test_the_relay_runs():
    relay = machine("relay")
    assert relay.service("peer-relay").is_running
    assert relay.service("peer-relay").is_enabled


@pytest.mark.parametrize("name", DEVICES)
def test_the_interface_is_up_and_comes_back_at_boot(name):
    service = machine(name).service("wg-quick@pr0")
    assert service.is_running
    assert service.is_enabled


@pytest.mark.parametrize("name", DEVICES)
def test_the_relay_knows_where_the_device_is(name):
    wait_for(f"{name} is bound", lambda: device(name)["state"] == "bound")
    outside = {"laptop": "198.51.100.21", "home": "198.51.100.22"}[name]
    assert device(name)["endpoint"].rpartition(":")[0] == outside, "the address of its router"


@VERSIONS
@pytest.mark.parametrize("name", DEVICES)
def test_pair_pings(name, version):
    ping(name, overlay(other(name), version))


@VERSIONS
@pytest.mark.parametrize("name", DEVICES)
def test_the_relay_answers_ping_in_the_tunnel(name, version):
    address = next(a for a in status()["addresses"] if (":" in a) == (version == 6))
    ping(name, address)


def test_the_relay_reports_health():
    report = status()
    # However long ago it was: once the two have a direct path, the relay hears no more of them.
    assert any(pair["responses"] for pair in report["pairs"]), "they have met through the relay"
    assert report["healthy"], report["problems"]
    # It may have something to say about the machine: a container cannot enlarge the host's socket buffers.
    advice = machine("relay").run("peer-relay doctor").stdout.splitlines()
    assert not [line for line in advice if line.startswith(("laptop", "home"))]


def test_a_network_behind_a_device_is_reached():
    route = run("laptop", "ip route get 10.43.0.10")
    assert "dev pr0" in route
    ping("laptop", "10.43.0.10")


@pytest.mark.parametrize(
    ("relay", "seen"), [("198.51.100.10", "198.51.100.22"), ("2001:db8:ff::10", "2001:db8:ff::22")]
)
def test_the_exit_node_lends_its_address(relay, seen):
    """The relay's machine serves as a host on the Internet, and sees site B."""
    with capture("relay", "wan", "icmp[icmptype] == icmp-echo or (icmp6 and ip6[40] == 128)") as packets:
        ping("laptop", relay)
    assert {source_address(packet) for packet in packets} == {seen}


def test_the_playbook_verify_proves_every_pair_and_changes_nothing(tmp_path):
    stats = play("homelab.peer_relay.verify", "--extra-vars", f"verify_report={tmp_path}/report.json")
    assert all(result["failures"] == result["unreachable"] == 0 for result in stats.values()), stats
    assert [host for host, result in stats.items() if result["changed"]] == ["localhost"], "it writes the report"
    rows = json.loads((tmp_path / "report.json").read_text())["reachability"]
    # No router is in front of this relay: there is no inside. The laptop's probe does not leave by its exit node.
    assert {row["device"]: (row["place"], row["reachable"]) for row in rows} == dict.fromkeys(DEVICES, ("", True))
    sources = [probe["source"].rpartition(":")[0] for probe in status()["probes"]]
    assert sorted(sources) == ["198.51.100.21", "198.51.100.22"]


def test_the_relay_knows_that_its_public_address_is_its_own():
    made = json.loads(run("relay", "peer-relay probe --json"))
    assert made["own_endpoints"] == [made["endpoint"]] == ["198.51.100.10:40000"]
    assert made["inner_endpoint"] is None
