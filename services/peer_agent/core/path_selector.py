# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which path the packets to one other device take: the whole decision, without any I/O.

lan > direct > relay > fallback. Whoever runs a selector tells it what happens, and does what it puts into `outbox`.
`now` is a clock that goes on while the host sleeps (CLOCK_BOOTTIME); the time of day is used nowhere.

This is ICE (RFC 8445) beside a relay that works all along. The side with the smaller overlay address leads, as the
controlling agent: it nominates a direct candidate that has proven itself, in its pings; the follower moves there as
soon as it has proof of its own, and only then does the leader move.
Either may leave a path that has gone silent, at once; pongs say whether their sender still uses the path, so the other
does not stay behind. WireGuard itself sends to wherever the other's last packet came from: `traffic` sees that, and
either believes it, when it goes with what probes have proven, or has it set back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from peer_agent.core.actions import Log, PairAction, Rekey, SendProbe, SetEndpoint, SuspectRelay
from peer_agent.core.candidates import Candidate, Candidates
from peer_agent.core.liveness import Liveness
from peer_agent.core.nomination import Nomination
from peer_agent.core.paths import Path, RelayView
from peer_agent.core.reasons import why_not
from peer_agent.core.rehandshake import Rehandshake
from peer_agent.core.relay_choice import RelayChoice
from peer_agent.core.signaling import MAX_SEEN, Signaling
from peer_agent.core.silence import Silence
from peer_agent.core.traffic import Bytes, Traffic
from peer_agent.endpoints import Address, Endpoint, Network
from peer_agent.wire.control import Message
from peer_agent.wire.probes import PING, PONG, Probe, Window

_MAX_DELAY = 5.0
_TICK = 0.1  # while something is under way
_SLEPT = 20.0  # seconds without a tick: the host slept, or stood still
_FORGIVEN = 600.0  # seconds of a direct path that works
_HOLD = 0.3  # seconds to hold on to the endpoint: packets that come the way of before take it along
_MAX_RELAY_ENDPOINTS = 4  # to one relay: UDP of both IP versions, the fallback, and the one before
_LATE = 1.0  # seconds in which packets may still come the way of before
_IDLE = 3.0  # seconds without data, after which a move disturbs nobody
_NO_AGENT_SILENCE = 3.0  # seconds: nobody there to answer pings
_CHECK_AFTER = 1.0  # seconds of silence over a relay, until the other is asked in the tunnel
# Seconds between pings of full size over a direct path while data flows, while no data comes back, and without a pong.
_FULL_SIZE_EVERY, _FULL_SIZE_UNHEARD, _FULL_SIZE_AGAIN = 10.0, 2.0, 0.2
_CHECK_DIRECT_AFTER = 5.0  # and over a direct path, whose probes are answered: something may let only those pass


