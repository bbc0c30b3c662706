from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from lab import attempt, overlay, ping, reaches, run, status
from stock import FOLDER, bring_up, private_key, profile, take_down

RELAYS = ["oslo", "rome"]  # the kernel forwards, and the service itself


@pytest.fixture(params=RELAYS)
def relay(request: pytest.FixtureRequest) -> Iterator[str]:
    """The phones' tunnels through this relay."""
    for name in ("phone", "tablet", "visitor"):
        bring_up(name, f"{name}-{request.param}")
    yield request.param
    for name in ("phone", "tablet", "visitor"):
        take_down(name, f"{name}-{request.param}")


def address(name: str) -> str:
    return overlay(name, 4, "oslo")


def test_unchanged_profiles_reach_everybody_of_their_group(relay: str) -> None:
    ping("phone", address("home"))
    ping("phone", address("tablet"))
    ping("tablet", address("home"))
    ping("visitor", address("home"))
    ping("home", address("phone"))
    assert next(d for d in status(relay)["devices"] if d["name"] == "phone")["state"] == "bound"


def test_a_visitor_reaches_nobody_else(relay: str) -> None:
    assert not reaches("visitor", address("phone"))
    assert "# tablet\n" not in profile(f"visitor-{relay}")


@pytest.mark.parametrize("tunnel", [f"{name}-{relay}" for name in ("phone", "tablet", "visitor") for relay in RELAYS])
def test_the_code_is_the_profile(tunnel: str) -> None:
    command = ["zbarimg", "--quiet", "--raw", "--oneshot", f"{FOLDER}/{tunnel}.png"]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout.rstrip("\n") == profile(
        tunnel
    ).rstrip("\n")


def test_a_stale_profile_is_told_and_no_private_key_is_seen_anywhere() -> None:
    keys = [private_key(f"{name}-oslo") for name in ("phone", "tablet", "visitor")]
    assert len(set(keys)) == 3
    said = attempt("converge.yml", "-i", "changed/hosts.yml", "-vvv", "--diff").stdout
    assert "phone's profile is stale (phone-oslo: home has another AllowedIPs" in said
    assert "10.43.0.0" not in profile("phone-oslo")
    for key in keys:
        assert json.dumps(key)[1:-1] not in said
        for name in ("oslo", "rome", "home"):
            assert run(name, f"grep -rlF {key} /etc /var/lib /run /usr/local 2>/dev/null || true") == ""
