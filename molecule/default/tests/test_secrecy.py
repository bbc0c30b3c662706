"""What a stranger can see: keys in files, and bytes on the wire."""

import pytest
from lab import capture, fails, is_wireguard, machine, overlay, ping, run, udp_payload, wait_for

MARKER = b"plain text between devices"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("relay", "/etc/peer-relay/private.key"),
        ("laptop", "/etc/wireguard/pr0.key"),
        ("home", "/etc/wireguard/pr0.key"),
    ],
)
def test_only_the_owner_reads_the_private_key(name, path):
    key = machine(name).file(path)
    assert key.mode == 0o600
    assert len(key.content_string.strip()) == 44


@pytest.mark.parametrize("name", ["laptop", "home"])
def test_no_private_key_in_the_settings(name):
    settings = machine(name).file("/etc/wireguard/pr0.conf").content_string
    assert "PrivateKey" not in settings
    assert machine(name).file("/etc/wireguard/pr0.key").content_string.strip() not in settings


@pytest.mark.parametrize("name", ["laptop", "home"])
def test_the_private_key_stays_on_its_device(name):
    key = machine(name).file("/etc/wireguard/pr0.key").content_string.strip()
    for place in {"relay", "laptop", "home"} - {name}:
        assert fails(place, f"grep -rqF {key} /etc /var/lib /root /tmp"), f"the key of {name} is on {place}"


def test_only_wireguard_passes_the_relay():
    """Handshakes and data, seen at the relay's outside: nothing else, and no plain text, though the device sends it."""
    home = overlay("home", 4)
    for name in ("laptop", "home"):  # without their agents they go through the relay
        run(name, "systemctl stop peer-agent@pr0 && systemctl restart wg-quick@pr0")
    with capture("relay", "wan", "udp port 40000") as outside, capture("home", "pr0", "ip") as inside:
        wait_for("home answers", lambda: not fails("laptop", f"ping -n -q -c 1 -W 1 {home}"))
        ping("laptop", home, count=10)
        for _ in range(5):
            run("laptop", f"echo '{MARKER.decode()}' | nc -u -w 1 -q 0 {home} 9999")

    for name in ("laptop", "home"):
        run(name, "systemctl start peer-agent@pr0")
    assert any(MARKER in packet for packet in inside), "the text was sent"
    payloads = [udp_payload(packet) for packet in outside]
    assert {payload[0] for payload in payloads} >= {1, 2, 4}, "handshakes and data were recorded"
    strange = [payload for payload in payloads if not is_wireguard(payload)]
    assert not strange, f"{len(strange)} of {len(payloads)} datagrams are no WireGuard message: {strange[0].hex()}"
    assert not any(MARKER in packet for packet in outside), "plain text on the wire"
