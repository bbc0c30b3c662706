"""A whole run of the playbook, with a router that puts lines of a configuration file into its external address."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import attempt, figure, is_bound, machine, machines, overlay, ping, run, wait_for

HERE = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
SITE = "homelab.peer_relay.site"
MARK = "peer-relay-was-here"
LINES = f"[Interface]&#10;PreUp = touch /run/{MARK}&#10;PostUp = touch /run/{MARK}"
ANSWER = f"2001:db8::1%x&#10;{LINES}"  # which Python's ipaddress takes for an address
MACHINES = ["rome", "oslo", "laptop", "nas"]


@pytest.fixture(scope="module", autouse=True)
def router() -> Iterator[None]:
    name = "router-home"
    assert name in machines()
    put(name, "/run/igd.py", (HERE / "igd.py").read_text(encoding="utf-8"))
    say(ANSWER)
    run(name, "systemd-run --quiet --collect --unit igd python3 /run/igd.py")
    yield
    run(name, "systemctl stop igd")


def put(name: str, path: str, text: str) -> None:
    machine(name).check_output(f"cat > {path} <<'END'\n{text}\nEND")


def say(address: str) -> None:
    """Have the router give this as its external address."""
    run("router-home", f"printf %s '{address}' > /run/igd-address")


def traces(name: str) -> str:
    """Files that have the router's words, and what they would have made; the journal is for words."""
    places = "/etc /run /usr/local /var/lib /root /tmp /home"
    return machine(name).run(f"grep -rIl --exclude-dir=journal -e {MARK} {places} 2>/dev/null; ls /run/{MARK}").stdout


def test_its_words_reach_no_file() -> None:
    started = time.monotonic()
    result = attempt(SITE)
    figure("site with a router that lies", f"{time.monotonic() - started:.0f} s")
    assert result.returncode != 0
    said = " ".join(result.stdout.replace("\\n", " ").split())
    # The router, what is wrong with it, and what to do.
    assert "192.168.1.1" in said
    assert "external address" in said
    for name in MACHINES:
        assert traces(name) == ""


def test_the_other_relay_serves() -> None:
    for name in ("laptop", "nas"):
        wait_for(f"{name} is bound", lambda name=name: is_bound(name, "oslo"))
        endpoints = run(name, "wg show pr0 endpoints")
        assert "11.22.33.10:40000" in endpoints
        # Neither the router's word, nor that relay's own address behind it.
        assert "2001:db8" not in endpoints
        assert "192.168.1.10" not in endpoints
    ping("laptop", overlay("nas", 4, "oslo"))
    ping("nas", overlay("laptop", 6, "oslo"))


def test_with_an_honest_router_it_comes_in() -> None:
    say("11.22.33.21")
    result = attempt(SITE)
    assert result.returncode == 0, result.stdout[-3000:]
    assert "11.22.33.21:40000" in run("laptop", "wg show pr0 endpoints")
