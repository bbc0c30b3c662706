# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Devices with agents, stock devices, and relays, on a simulated network."""

from __future__ import annotations

import hashlib
import itertools
from ipaddress import ip_address, ip_network
from typing import Any, NamedTuple

from agent_net import Net, Packet, Router
from agent_wireguard import Data, Initiation, Peer, Response, weight
from peer_agent.core.actions import (
    AskDirectory,
    CloseFallback,
    Log,
    OpenFallback,
    Rekey,
    SendMessage,
    SendProbe,
    SetEndpoint,
    SetKey,
    SetRelayEndpoint,
    SuspectRelay,
)
from peer_agent.core.limits import Limits
from peer_agent.core.path_selector import PathSelector
from peer_agent.core.paths import RelayView
from peer_agent.core.relay_liveness import Relay, RelayLiveness
from peer_agent.core.traffic import Bytes
from peer_agent.endpoints import Endpoint
from peer_agent.wire import control
from peer_agent.wire.probes import PING, Keyring

OVERLAY = ip_network("10.77.0.0/16")
PORT = 51820
FULL_SIZE, HEADERS = 1452, 28  # a datagram that carries the tunnel's largest packet; what IPv4 and UDP add
_POLL = 0.2  # seconds between looks at the interface's counters


class Directory(NamedTuple):
    """A question to the relay, or an empty keepalive, in the tunnel to it."""

    device: str
    nonce: bytes
    answer: tuple | None = None


class RelayHost:
    """A relay: bindings, and the sessions whose handshakes it has forwarded."""

    def __init__(self, world: World, name: str, host: str):
        self.world, self.name = world, name
        self.endpoint = Endpoint(host, 40000)
        self.alive = True
        self.fallback = True  # its TLS port answers
        self.bound: dict[str, Endpoint] = {}
        self._half: set[int] = set()
        self._known: set[int] = set()
        world.net.attach(host, None, self.receive)

    def restart(self) -> None:
        """Lose what it knows."""
        self.bound.clear()
        self._known.clear()

    def receive(self, packet: Packet) -> None:
        if not self.alive:
            return
        message = packet.content
        if isinstance(message, Directory):
            self.bound[message.device] = packet.source
            if message.nonce:
                answer = Directory(message.device, message.nonce, (packet.source, dict(self.bound)))
                self._send(packet.source, answer, 200)
            return
        if not isinstance(message, Initiation | Response | Data) or self.bound.get(message.sender) != packet.source:
            return
        if isinstance(message, Initiation):
            self._half.add(message.session)
        elif isinstance(message, Response) and message.session in self._half:
            self._known.add(message.session)
        elif message.session not in self._known:
            return
        other = next((place for name, place in self.bound.items() if name == self.world.other(message.sender)), None)
        if other is not None:
            self._send(other, message, packet.size)

    def _send(self, target: Endpoint, message: Any, size: int) -> None:
        world = self.world
        if target.host.startswith("127."):  # one of its fallback connections
            device = world.devices["abcdefgh"[target.port - 1]]
            world.clock.at(world.now + 0.03, lambda: device.from_fallback(self.name, message))
        else:
            world.net.send(None, Packet(self.endpoint, target, message, size))


