"""The playbook verify names what is in the way of forwarding, and what nobody puts back."""

from __future__ import annotations

from lab import attempt, machine, reaches, run, wait_for

DROP = "add table inet foreign; add chain inet foreign f { type filter hook forward priority 0; policy drop; }"


def test_verify_tells_what_was_put_back_and_what_nobody_does() -> None:
    run("laptop", "sleep 3; ip rule del priority 28786")
    wait_for(
        "the guard has put it back", lambda: machine("laptop").run("ip rule | grep -c ^28786:").stdout.strip() == "1"
    )
    wait_for("the exit node answers", lambda: reaches("laptop", "203.0.113.9"))
    run("exit", f"nft '{DROP}'")
    run("home", "systemctl stop peer-guard@pr0")
    result = attempt("homelab.peer_relay.verify")
    run("home", "systemctl start peer-guard@pr0")
    run("exit", "nft delete table inet foreign")
    assert "laptop's guard says: Put back" in result.stdout
    assert "Nothing puts back what other daemons remove on home: start peer-guard@pr0 there" in result.stdout
    assert "exit forwards for other devices. The chain inet foreign f drops what is forwarded from pr0" in result.stdout
