# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which of the host's addresses are the relay's own endpoints, and which one a router translates to."""

from __future__ import annotations

from pathlib import Path

import pytest
from peer_relay import endpoints, settings
from test_settings import toml

EVERYWHERE = ("0.0.0.0", "::")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Destination -> source address of the host, to be filled by the test."""
    sources: dict[str, str] = {}
    monkeypatch.setattr(endpoints, "source_address", sources.get)
    return sources


def config(tmp_path: Path, public: str = "", listen: tuple[str, ...] = EVERYWHERE) -> settings.Settings:
    file = tmp_path / "relay.toml"
    addresses = ", ".join(f'"{address}"' for address in listen)
    file.write_text(toml({"listen_addresses": f"[{addresses}]", "public_endpoint": f'"{public}"'}))
    return settings.load(file)


def test_the_addresses_towards_the_internet(tmp_path: Path, host: dict[str, str]) -> None:
    host.update({"192.0.2.1": "192.168.1.10", "2001:db8::1": "2001:db8:1::10"})
    own = endpoints.own(config(tmp_path))
    assert own == ["192.168.1.10:40000", "[2001:db8:1::10]:40000"]
    assert endpoints.inner(own, "203.0.113.7:40000") == "192.168.1.10:40000"


def test_the_addresses_that_it_listens_on(tmp_path: Path, host: dict[str, str]) -> None:
    assert endpoints.own(config(tmp_path, listen=("192.0.2.9", "fd00::9"))) == ["192.0.2.9:40000", "[fd00::9]:40000"]


@pytest.mark.parametrize("public", ["198.51.100.10", "2001:db8::10"])
def test_a_public_address_of_its_own_needs_no_default_route(tmp_path: Path, host: dict[str, str], public: str) -> None:
    host[public] = public
    endpoint = f"[{public}]:40000" if ":" in public else f"{public}:40000"
    assert endpoints.own(config(tmp_path, endpoint)) == [endpoint]
    host[public] = "192.0.2.77"
    assert endpoints.own(config(tmp_path, endpoint)) == []


def test_a_name_is_nobodys_address(tmp_path: Path, host: dict[str, str]) -> None:
    assert endpoints.own(config(tmp_path, "relay.example.org:40000")) == []


def test_no_address_is_named_twice(tmp_path: Path, host: dict[str, str]) -> None:
    host.update({"192.0.2.1": "198.51.100.10", "198.51.100.10": "198.51.100.10"})
    assert endpoints.own(config(tmp_path, "198.51.100.10:40000")) == ["198.51.100.10:40000"]


def test_a_host_whose_way_to_the_internet_is_the_overlay_has_none(tmp_path: Path, host: dict[str, str]) -> None:
    host["192.0.2.1"] = "10.77.0.9"
    assert endpoints.own(config(tmp_path)) == []


@pytest.mark.parametrize(
    ("endpoint", "translated"),
    [
        ("192.168.1.10:40000", True),
        ("10.0.0.5:1", True),
        ("172.31.0.1:1", True),
        ("100.64.0.1:1", True),
        ("[fd00::1]:40000", True),
        ("198.51.100.10:40000", False),
        ("172.32.0.1:1", False),
        ("[2001:db8::9]:40000", False),
    ],
)
def test_what_is_behind_a_router(endpoint: str, translated: bool) -> None:
    assert endpoints.inner([endpoint], "203.0.113.7:40000") == (endpoint if translated else None)
    assert endpoints.inner([endpoint], endpoint) is None


def test_source_addresses() -> None:
    assert endpoints.source_address("127.0.0.1") == "127.0.0.1"
    assert endpoints.source_address("255.255.255.255") is None
