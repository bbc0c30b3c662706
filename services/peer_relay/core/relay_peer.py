# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The relay as a WireGuard peer of every device: handshakes, sessions, challenges (design: the relay is itself a peer).

Nothing here sends or binds: methods take a datagram and return what the switchboard shall send, or raise Refused.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from peer_common import directory, packets

from peer_relay import addresses
from peer_relay.core import directory_answers, overlay
from peer_relay.core.device import Binding, Device
from peer_relay.core.probe import Probes
from peer_relay.core.rate_limits import FairShares, TokenBucket
from peer_relay.drops import Refused
from peer_relay.wireguard.cookies import CookieMint
from peer_relay.wireguard.noise import (
    HandshakeError,
    Identity,
    InitiationReader,
    InitiationWriter,
    random_index,
    tai64n,
)
from peer_relay.wireguard.session import REKEY_AFTER, Session

HANDSHAKE_RETRY = 5.0  # seconds (REKEY-TIMEOUT)
_HANDSHAKE_LIFETIME = 15.0  # seconds that a response to our initiation may take
# Handshakes a second that are answered unconditionally, and with a proven address (mac2). One costs about 0.3 ms.
_FREE_RATE, _FREE_BURST = 100.0, 300.0
_PROVEN_RATE, _PROVEN_BURST = 400.0, 400.0
_COOKIE_RATE, _COOKIE_BURST = 1000.0, 1000.0
# What one site may ask before it only competes with other loud ones: a flood from a few keeps nobody else out.
_SHARE_RATE, _SHARE_BURST, _SHARES = 50.0, 150.0, 1024
_LOUD_RATE, _LOUD_BURST = 200.0, 200.0
_STRANGERS_KEPT = 16  # unknown public keys remembered for doctor
# Challenges that unproven sources can cause: for each device and network, for each device, in all. Whoever forges
# sources uses up those of other networks than the one that the device moves to; beyond a device's own share he only
# competes with other loud ones.
_ASK_RATE, _ASK_BURST, _ASK_SHARES = 1.0, 1.0, 4096
_ASK_DEVICE_RATE, _ASK_DEVICE_BURST = 10.0, 50.0
_ASK_ALL_RATE, _ASK_ALL_BURST = 150.0, 150.0
_ASK_LOUD_RATE, _ASK_LOUD_BURST = 50.0, 150.0
_ASKED_EACH = 16  # questions to one device, at different addresses, that may be open


@dataclass(slots=True)
class _Handshake:
    """An initiation of the relay's own that waits for its response; `address` is where it went."""

    writer: InitiationWriter
    device: Device
    address: bytes
    created: float


