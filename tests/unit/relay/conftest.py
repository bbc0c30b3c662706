# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of the relay's unit tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from relay_world import StockDevice, World, at, check_consistency


@pytest.fixture
def world() -> Iterator[World]:
    """A relay that knows nobody; afterwards its memory must be consistent."""
    result = World()
    yield result
    check_consistency(result.switchboard)


@pytest.fixture
def ann(world: World) -> StockDevice:
    return world.add("ann", at("192.0.2.1"))


@pytest.fixture
def bob(world: World) -> StockDevice:
    return world.add("bob", at("192.0.2.2"))


@pytest.fixture
def pair(ann: StockDevice, bob: StockDevice) -> tuple[StockDevice, StockDevice]:
    """Two devices that are bound and have a session with each other."""
    ann.connect()
    bob.connect()
    ann.shake_hands(bob)
    assert ann.say(bob)
    assert bob.say(ann)
    return ann, bob


@pytest.fixture(scope="session")
def vectors() -> SimpleNamespace:
    """A handshake in each direction, recorded from wireguard-go."""

    def namespace(values: dict) -> SimpleNamespace:
        return SimpleNamespace(
            **{
                key: namespace(value)
                if isinstance(value, dict)
                else bytes.fromhex(value)
                if isinstance(value, str) and key != "source"
                else value
                for key, value in values.items()
            }
        )

    return namespace(json.loads((Path(__file__).parent / "vectors.json").read_text()))
