# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service, with WireGuard, the network and the clock as a test tells it."""

from __future__ import annotations

import base64
import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peer_agent import service, settings
from peer_agent.core.reasons import Failure
from peer_agent.endpoints import Endpoint
from peer_agent.host import clock
from peer_agent.host.addresses import HostAddress, LinkKind
from peer_agent.wireguard.interface import Interface, Peer, Unchangeable, WireGuardError
from peer_common import directory

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(1, 6)]
ONE, TWO, NAS, TV, PC = KEYS
RELAYS = {ONE: Endpoint("203.0.113.1", 40000), TWO: Endpoint("203.0.113.2", 40000)}
SETTINGS = {
    "agent": {"addresses": ["10.77.1.1"], "networks": ["10.77.0.0/16"]},
    "relay": [
        {
            "name": name,
            "public_key": key,
            "addresses": [f"10.77.0.{number}"],
            "endpoints": [str(RELAYS[key])],
            "fallback_url": "wss://relay.example/",
        }
        for number, (name, key) in enumerate((("one", ONE), ("two", TWO)), 1)
    ],
    "peer": [
        {"name": name, "public_key": key, "addresses": [f"10.77.1.{number}"]}
        for number, (name, key) in enumerate((("nas", NAS), ("tv", TV)), 2)
    ],
}


class WireGuard:
    """WireGuard as it is told."""

    def __init__(self) -> None:
        self.name = "pr0"
        self.endpoints: dict[str, Endpoint] = {**RELAYS, **dict.fromkeys((NAS, TV, PC), RELAYS[ONE])}
        self.handshake = 0
        self.there = True
        self.changeable = True
        self.tool = True
        self.done: list[tuple[Any, ...]] = []

    def show(self) -> Interface:
        if not self.there:
            raise WireGuardError("wg show: Protocol not supported")
        if not self.changeable:
            raise Unchangeable("this WireGuard takes no change of a [Peer]")
        peers = {
            key: Peer(key, False, place, "", self.handshake if key in RELAYS else 0, 0, 0, 25)
            for key, place in self.endpoints.items()
        }
        return Interface(51820, 0, peers)

    def set_endpoint(self, key: str, place: Endpoint) -> None:
        self.endpoints[key] = place
        self.done.append(("set", key, place))

    def renew(self, key: str, place: Endpoint) -> None:
        self.endpoints[key] = place
        self.done.append(("renew", key, place))

    def bind_again(self, port: int) -> None:
        self.done.append(("bind", port))

    def problem(self) -> str:
        return "" if self.tool else "wg is missing"

    def close(self) -> None:
        pass


class Counters:
    def __init__(self, wireguard: WireGuard):
        self.wireguard = wireguard
        self.gone = False

    def read(self) -> int | None:
        return None if self.gone else 100

    def close(self) -> None:
        pass


class Overlay:
    moved = 100

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.questions: list[tuple[bytes, Any]] = []  # to relays

    def send(self, payload: bytes, address: Any, port: int) -> bool:
        self.sent.append((str(address), port))
        if port == 7077:
            self.questions.append((payload, address))
        return True


class Probes:
    """WireGuard's port: nothing leaves."""

    def send(self, _payload: bytes, _target: Endpoint) -> None:
        pass

    def forget_sources(self) -> None:
        pass


class Sockets:
    """A device on one network."""

    full_size = 1452

    def __init__(self) -> None:
        self.overlay = Overlay()
        self.probe: Any = Probes()
        self.host = "192.168.1.2"

    def fit(self, _running: Interface) -> bool:
        return False

    def close(self) -> None:
        pass

    def source(self, _target: Endpoint) -> str:
        return self.host

    def addresses(self) -> list[Any]:
        return [HostAddress(ip_interface(f"{self.host}/24"), LinkKind.OUTSIDE)]


class Fallback:
    """One that is tried for ever, unless there is a failure to report."""

    failure: Failure | None = None

    def __init__(self, _url: str, _fingerprint: str, _mark: int, _port: int, report: Callable[..., None]):
        if self.failure:
            report(None, self.failure)

    def close(self) -> None:
        pass


class Run:
    """The service, with a clock that the test turns."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.content = copy.deepcopy(SETTINGS)
        self.content["agent"]["status_file"] = str(folder / "status.json")
        self.file = folder / "pr0.toml"
        self.sha256 = "one"
        monkeypatch.setattr(settings, "load", self._load)
        self.wireguard, self.sockets = WireGuard(), Sockets()
        self.counters = Counters(self.wireguard)
        monkeypatch.setitem(sys.modules, "peer_agent.host.fallback", SimpleNamespace(Fallback=Fallback))
        monkeypatch.setattr(service, "WireGuard", lambda name: self.wireguard)
        monkeypatch.setattr(service, "Counters", lambda name: self.counters)
        monkeypatch.setattr(service, "Sockets", lambda *_: self.sockets)
        monkeypatch.setattr(service, "clock", lambda: self.now)
        self.now = clock.clock()
        self.service = service.Service(settings.load(self.file))

    def _load(self, file: Path) -> settings.Settings:
        return replace(settings.parse(self.content, file), sha256=self.sha256)

    def advance(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while True:
            delay = self.service._advance(self.now)
            if self.now >= end:
                return
            self.now = min(end, self.now + max(delay, 0.001))

    def reload(self) -> None:
        self.service._take_over_settings()
        self.advance(0.3)

    @property
    def status(self) -> dict:
        return json.loads(Path(self.content["agent"]["status_file"]).read_text())

    def answer(self) -> None:
        """All relays answer what they were asked last."""
        for payload, address in self.sockets.overlay.questions:
            nonce, targets = directory.read_request(payload)
            answer = directory.Answer(nonce, directory.Entry(), tuple(directory.Entry() for _ in targets))
            self.service._heard(self.now, directory.write_answer(answer), address, 7077)
        self.sockets.overlay.questions.clear()

    def sent(self) -> list[tuple[str, int]]:
        """What went into the tunnel since the last time."""
        sent, self.sockets.overlay.sent = self.sockets.overlay.sent, []
        return sent

    def done(self) -> list[tuple[Any, ...]]:
        """What WireGuard was told since the last time."""
        done, self.wireguard.done = self.wireguard.done, []
        return done

    def close(self) -> None:
        parts = self.service
        parts._end(self.now)
        parts._changes.close()
        parts._selector.close()
        for sock in (parts._wake, parts._bell, parts._resolver.wake, parts._resolver._bell):
            sock.close()