class RelayPeer:
    """The relay's identity, its sessions by local index, and its pending handshakes."""

    def __init__(self, identity: Identity, addresses: frozenset[IPv4Address | IPv6Address]):
        self.identity = identity
        self.addresses = addresses
        self.sessions: dict[int, tuple[Device, Session]] = {}
        self.handshakes: dict[int, _Handshake] = {}
        # Before a restart. The keys are gone, but who sends under such an index says which device it may be.
        self.former: dict[int, Device] = {}
        self.strangers: OrderedDict[bytes, float] = OrderedDict()  # unknown public key -> last seen
        self.probes = Probes()
        self.last_timestamp = bytes(12)  # of the last initiation sent; never goes back, whatever the clock does
        self._mint = CookieMint(identity.cookie_key)
        self._free = TokenBucket(_FREE_RATE, _FREE_BURST)
        self._proven = TokenBucket(_PROVEN_RATE, _PROVEN_BURST)
        self._cookie_replies = TokenBucket(_COOKIE_RATE, _COOKIE_BURST)
        self._loud_replies = TokenBucket(_LOUD_RATE, _LOUD_BURST)
        self._shares = FairShares(_SHARE_RATE, _SHARE_BURST, _SHARES)
        self._asks = FairShares(_ASK_RATE, _ASK_BURST, _ASK_SHARES)
        self._device_asks = FairShares(_ASK_DEVICE_RATE, _ASK_DEVICE_BURST, _ASK_SHARES)
        self._all_asks = TokenBucket(_ASK_ALL_RATE, _ASK_ALL_BURST)
        self._loud_asks = TokenBucket(_ASK_LOUD_RATE, _ASK_LOUD_BURST)

    def owns(self, index: int) -> bool:
        """Tell whether `index` is one of the relay's own."""
        return index in self.sessions or index in self.handshakes

    def _new_index(self, device: Device) -> int:
        while True:
            index = random_index()
            # The device's own routes are looked up first: an index must not mean two things from one source.
            if not self.owns(index) and index not in device.routes:
                return index

    def cookie_if_loaded(self, datagram: bytes, source: bytes, now: float) -> bytes | None:
        """Return the cookie reply to send when the relay is under load and the sender has not proven its address."""
        fair = self._shares.consume(addresses.site(source), now)
        if fair and self._free.consume(1, now):
            return None
        if self._mint.valid(datagram, source, now):
            if self._proven.consume(1, now):
                return None
            raise Refused("handshake_limited")
        if (self._cookie_replies if fair else self._loud_replies).consume(1, now):
            return self._mint.reply(datagram, source, now)
        raise Refused("handshake_limited")

    def respond(
        self, datagram: bytes, source: bytes, now: float, wall: float, find: Callable[[bytes], Device | None]
    ) -> tuple[bytes, Device | None]:
        """Answer an initiation to the relay: return the response (92 bytes, for 148), and the device that it came from.

        There is no device where the relay itself has made it, as a probe.
        """
        try:
            reader = InitiationReader(self.identity, datagram)
            if reader.initiator == self.identity.public:
                return self._answer_probe(reader, datagram, source, now, wall), None
            device = find(reader.initiator)
            if device is None:
                self._remember_stranger(reader.initiator, now)
                raise Refused("unknown_device")
            timestamp = reader.timestamp()
            if timestamp <= device.timestamp:
                raise Refused("timestamp_replayed", device)
            index = self._new_index(device)
            answer, keys = reader.respond(index)
        except HandshakeError as error:
            raise Refused("handshake_invalid") from error
        device.timestamp = timestamp
        device.last_attempt, device.attempt_source = now, source
        if device.next:
            del self.sessions[device.next.local_index]
        device.next = Session(keys, index, now, initiator=False)
        device.next.answered = source
        self.sessions[index] = (device, device.next)
        return answer, device

    def _answer_probe(self, reader: InitiationReader, datagram: bytes, source: bytes, now: float, wall: float) -> bytes:
        self.probes.admit(datagram, reader.timestamp(), wall)
        answer, _ = reader.respond(random_index())
        self.probes.note(source, reader.sender, now)
        return answer

    def _remember_stranger(self, public_key: bytes, now: float) -> None:
        self.strangers.pop(public_key, None)
        self.strangers[public_key] = now
        if len(self.strangers) > _STRANGERS_KEPT:
            self.strangers.popitem(last=False)

    def initiate(self, device: Device, to: Binding, now: float, wall: float) -> bytes:
        """Return an initiation (148 bytes) to a device, to be sent `to` there; `wall` is the Unix time in seconds."""
        timestamp = tai64n(wall)
        if timestamp <= self.last_timestamp:
            timestamp = (int.from_bytes(self.last_timestamp, "big") + 1).to_bytes(12, "big")
        self.last_timestamp = timestamp
        if to.address in device.asked:
            self._drop_handshake(device.asked[to.address])
        elif len(device.asked) == _ASKED_EACH:
            # Any of them: were it always the oldest, forged sources would keep each from lasting for a long round trip.
            self._drop_handshake(secrets.choice(list(device.asked.values())))
        index = self._new_index(device)
        try:
            writer = InitiationWriter(self.identity, device.public_key, index, timestamp, device.cookies.current(now))
        except HandshakeError as error:  # a public key that no private key belongs to
            raise Refused("handshake_invalid", device) from error
        self.handshakes[index] = _Handshake(writer, device, to.address, now)
        device.asked[to.address] = index
        return writer.datagram

    def _drop_handshake(self, index: int) -> None:
        pending = self.handshakes.pop(index)
        del pending.device.asked[pending.address]

    def finish(self, datagram: bytes, now: float) -> tuple[Device, Session, bytes, float, bytes]:
        """Take the response to our initiation.

        Return the device, its session, where the initiation went and when, and a keepalive that confirms the session.
        """
        index = packets.receiver_index(datagram)
        pending = self.handshakes[index]
        if not packets.mac1_valid(self.identity.mac1_key, datagram):
            raise Refused("bad_mac1")
        try:
            keys = pending.writer.finish(datagram)
        except HandshakeError as error:
            raise Refused("handshake_invalid") from error
        self._drop_handshake(index)
        device = pending.device
        session = Session(keys, index, now, initiator=True)
        self.sessions[index] = (device, session)
        self._promote(device, session, now)
        return device, session, pending.address, pending.created, session.seal(b"")

    def store_cookie(self, datagram: bytes, now: float) -> None:
        """Keep the cookie that a loaded device sent instead of a response."""
        pending = self.handshakes[packets.receiver_index(datagram)]
        _, mac1, _ = packets.split_macs(pending.writer.datagram)
        if not pending.device.cookies.store(datagram, pending.device.public_key, mac1, now):
            raise Refused("handshake_invalid")

    def unseal(self, datagram: bytes, now: float) -> tuple[Device, Session, bytes]:
        """Take a transport message to the relay: return (device, session, inner packet)."""
        device, session = self.sessions[packets.receiver_index(datagram)]
        inner = session.unseal(datagram, now)
        if session is device.next:
            device.next = None
            self._promote(device, session, now)
        return device, session, inner

    def remember(self, index: int, device: Device, until: float) -> None:
        """Keep the index of a session that a restart has ended, for as long as the device may go on with it."""
        if index not in self.former:
            self.former[index] = device
            device.former[index] = until

    def _forget_former(self, device: Device, now: float = float("inf")) -> None:
        for index in [index for index, until in device.former.items() if until <= now]:
            del self.former[index], device.former[index]

    def _promote(self, device: Device, session: Session, now: float) -> None:
        self._forget_former(device)
        if device.previous:
            del self.sessions[device.previous.local_index]
        device.previous, device.current = device.current, session
        device.last_handshake = now

    def answer(
        self, device: Device, session: Session, inner: bytes, now: float, find: directory_answers.Find
    ) -> tuple[bytes, bool]:
        """Return (the relay's transport message to send back, whether it answers the inner packet).

        Never larger than what came. A packet without an answer gets a keepalive, as the device's timers ask for
        one (whitepaper section 6.5). `find` tells whose an overlay address is.
        """
        ends = overlay.addresses(inner)
        if ends is None or ends[0] not in device.settings.addresses:
            raise Refused("inner_source", device)
        reply = None
        if ends[1] in self.addresses:
            reply = overlay.echo_reply(inner) or overlay.udp_reply(
                inner, directory.PORT, lambda message: directory_answers.answer(device, message, find, now)
            )
        return session.seal(reply or b""), reply is not None

    def wants_rekey(self, device: Device, now: float) -> bool:
        """Tell whether the relay, as the initiator of the session, has to renew it."""
        session = device.current
        return bool(
            session
            and session.initiator
            and now - session.created > REKEY_AFTER
            and now - device.last_rekey > HANDSHAKE_RETRY
        )

    def forget(self, device: Device) -> None:
        """End all sessions and handshakes with a device."""
        for session in device.sessions():
            del self.sessions[session.local_index]
        device.next = device.current = device.previous = None
        for index in list(device.asked.values()):
            self._drop_handshake(index)
        self._forget_former(device)

    def expire(self, now: float) -> None:
        """Forget handshakes that were not answered in time, and sessions before a restart that have ended."""
        for index in [i for i, pending in self.handshakes.items() if now - pending.created > _HANDSHAKE_LIFETIME]:
            self._drop_handshake(index)
        for device in set(self.former.values()):
            self._forget_former(device, now)

    def challenge_allowed(self, device: Device, source: bytes, now: float) -> bool:
        """One challenge a second for each device and network that it may have moved to, and so many in all."""
        if not self._asks.consume(device.public_key + addresses.network(source), now):
            return False
        fair = self._device_asks.consume(device.public_key, now)
        return (self._all_asks if fair else self._loud_asks).consume(1, now)
