"""Two relays: every device is at both, and keeps both when one fails; one that goes leaves the other in charge."""

import base64
import contextlib
import json
import time

import pytest
from lab import agent_status, attempt, figure, is_bound, machine, overlay, ping, play, reaches, run, wait_for

RELAYS = {"oslo": ("198.51.100.10:40000", "10.77.0.1"), "rome": ("198.51.100.11:40000", "10.77.0.2")}
ENDPOINTS = {name: endpoint for name, (endpoint, _address) in RELAYS.items()}
DEVICES = {"laptop": "nas", "nas": "laptop"}
SITE = "homelab.peer_relay.site"


def written(device: str) -> dict[str, dict[str, str]]:
    """The peers in the device's file."""
    sections = run(device, "cat /etc/wireguard/pr0.conf").split("[Peer]\n# ")[1:]
    return {
        lines[0]: dict(line.split(" = ") for line in lines[1:] if " = " in line)
        for lines in map(str.splitlines, sections)
    }


def peers(device: str) -> dict[str, str]:
    """The running endpoints by the name that the device's file gives to each public key."""
    names = {peer["PublicKey"]: name for name, peer in written(device).items()}
    endpoints = run(device, "wg show pr0 endpoints").splitlines()
    return {names[key]: endpoint for key, endpoint in (line.split() for line in endpoints)}


def is_at_both(device: str) -> bool:
    """By which relay it reaches the other device is the laptop's agent's choice, and nas follows."""
    found = peers(device)
    return found.pop(DEVICES[device]) in ENDPOINTS.values() and found == ENDPOINTS


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
    found = {name: peer["Endpoint"] for name, peer in written(device).items()}
    assert found == ENDPOINTS | {DEVICES[device]: ENDPOINTS["oslo"]}
    assert is_at_both(device)


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
    result = attempt(SITE, *inventory(tmp_path, "oslo", ansible_host="nowhere"))
    assert result.returncode == 4, result.stdout + result.stderr
    stats = json.JSONDecoder().raw_decode(result.stdout, result.stdout.index("{"))[0]["stats"]
    assert stats["oslo"]["unreachable"] == 1
    assert unchanged(stats, ["rome", *DEVICES]), stats
    assert all(is_at_both(device) for device in DEVICES)


def test_no_relays_word_decides_a_devices_key():
    """Somebody who has taken the relays over names a key of his own for nas, which the run leaves out."""
    before, settings = written("laptop"), run("laptop", "cat /etc/peer-agent/pr0.toml")
    real = before["nas"]["PublicKey"]
    forged = base64.b64encode(bytes(31) + b"!").decode()
    for relay in RELAYS:
        run(relay, f"sed -i 's|{real}|{forged}|' /etc/peer-relay/relay.toml")
        assert forged in run(relay, "peer-relay check --json")
    result = attempt(SITE, "--limit", "oslo,rome,laptop")
    assert result.returncode == 0, result.stdout + result.stderr
    assert written("laptop") == before
    assert run("laptop", "cat /etc/peer-agent/pr0.toml") == settings
    assert forged not in run("laptop", "wg show pr0 peers")
    said = result.stdout[result.stdout.index("The key of nas, which was not reached, is not certain") :]
    assert f"{real} is what laptop has" in said
    assert f"{forged} is what the relay oslo, the relay rome have" in said
    # With the device itself in the run, the relays are told the truth.
    play(SITE)
    assert written("laptop") == before
    for relay in RELAYS:
        assert real in run(relay, "peer-relay check --json")
        wait_for(f"nas is bound at {relay}", lambda relay=relay: is_bound("nas", relay), 30)
    assert all(is_at_both(device) for device in DEVICES)


def is_well() -> bool:
    """Whether the laptop's agent has no problems, and uses UDP."""
    said = agent_status("laptop")
    return not said["problems"] and said["peers"][0]["path"] == "relay"


@contextlib.contextmanager
def without_udp():
    """Let no UDP arrive at the laptop, until the block ends."""
    rule = "iifname wan meta l4proto udp drop"
    run("laptop", f"nft 'table inet lab {{ chain input {{ type filter hook input priority -10; {rule}; }}; }}'")
    try:
        yield
    finally:
        run("laptop", "nft delete table inet lab")


def certificate(name: str) -> None:
    """Give oslo another certificate, as a renewal does."""
    run("oslo", f"cp /etc/{name}.pem /etc/relay.pem && cp /etc/{name}.key /etc/relay.key")
    run("oslo", "systemctl reload peer-relay-fallback")


def goes_over_the_fallback_of(relay: str) -> None:
    def there() -> bool:
        nas = agent_status("laptop")["peers"][0]
        return (nas["path"], nas["via"]) == ("fallback", relay)

    started = time.monotonic()
    wait_for(f"the fallback of {relay}", there)
    wait_for("traffic", lambda: reaches("laptop", overlay("nas", 4, relay)))
    figure(f"to traffic over the fallback of {relay}", f"{time.monotonic() - started:.1f} s")
    wait_for("the relay's end says so", lambda: "198.51.100.20: a device has come" in journal(relay))


def journal(relay: str) -> str:
    return run(relay, "journalctl --unit peer-relay-fallback --output cat")


def test_a_device_without_udp_takes_the_fallback_whose_certificate_is_right():
    """Rome's, behind nginx, while oslo has the certificate of another authority; then oslo's with its own."""
    certificate("other")
    with without_udp():
        goes_over_the_fallback_of("rome")
        said = " ".join(agent_status("laptop")["problems"])
        assert "oslo: fallback: the certificate of wss://oslo.example/ is refused" in said
        assert "relay_fallback_fingerprint" in said, "the cure"
        certificate("own")
        run("rome", "systemctl stop nginx")
        goes_over_the_fallback_of("oslo")
        run("rome", "systemctl start nginx")
    wait_for("nothing is wrong", is_well)


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
