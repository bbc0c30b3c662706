"""Two relays: every device is at both, and keeps both when one fails; one that goes leaves the other in charge."""

import json

import pytest
from lab import attempt, is_bound, machine, overlay, ping, play, reaches, run, wait_for

RELAYS = {"oslo": ("198.51.100.10:40000", "10.77.0.1"), "rome": ("198.51.100.11:40000", "10.77.0.2")}
DEVICES = {"laptop": "nas", "nas": "laptop"}
SITE = "homelab.peer_relay.site"


def peers(device: str) -> dict[str, str]:
    """The running endpoints by the name that the device's file gives to each public key."""
    text = run(device, "cat /etc/wireguard/pr0.conf")
    names = {}
    for section in text.split("[Peer]\n# ")[1:]:
        name, public_key = section.splitlines()[:2]
        names[public_key.removeprefix("PublicKey = ")] = name
    endpoints = run(device, "wg show pr0 endpoints").splitlines()
    return {names[key]: endpoint for key, endpoint in (line.split() for line in endpoints)}


def inventory(tmp_path, relay: str, **variables) -> list[str]:
    """Arguments that give a host other variables."""
    file = tmp_path / "more.yml"
    file.write_text(json.dumps({"all": {"hosts": {relay: variables}}}))
    return ["--inventory", str(file)]


def unchanged(stats, hosts) -> bool:
    return all(stats[host]["changed"] == stats[host]["failures"] == stats[host]["unreachable"] == 0 for host in hosts)


@pytest.mark.parametrize("relay", RELAYS)
def test_every_relay_knows_every_device(relay):
    for name in DEVICES:
        wait_for(f"{name} is bound at {relay}", lambda name=name: is_bound(name, relay))
    assert {overlay(name, 4, relay) for name in DEVICES} == {overlay(name, 4, "oslo") for name in DEVICES}


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_reaches_the_relays_and_by_the_first_of_them_the_other_one(device):
    for _endpoint, address in RELAYS.values():
        ping(device, address)
    ping(device, overlay(DEVICES[device], 6, "rome"))
    expected = {name: endpoint for name, (endpoint, _address) in RELAYS.items()}
    assert peers(device) == expected | {DEVICES[device]: RELAYS["oslo"][0]}


def test_verify_proves_each_relay(tmp_path):
    play("homelab.peer_relay.verify", "--extra-vars", f"verify_report={tmp_path}/report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert {(row["from"], row["to"]) for row in report["paths"]} == {
        (device, other) for device, peer in DEVICES.items() for other in (*RELAYS, peer)
    }
    assert {(row["relay"], row["device"]): row["reachable"] for row in report["reachability"]} == {
        (relay, device): True for relay in RELAYS for device in DEVICES
    }


def test_a_relay_that_is_not_reached_stops_nothing_and_loses_nothing(tmp_path):
    before = {device: peers(device) for device in DEVICES}
    result = attempt(SITE, *inventory(tmp_path, "oslo", ansible_host="nowhere"))
    assert result.returncode == 4, result.stdout + result.stderr
    stats = json.JSONDecoder().raw_decode(result.stdout, result.stdout.index("{"))[0]["stats"]
    assert stats["oslo"]["unreachable"] == 1
    assert unchanged(stats, ["rome", *DEVICES]), stats
    assert {device: peers(device) for device in DEVICES} == before


def test_a_relay_that_goes_leaves_the_other_in_charge(tmp_path):
    gone = inventory(tmp_path, "oslo", relay_state="absent")
    play(SITE, *gone)
    assert not machine("oslo").file("/etc/peer-relay").exists
    assert not machine("oslo").file("/usr/local/bin/peer-relay").exists
    for device, other in DEVICES.items():
        wait_for("the other relay", lambda device=device, other=other: peers(device)[other] == RELAYS["rome"][0])
        assert set(peers(device)) == {"rome", other}
        ping(device, RELAYS["rome"][1])
        # Stock WireGuard makes its handshake with the other device anew after some 15 s without an answer.
        address = overlay(other, 4, "rome")
        wait_for(f"{device} reaches {other}", lambda device=device, address=address: reaches(device, address), 30)
