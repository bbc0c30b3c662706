from __future__ import annotations

import pytest
from lab import overlay, reaches, run, status
from stock import FOLDER


@pytest.mark.parametrize("relay", ["oslo", "rome"])
def test_the_old_profile_reaches_nobody(relay: str) -> None:
    assert run("phone", f"wg-quick up phone-{relay} 2>&1; ip -o link show phone-{relay}")
    try:
        assert not reaches("phone", overlay("home", 4, "oslo"))
        assert not reaches("phone", overlay("tablet", 4, "oslo"))
    finally:
        run("phone", f"wg-quick down phone-{relay}")
    assert "phone" not in {device["name"] for device in status(relay)["devices"]}


def test_its_files_are_gone_and_others_are_not() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert {"tablet-oslo", "visitor-rome", "tablet"} <= names
    assert not any(name.startswith("phone") for name in names)


def test_devices_have_forgotten_it() -> None:
    assert "phone" not in run("home", "cat /etc/wireguard/pr0.conf")
