from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import attempt, overlay, ping, reaches, run, status
from stock import FOLDER, bring_up, take_down


@pytest.fixture(scope="module", autouse=True)
def lost() -> Iterator[None]:
    """Take the phone out of the inventory while its tunnel is up, and home answers."""
    bring_up("phone", "phone-oslo")
    ping("phone", overlay("home", 4, "oslo"))
    done = attempt("converge.yml", "-i", "lost/hosts.yml")
    assert done.returncode == 0, done.stdout
    yield
    take_down("phone", "phone-rome")


def test_the_session_that_was_up_reaches_nobody() -> None:
    assert not reaches("phone", overlay("home", 4, "oslo"))
    assert not reaches("phone", overlay("tablet", 4, "oslo"))


def test_nor_does_the_old_profile_of_another_relay() -> None:
    take_down("phone", "phone-oslo")
    run("phone", "wg-quick up phone-rome")
    assert not reaches("phone", overlay("home", 4, "oslo"))


@pytest.mark.parametrize("relay", ["oslo", "rome"])
def test_relays_have_forgotten_it(relay: str) -> None:
    names = {device["name"] for device in status(relay)["devices"]}
    assert names == {"home", "tablet", "visitor"}


def test_its_files_are_gone_and_others_are_not() -> None:
    names = {path.stem for path in FOLDER.iterdir()}
    assert {"tablet-oslo", "visitor-rome", "tablet"} <= names
    assert not any(name.startswith("phone") for name in names)


def test_devices_have_forgotten_it() -> None:
    assert "phone" not in run("home", "cat /etc/wireguard/pr0.conf")