class Device:
    """A device: its WireGuard, and an agent unless it is a stock device."""

    def __init__(self, world: World, name: str, host: str, router: Router | None, agent: bool = True):
        self.world, self.name, self.host, self.router = world, name, host, router
        self.overlay = ip_address(f"10.77.1.{ord(name)}")
        self.reach = {relay.name: relay.endpoint for relay in world.relays.values()}  # the relays' own [Peer]s
        self.peer: Peer | None = None
        self.got: list[tuple[float, int]] = []
        self.said = self.heard = 0  # bytes of talk in WireGuard's counters
        self.sent_bytes = 0  # by the agent, for the other device
        self.sets: list[tuple[float, Endpoint]] = []
        self.rekeys: list[float] = []
        self.notes: list[str] = []
        self.paths: list[tuple[float, str, str]] = []
        self.fallback: dict[str, Endpoint] = {}
        self.tcp = True  # whether TCP gets out
        self.wants_agent = agent
        self.runs = False
        self._life = 0
        world.net.attach(host, router, self.receive)
        self._keep()

    def meet(self, other: Device) -> None:
        first = next(iter(self.world.relays.values())).endpoint
        self.peer = Peer(self.world.clock, self.name, other.name, first, self.send, self._inside)
        self.other = other
        if self.wants_agent:
            self.start()

    # --- packets ------------------------------------------------------------------------------------------------------

    def send(self, target: Endpoint, content: Any, size: int) -> None:
        if target.host.startswith("127."):
            name = next((name for name, place in self.fallback.items() if place == target), None)
            if name is not None and self.tcp:
                relay = self.world.relays[name]
                source = Endpoint("127.0.0.2", ord(self.name) - 96)
                packet = Packet(source, relay.endpoint, content, size)
                self.world.clock.at(self.world.now + 0.03, lambda: relay.receive(packet))
            return
        self.world.net.send(self.router, Packet(Endpoint(self.host, PORT), target, content, size))

    def from_fallback(self, relay: str, message: Any) -> None:
        if relay in self.fallback and self.tcp:
            place = self.fallback[relay]
            self.receive(Packet(place, Endpoint("127.0.0.1", PORT), message, 0))

    def receive(self, packet: Packet) -> None:
        message = packet.content
        if isinstance(message, bytes):
            opened = self.keys.unseal(message) if self.runs else None
            if opened and self.limits.may_answer(self.world.now, self.other.name):
                opened[0].probed(self.world.now, opened[1], packet.source, packet.target.host)
                self._drain()
        elif isinstance(message, Directory):
            name = next((relay.name for relay in self.world.relays.values() if relay.endpoint == packet.source), None)
            name = name or next((name for name, place in self.fallback.items() if place == packet.source), None)
            if name is None:
                return
            self.reach[name] = packet.source  # WireGuard roams
            if message.answer and self.runs:
                seen, bound = message.answer
                self._seen[name] = bound.get(self.other.name)
                self.relays.answered(self.world.now, name, message.nonce, None if seen.host[:4] == "127." else seen)
                self._look()
        elif self.peer:
            self.peer.receive(packet.source, message)

    def _inside(self, content: Any) -> None:
        if isinstance(content, bytes):
            if self.runs:
                self.heard += weight(content)
                if not self.limits.may_read(self.world.now, self.other.name, weight(content)):
                    return
                self.pair.control(self.world.now, control.decode(content))
                self._drain()
        else:
            self.got.append((self.world.now, content))

    def _keep(self) -> None:
        for name, place in self.reach.items():
            self.send(place, Directory(self.name, b""), 60) if name else None
        self.world.clock.at(self.world.now + 25, self._keep)

    # --- the agent ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.runs = True
        self._life += 1
        now = self.world.now
        relays = [Relay(relay.name, relay.endpoint, relay.fallback) for relay in self.world.relays.values()]
        self.relays = RelayLiveness(relays, now)
        self._views: dict[str, RelayView] = {view.name: view for view in self.relays.views()}
        self._seen: dict[str, Endpoint | None] = {}
        secret = hashlib.sha256(f"{self.name}{self._life}{now}".encode()).digest()
        self.pair = PathSelector(self.overlay, self.other.overlay, self._views.values(), secret, [OVERLAY], now)
        self.keys = Keyring()
        self.limits = Limits(now)
        self.pair_key = None
        self._counters, self._polled_at, self._sampled_at = None, now, now
        self._sample()
        self._network()
        self._run(self._life)

    def stop(self) -> None:
        self.pair.stop(self.world.now)
        self._drain()
        self.runs = False

    def crash(self) -> None:
        self.runs = False

    def _network(self) -> None:
        private = self.router is not None
        networks = [ip_network(f"{self.host}/24", strict=False)] if private else []
        self.pair.network(self.world.now, [Endpoint(self.host, PORT)], networks)

    def roam(self, host: str, router: Router | None) -> None:
        """Join another network."""
        self.world.net.detach(self.host, self.router)
        self.host, self.router = host, router
        self.world.net.attach(host, router, self.receive)
        if self.runs:
            self._network()
            self.relays.network(self.world.now)
            self._drain()

    def _run(self, life: int) -> None:
        if not self.runs or life != self._life:
            return
        now = self.world.now
        if self.pair.watching or now - self._sampled_at >= 5 or now - self._polled_at >= _POLL:
            self._polled_at = now
            counters = (self.peer.tx, self.peer.rx)
            if self.pair.watching or counters != self._counters or now - self._sampled_at >= 5:
                self._counters = counters
                self._sample()
        delay = min(self.pair.tick(now), self.relays.tick(now), _POLL)
        self._look()
        self._drain()
        path = self.pair.path
        if not self.paths or self.paths[-1][1:] != (path.kind, path.via):
            self.paths.append((now, path.kind, path.via))
        self.world.clock.at(now + max(delay, 0.01), lambda: self._run(life))

    def _sample(self) -> None:
        peer = self.peer
        self._sampled_at = self.world.now
        sent, came = Bytes(peer.tx, self.said), Bytes(peer.rx, self.heard)
        self.pair.traffic(self.world.now, sent, came, peer.endpoint, peer.stamp)

    def _look(self) -> None:
        for view in self.relays.views():
            view = view._replace(other_seen=self._seen.get(view.name))
            if view != self._views[view.name]:
                self._views[view.name] = view
                self.pair.relay(self.world.now, view)

    def _drain(self) -> None:
        for box in (self.relays.outbox, self.pair.outbox):
            while box:
                self._do(box.pop(0))

    def _do(self, action: Any) -> None:
        now = self.world.now
        match action:
            case SendProbe(target, probe, heard):
                if not self.pair_key or not self.limits.may_send(
                    now, self.other.name, target, heard, probe.full and probe.kind == PING
                ):
                    return
                datagram = self.pair_key.seal(probe, FULL_SIZE)
                self.sent_bytes += len(datagram) + HEADERS
                self.send(target, datagram, len(datagram) + HEADERS)
            case SetKey(key):
                self.pair_key = key
                self.keys.put(self.pair, key)
            case SendMessage(message):
                content = control.encode(message)
                self.sent_bytes += len(content) + 60
                self.peer.send(content)
                self.said += 0 if message.answer else weight(content)
            case SetEndpoint(endpoint, hold):
                self.sets.append((now, endpoint))
                self._hold(object(), endpoint, now + hold)
            case Rekey(endpoint):
                self.rekeys.append(now)
                self._holds = None
                self.peer.reset()
                self.peer.endpoint = endpoint
            case SuspectRelay(relay):
                self.relays.suspect(now, relay)
            case AskDirectory(relay, nonce):
                self.send(self.reach[relay], Directory(self.name, nonce), 200)
            case SetRelayEndpoint(relay, endpoint):
                self.reach[relay] = endpoint
            case OpenFallback(relay):
                self.world.clock.at(now + 0.3, lambda: self._connected(relay))
            case CloseFallback(relay):
                self.fallback.pop(relay, None)
            case Log(text):
                self.notes.append(f"{now - 1000:.2f} {text}")

    def _hold(self, token: object, endpoint: Endpoint, until: float, first: bool = True) -> None:
        if first:
            self._holds = token
        if self._holds is token:
            self.peer.endpoint = endpoint
            if self.world.now < until:
                self.world.clock.at(self.world.now + 0.002, lambda: self._hold(token, endpoint, until, False))

    def _connected(self, relay: str) -> None:
        host = self.world.relays[relay]
        if self.tcp and host.alive and host.fallback and self.runs:
            self.fallback[relay] = Endpoint("127.0.0.1", 7000 + ord(relay[-1]))
            self.relays.fallback(self.world.now, relay, self.fallback[relay])
        elif self.runs:
            self.relays.fallback(self.world.now, relay, None)
        self._look()
        self._drain()

    # --- for the tests ------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return self.pair.path.kind

    @property
    def via(self) -> str:
        return self.pair.path.via