class PathSelector:
    """Selects the path between this device and one other."""

    def __init__(
        self,
        own: Address,
        other: Address,
        relays: Iterable[RelayView],
        secret: bytes,
        overlays: Iterable[Network],
        now: float,
    ):
        """`own` and `other` are the first overlay address of each side, `relays` are in their stated order, `secret` is
        32 random bytes, new with each start of the agent, and no candidate may be in `overlays`, the networks inside
        the tunnel."""
        self.outbox: list[PairAction] = []
        self._leader = int(own) < int(other)
        self._views = {view.name: view for view in relays}
        # Where relays were reached last, and which is there.
        self._relay_endpoints = {view.endpoint: view.name for view in self._views.values()}
        self._via = next(iter(self._views))
        self._before = ""  # the relay that was left last
        self._direct: Candidate | None = None
        self._endpoint: Endpoint | None = None  # what WireGuard is to use; None until it was seen what it does use
        self._since = self._ticked_at = now
        self._changes = 0
        self._hosts: frozenset[str] = frozenset()
        self._candidates = Candidates(overlays)
        self._nomination = Nomination(self._candidates, self._leader, self.outbox)
        self._window = Window()
        self._signaling = Signaling(secret, self._leader, overlays, self.outbox, now)
        self._relay_choice = RelayChoice()
        self._traffic = Traffic()
        self._silence = Silence(now)
        self._liveness = Liveness(now, self._leader)
        self._rehandshake = Rehandshake(self._leader)

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        if now - self._ticked_at > _SLEPT:
            self.wake(now)
        self._ticked_at = now
        self._candidates.expire(now)
        self._signaling.send_if_due(now, self._views.values())
        if self._endpoint is None:
            return _TICK
        if self._signaling.is_gone(now):
            self._signaling.forget()
            self._nomination.nominee = None
            if self._direct:
                self._leave(now, self._direct, "the other runs no agent any more")
        if self._direct:
            self._tick_direct(now, self._direct)
        else:
            self._tick_relay(now)
        if self._signaling.key:
            self._tick_candidates(now)
        if self._rehandshake.should_start(now):
            self.outbox.append(Rekey(self._endpoint))
            self._send_message(now, answer=True)
        return self._next(now)

    def _next(self, now: float) -> float:
        if self.watching:
            return _TICK
        due = [self._signaling.due, self._traffic.due(now)]
        if self._direct and self._signaling.key:
            due.append(self._liveness.due())
            due.append(self._full_size_due(now, self._direct))
        elif self._traffic.is_silent(now):
            due.append(now + _TICK if self._direct else self._silence.due(asks=self._signaling.key is not None))
        if self._signaling.key and self._nomination.rivals(self._direct):
            due.append(self._hole_punching_due(now))
        return min(max(min(due) - now, 0.01), _MAX_DELAY)

    @property
    def watching(self) -> bool:
        """Whether to call `traffic` at every tick: something is under way. Otherwise when the interface's counters have
        grown (looked at five times a second), and every 5 s."""
        return bool(
            self._endpoint is None
            or self._nomination.nominee
            or self._nomination.hole_punching.running
            or self._rehandshake.wanted
            or self._traffic.is_busy(self._ticked_at, _LATE)
            or self._ticked_at - self._since < _LATE
            or (self._direct and self._liveness.suspected)
            or any(candidate.streak for candidate in self._nomination.rivals(self._direct))
        )

    def wake(self, now: float) -> None:
        """The host has slept: nothing was heard, and that means nothing. Ask everybody at once."""
        self._ticked_at = now
        self._candidates.forget()
        self._traffic.note_proof(now)
        self._liveness = Liveness(now, self._leader)
        self._renew(now)

    def _renew(self, now: float) -> None:
        """Find out at once what has changed."""
        if self._direct:
            self._liveness.suspect(now, self._direct.rtt)
        self.outbox.append(SuspectRelay(self._via))
        self._nomination.hole_punching.reset()
        self._signaling.search_again(now)

    # --- the direct path ----------------------------------------------------------------------------------------------

    def _tick_direct(self, now: float, direct: Candidate) -> None:
        if not self._signaling.key:
            if self._traffic.unanswered(now) >= _NO_AGENT_SILENCE:
                self._leave(now, direct, "it has gone silent")
            return
        if self._signaling.is_restarting(now):
            return
        if self._traffic.is_silent(now):
            self._liveness.suspect(now, direct.rtt)
        self._liveness.check_idle(now)
        if self._liveness.expired(now):
            self._nomination.penalize(direct)
            self._leave(now, direct, "it has gone silent")
            return
        if self._liveness.should_ping(now):
            self._send_ping(now, direct)
        if self._liveness.worried(now):
            self._suspect(now)
        if self._traffic.unheard(now) >= _CHECK_DIRECT_AFTER and self._silence.is_due(now):
            self._check(now)
        if direct is self._direct:  # it has not been left just now
            self._check_full_size(now, direct)
        if now - self._since > _FORGIVEN:
            self._nomination.forgive(direct)

    def _check_full_size(self, now: float, direct: Candidate) -> None:
        """See now and then that large packets still arrive (RFC 8899, section 4.3): small ones may go on alone."""
        if not self._signaling.answers_full_size:
            return
        if direct.narrow:
            self._nomination.penalize(direct)
            self._leave(now, direct, "packets of full size get lost on it, small ones arrive")
        elif now >= self._full_size_due(now, direct):
            self.outbox.append(self._candidates.make_ping(now, direct, in_use=True, full=True))

    def _full_size_due(self, now: float, direct: Candidate) -> float:
        if direct.full_pending:
            return direct.full_pinged_at + _FULL_SIZE_AGAIN
        if not self._traffic.is_busy(now, _LATE):
            return float("inf")
        unheard = self._traffic.unheard(now) >= _LATE
        return direct.full_ponged_at + (_FULL_SIZE_UNHEARD if unheard else _FULL_SIZE_EVERY)

    def _leave(self, now: float, direct: Candidate, why: str, alone: bool = False) -> None:
        """Leave the direct path for a relay; alone: the other cannot know yet."""
        self._direct = None
        direct.forget()
        self._send_ping(now, direct)  # not in use any more: the other may still hear that
        self._nomination.nominee = None
        self._via, _ = self._relay_choice.choose(now, self._via, self._views.values(), self._signaling.remote_relays)
        self._note(f"left the direct path {direct.endpoint}: {why}; now over {self._via}", logging.WARNING)
        self._nomination.hole_punching.reset()
        self._moved(now, alone)
        self._send_message(now, left=True, answer=True)

    def _left_behind(self, now: float, direct: Candidate) -> None:
        self._nomination.penalize(direct)
        self._leave(now, direct, "the other has left it")

    def _go_direct(self, now: float, candidate: Candidate) -> None:
        self._direct, self._nomination.nominee = candidate, None
        self._candidates.keep(candidate)
        self._liveness = Liveness(now, self._leader)
        self._note(f"now {candidate.kind} to {candidate.endpoint}")
        self._nomination.hole_punching.stop()
        self._moved(now)
        self._send_ping(now, candidate)

    def _moved(self, now: float, alone: bool = False) -> None:
        """Tell WireGuard of the path that was chosen."""
        self._since = now
        self._changes += 1
        self._silence.note_data()
        turn = 0 if alone or not self._signaling.key else self._traffic.turn(now)
        self._traffic.note_move(now)
        self._rehandshake.note_move(now, "" if self._direct else self._via, turn)
        self._set()

    def _set(self) -> Endpoint:
        endpoint = self._direct.endpoint if self._direct else self._views[self._via].endpoint
        if endpoint != self._endpoint:
            self._endpoint = endpoint
            self.outbox.append(SetEndpoint(endpoint, _HOLD if self._direct else 0.0))
        return endpoint

    # --- candidates ---------------------------------------------------------------------------------------------------

    def _hole_punching_due(self, now: float) -> float:
        hopeless = self._signaling.symmetric_nats == 2 or self._direct is not None
        return self._nomination.hole_punching.due(self._traffic.is_busy(now, _LATE), hopeless)

    def _tick_candidates(self, now: float) -> None:
        wanted = self._nomination.rivals(self._direct) and now >= self._hole_punching_due(now)
        if wanted and self._nomination.hole_punching.begin_round(now):
            self._send_message(now, punch=True)
        self._nomination.advance(now, self._direct)

    def _send_ping(self, now: float, candidate: Candidate) -> None:
        self._nomination.send_ping(now, candidate, self._direct)

    # --- the relay ----------------------------------------------------------------------------------------------------

    def _tick_relay(self, now: float) -> None:
        name, can_wait = self._relay_choice.choose(now, self._via, self._views.values(), self._signaling.remote_relays)
        follows = self._signaling.key and not self._leader  # it is the leader who improves what works
        if name != self._via and not (can_wait and (follows or self._traffic.is_busy(now, _IDLE))):
            self._note(f"now over relay {name}, no longer over {self._via}")
            self._go_relay(now, name)
            self._moved(now)
            self._send_message(now, answer=True)
        if self._traffic.is_silent(now):
            self._suspect(now)
        if self._signaling.key and self._traffic.unanswered(now) >= _CHECK_AFTER and self._silence.is_due(now):
            self._check(now)

    def _go_relay(self, now: float, name: str) -> None:
        self._before, self._via = self._via, name

    def _suspect(self, now: float) -> None:
        if self._silence.should_suspect(now):
            self.outbox.append(SuspectRelay(self._via))

    def _check(self, now: float) -> None:
        """No data comes: ask the other itself, in the tunnel, and when it does not answer, do without this path."""
        view = self._views[self._via]
        if self._silence.should_ask(now):
            self._send_message(now, answer=True)
        elif self._direct:
            self._nomination.penalize(self._direct)
            self._leave(now, self._direct, "probes pass, data does not")
        elif view.alive and view.other_seen and self._silence.should_rehandshake(now):
            self._rehandshake.force(now, self._via)

    # --- what happened ------------------------------------------------------------------------------------------------

    def control(self, now: float, message: Message) -> None:
        """The other's agent said something, in the tunnel, from its overlay address."""
        fresh = self._signaling.receive(now, message)
        self._nomination.full_size = self._signaling.answers_full_size
        if fresh:
            self._window = Window()
            self._candidates.forget()
            self._liveness = Liveness(now, self._leader)
        self._silence.note_answer(now)
        new = self._update_candidates()
        if fresh or new:
            self._nomination.hole_punching.reset()
        if message.answer:
            self._send_message(now)
        if message.punch and self._nomination.rivals(self._direct):
            self._nomination.hole_punching.begin_round(now)
        if message.left and self._direct:
            self._liveness.suspect(now, self._direct.rtt, firm=True)

    def _update_candidates(self) -> bool:
        seen = list(dict.fromkeys(view.other_seen for view in self._views.values() if view.other_seen))
        return self._candidates.set_signaled([*seen[:MAX_SEEN], *self._signaling.remote_candidates])

    def probed(self, now: float, probe: Probe, source: Endpoint, local: str) -> None:
        """A probe that opened with this pair's key came from there to this local address."""
        if probe.kind == PING:
            self._pinged(now, probe, source)
        else:
            self._ponged(now, probe, source)
        if candidate := self._candidates.get(source):
            candidate.local = local

    def _pinged(self, now: float, probe: Probe, source: Endpoint) -> None:
        if not self._window.accept(probe.number):
            return
        candidate = self._candidates.add_peer_reflexive(source, keep=self._direct)
        if candidate is None:
            return
        self._signaling.note_probe(now)
        if probe.in_use:
            candidate.claimed = probe.number
            if candidate is self._direct:
                self._liveness.note_ping(now)
            self._claimed(now, candidate)
        elif candidate is self._direct and candidate.claimed is not None and probe.number > candidate.claimed:
            self._left_behind(now, candidate)
        pong = Probe(PONG, probe.number, self._nomination.is_in_use(candidate, self._direct), probe.full)
        self.outbox.append(SendProbe(source, pong, True))
        self._nomination.trigger_check(now, candidate, self._direct)

    def _claimed(self, now: float, candidate: Candidate) -> None:
        """The other uses this path, or the leader wants to."""
        if candidate is self._direct or self._endpoint is None:
            return
        if self._leader:
            if candidate is self._nomination.nominee:
                self._go_direct(now, candidate)
        elif self._nomination.is_proven(now, candidate):
            self._go_direct(now, candidate)
        else:
            self._nomination.nominate(now, candidate, self._direct)

    def _ponged(self, now: float, probe: Probe, source: Endpoint) -> None:
        ping = self._candidates.match_pong(now, probe.number, source)
        if ping is None:
            return
        self._signaling.note_probe(now)
        candidate = ping.candidate
        if candidate is self._direct:
            if ping.in_use and not probe.in_use and self._nomination.nominee is None:
                self._left_behind(now, candidate)
                return
            self._liveness.note_pong(now)
            self._traffic.note_proof(now)
        elif candidate is self._nomination.nominee and (
            probe.in_use if self._leader else self._nomination.is_proven(now, candidate)
        ):
            self._go_direct(now, candidate)

    def traffic(self, now: float, sent: Bytes, came: Bytes, endpoint: Endpoint | None, handshake: int) -> None:
        """The [Peer] as it runs: bytes, endpoint, and the time of the last handshake as WireGuard tells it. The first
        call tells which path runs already: it is kept as long as it works."""
        chosen = self._endpoint or self._adopt(endpoint)
        via = self._relay_endpoints.get(endpoint, "") if endpoint else ""
        heard = self._traffic.sample(now, sent, came, handshake, endpoint == chosen)
        self._rehandshake.sample(handshake, via, heard)
        if heard:
            self._signaling.note_traffic(now)
        if endpoint == chosen:
            if heard:
                self._liveness.note_data()
                self._silence.note_data()
        elif not self._believe(now, endpoint, via, heard):
            self.outbox.append(SetEndpoint(chosen, _HOLD if self._direct else 0.0))

    def _adopt(self, endpoint: Endpoint | None) -> Endpoint:
        if endpoint in self._relay_endpoints:
            self._via = self._relay_endpoints[endpoint]
            self._endpoint = endpoint
        elif endpoint is not None:
            self._direct = self._candidates.add_peer_reflexive(endpoint, None)
        if self._direct:
            self._endpoint = endpoint
        return self._set()

    def _believe(self, now: float, endpoint: Endpoint | None, via: str, heard: bool) -> bool:
        """WireGuard has followed a packet of the other's: return whether to leave it there for now."""
        if self._direct:
            if via and now - self._liveness.answered_at > _TICK * 5:
                # The other sends over a relay: it has left, or the packet was late.
                self._liveness.suspect(now, self._direct.rtt, firm=True)
                return True
            return bool(self._nomination.nominee and endpoint == self._nomination.nominee.endpoint)
        if via and via != self._via and self._views[via].alive and heard:
            if via == self._before and now - self._since < _LATE:
                return False
            self._note(f"now over relay {via}, with the other, no longer over {self._via}")
            self._go_relay(now, via)
            self._endpoint = endpoint
            self._moved(now)
            return True
        return bool(self._nomination.nominee and endpoint == self._nomination.nominee.endpoint)

    def relay(self, now: float, view: RelayView) -> None:
        """A relay is alive, or dead, or reached in another way, or sees another address: call it for each change."""
        before = self._views[view.name]
        self._views[view.name] = view
        self._reached(view)
        if view.seen != before.seen:
            self._signaling.announce(now)
        if view.other_seen != before.other_seen and self._signaling.key and self._update_candidates():
            self._nomination.hole_punching.reset()
        if self._endpoint is not None and self._direct is None and view.name == self._via:
            self._set()

    def _reached(self, view: RelayView) -> None:
        """Remember this way to the relay, with the few before: WireGuard may be there still. A fallback has a new one
        each time."""
        self._relay_endpoints.pop(view.endpoint, None)
        self._relay_endpoints[view.endpoint] = view.name
        own = [endpoint for endpoint, name in self._relay_endpoints.items() if name == view.name]
        for endpoint in own[:-_MAX_RELAY_ENDPOINTS]:
            del self._relay_endpoints[endpoint]

    def network(self, now: float, endpoints: Iterable[Endpoint], networks: Iterable[Network]) -> None:
        """This device's own addresses with WireGuard's port (and the endpoints that the settings state), and the
        networks that it is in. Call it at the start, and when they change: a path from an address that is gone is left
        at once."""
        self._candidates.classify(networks)
        first = not self._signaling.own
        if not self._signaling.set_own(now, endpoints):
            return
        before, self._hosts = self._hosts, frozenset(endpoint.host for endpoint in self._signaling.own)
        if first:
            return
        self._renew(now)
        if self._direct and self._direct.local in before - self._hosts:
            self._leave(now, self._direct, f"the address {self._direct.local} is gone", alone=True)

    def stop(self, now: float) -> None:
        """The agent ends, maybe to start again at once: tell the other, and leave the path as it is."""
        self._send_message(now, bye=True)

    # --- for others to read -------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The path in use, for the status."""
        agent = self._signaling.key is not None
        if self._direct:
            direct = self._direct
            return Path(direct.kind, "", direct.endpoint, self._since, direct.rtt, "", agent, self._changes)
        view = self._views[self._via]
        reason = why_not(view, self._views.values(), self._signaling, self._candidates)
        return Path(view.kind, view.name, view.endpoint, self._since, view.rtt, reason, agent, self._changes)

    def _send_message(self, now: float, **flags: bool) -> None:
        self._signaling.send(now, self._views.values(), **flags)

    def _note(self, text: str, level: int = logging.INFO) -> None:
        self.outbox.append(Log(text, level))
