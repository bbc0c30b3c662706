from __future__ import annotations

import pytest
from lab import capture, machine, run, source_address, wait_for
from reach import answers, reboot

TAG = 'comment "homelab.peer_relay: relay"'
OUTER = ("udp", "198.51.100.21", 51820, "")
HOLE = ("udp", "2001:db8:1::10", 40000, "")
INNER = ("udp", "192.168.1.10", 40000, "")
CLOSED = [
    ("udp", "198.51.100.21", 40000, ""),
    ("udp", "198.51.100.21", 40001, ""),
    ("udp", "2001:db8:1::10", 40001, ""),
]


def is_open() -> bool:
    """The relay's port is reached from outside and from inside, by its outer and by its inner address; no other is."""
    outside = answers(OUTER, HOLE, *CLOSED)
    inside = answers(OUTER, INNER, asker="laptop")
    return outside == [True, True, False, False, False] and inside == [True, True]


def test_the_port_is_forwarded_and_others_are_not() -> None:
    assert is_open()


def test_a_device_that_has_been_trying_gets_through() -> None:
    """The kernel has had its connection since before there was a forward, when it led to the router itself."""
    wait_for("the device gets answers", lambda: machine("laptop").file("/run/answers").exists)


def test_what_the_relay_sends_first_comes_from_the_port_that_devices_know() -> None:
    send = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 40000)); "
    with capture("stranger", "wan", "udp port 7777") as packets:
        run("relay", "systemctl stop echo")
        run("relay", f"python3 -c \"{send} s.sendto(b'!', ('198.51.100.66', 7777))\"; systemctl start echo")
    assert [(source_address(packet), packet[20:22]) for packet in packets] == [
        ("198.51.100.21", (51820).to_bytes(2, "big"))
    ]


def test_bans_stay_in_force() -> None:
    assert answers((*OUTER[:3], "198.51.100.99")) == [False]


def test_the_relay_sees_who_comes_from_outside() -> None:
    """Only what comes from inside is masqueraded: every device outside keeps an address of its own."""
    with capture("relay", "home", "udp port 40000") as packets:
        assert answers(OUTER) == [True]
        assert answers(OUTER, asker="laptop") == [True]
    assert {source_address(packet) for packet in packets} == {"198.51.100.66", "192.168.1.1", "192.168.1.10"}


def test_the_rules_of_others_are_unchanged() -> None:
    listing = run("router", "nft --stateless list ruleset").partition("table ip peer_relay_forwards")[0].splitlines()
    before = run("router", "cat /root/somebodys-rules").splitlines()
    assert [line for line in listing if TAG not in line] == before
    assert sum(TAG in line for line in listing) == 4  # two chains drop, and there are two versions of IP


@pytest.mark.parametrize("command", ["reload", "restart"])
def test_it_stays_open_when_the_ruleset_is_loaded_anew(command: str) -> None:
    run("router", f"systemctl {command} nftables")
    assert is_open()


def test_it_stays_open_after_a_reboot_of_the_router() -> None:
    reboot("router")
    for name in ("laptop", "relay", "stranger"):
        run(name, "ip neigh flush all")  # the container has a new hardware address
    wait_for("the port is open", is_open)
    assert machine("router").service("peer-relay-forwards").is_running