class World:
    """Two devices and some relays; a stream of packets each way on demand."""

    def __init__(self, relays: int = 1, seed: int = 1):
        self.net = Net(seed)
        self.clock = self.net.clock
        self.relays: dict[str, RelayHost] = {}
        self.devices: dict[str, Device] = {}
        for number in range(1, relays + 1):
            self.relays[f"relay{number}"] = RelayHost(self, f"relay{number}", f"203.0.113.{number}")
        self._streams: set[str] = set()
        self._numbers: dict[str, int] = {}

    @property
    def now(self) -> float:
        return self.clock.now

    def device(self, name: str, host: str, router: Router | None, agent: bool = True) -> Device:
        self.devices[name] = device = Device(self, name, host, router, agent)
        return device

    def other(self, name: str) -> str:
        return next(other for other in self.devices if other != name)

    def begin(self) -> None:
        """All devices start, once the relays know them."""
        self.run(1)
        first, second = self.devices.values()
        first.meet(second)
        second.meet(first)

    def run(self, seconds: float) -> None:
        self.clock.run(seconds)

    def stream(self, *names: str, every: float = 0.02) -> None:
        """These devices send numbered packets from now on; with none, nobody does."""
        self._streams = set(names)
        token = object()
        self._token = token
        for number, name in enumerate(names):  # one after the other, lest their first handshakes cross
            self.clock.at(self.now + 0.3 * number, lambda name=name: self._flow(name, every, token))

    def _flow(self, name: str, every: float, token: object) -> None:
        if token is not self._token:
            return
        self._numbers[name] = number = self._numbers.get(name, 0) + 1
        self.devices[name].peer.send(number)
        self.clock.at(self.now + every, lambda: self._flow(name, every, token))

    def until(self, true: Any, limit: float) -> float:
        """Return how long it takes until this is true."""
        start = self.now
        while not true():
            assert self.now - start < limit, f"not within {limit} s: {self.notes()}"
            self.run(0.05)
        return self.now - start

    def gap(self, since: float) -> float:
        """Return the longest time without a packet, over both devices that receive a stream."""
        worst = 0.0
        for name in self._streams:
            times = [since, *(when for when, _ in self.devices[self.other(name)].got if when >= since), self.now]
            worst = max(worst, *(late - early for early, late in itertools.pairwise(times)))
        return worst

    def lost(self, since: float) -> int:
        """Return how many packets never came, of those that were sent since then and before the last that did come."""
        total = 0
        for name in self._streams:
            numbers = [number for when, number in self.devices[self.other(name)].got if when >= since]
            total += max(numbers) - min(numbers) + 1 - len(set(numbers)) if numbers else 1
        return total

    def notes(self) -> str:
        return "\n".join(f"{device.name}: {note}" for device in self.devices.values() for note in device.notes)


def behind_nats(relays: int = 1, symmetric: str = "", agents: str = "ab", seed: int = 1) -> World:
    """Two devices, each behind a router of its own."""
    world = World(relays, seed)
    for number, name in enumerate("ab", 1):
        router = world.net.router(f"198.51.100.{number}", symmetric=name in symmetric)
        world.device(name, f"192.168.{number}.2", router, name in agents)
    world.begin()
    return world
