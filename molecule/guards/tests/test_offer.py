"""A device lets others into what it offers, and into nothing else, whatever happens to its packet filter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import machine, overlay, ping, reaches, run, wait_for

OFFERED, OTHER = "10.43.0.10", "10.99.0.10"
GUARD = "peer-guard@pr0"


@pytest.fixture(scope="module", autouse=True)
def _trespasser() -> Iterator[None]:
    """The exit node would like to reach what home does not offer."""
    home = run("home", "wg show pr0 public-key").strip()
    allowed = run("exit", f"wg show pr0 allowed-ips | grep {home} | cut -f 2 | tr ' ' ,").strip()
    wait_for("home answers", lambda: reaches("exit", overlay("home", 4)))
    run("exit", f"wg set pr0 peer {home} allowed-ips {allowed},10.99.0.0/24 && ip route add 10.99.0.0/24 dev pr0")
    yield
    run("exit", f"wg set pr0 peer {home} allowed-ips {allowed}; ip route del 10.99.0.0/24 dev pr0")


def test_only_what_is_offered_is_reached() -> None:
    ping("exit", OFFERED)
    assert not reaches("exit", OTHER)


def test_what_a_container_asks_is_answered() -> None:
    """Behind the strict reverse path filter, in a network that is not offered, by somebody's own masquerade."""
    run("home", "nft 'add table ip nat; add chain ip nat post { type nat hook postrouting priority srcnat; }'")
    run("home", "nft 'add rule ip nat post ip saddr 10.99.0.0/24 oifname pr0 masquerade'")
    address = overlay("exit", 4)
    answered = machine("home").run(f"ip netns exec net99 ping -n -q -W 2 -c 3 {address}").rc == 0
    run("home", "nft delete table ip nat")
    assert answered


def test_a_service_network_is_translated_after_it_is_let_in() -> None:
    """As kube-proxy does: what is offered is the service's address, where it arrives is not."""
    run("home", "nft 'add table ip kube; add chain ip kube pre { type nat hook prerouting priority dstnat; }'")
    run("home", "nft 'add rule ip kube pre ip daddr 10.96.0.10 dnat to 10.99.0.10'")
    answered = reaches("exit", "10.96.0.10")
    run("home", "nft delete table ip kube")
    assert answered
    assert not reaches("exit", OTHER)


@pytest.mark.parametrize(
    "command",
    [
        "systemctl restart nftables",
        "systemctl stop nftables",
        "nft flush table inet pr0",
        "ip rule del priority 28783",
        "ip rule del priority 28784",
    ],
)
def test_a_flush_opens_nothing_and_is_undone(command: str) -> None:
    run("home", f"systemctl stop {GUARD}")
    run("home", command)
    let_in = reaches("exit", OTHER)
    run("home", f"systemctl start {GUARD}")
    wait_for("what is offered is reached again", lambda: reaches("exit", OFFERED))
    wait_for("it is put back", lambda: not machine("home").run("nft list chain inet pr0 forward").rc)
    wait_for("its rules too", lambda: {"28783:", "28784:"} <= set(run("home", "ip rule").split()))
    assert not let_in
    assert not reaches("exit", OTHER)


def test_a_running_guard_puts_back_at_once() -> None:
    run("home", "sleep 3; nft -f /etc/nftables.conf")
    wait_for("the table is back", lambda: not machine("home").run("nft list table inet pr0").rc, 3)
    ping("exit", OFFERED)
