# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which path the packets to one other device take: the whole decision, without any I/O.

lan > direct > relay > fallback. Whoever runs a pair tells it what happens, and takes out of `outbox` what is to be
done.
`now` is a clock that goes on while the host sleeps (CLOCK_BOOTTIME); the time of day is used nowhere.

Of the two sides, the one with the smaller overlay address leads: it picks a direct candidate that has proven itself and
says so in its pings; the follower moves there as soon as it has proof of its own, and only then does the leader move.
Either may leave a path that has gone silent, at once; pongs say whether their sender still uses the path, so the other
does not stay behind. WireGuard itself sends to wherever the other's last packet came from: `traffic` sees that, and
either believes it, when it goes with what probes have proven, or has it set back.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from peer_agent.core.actions import Note, PairAction, Rekey, Send, SetEndpoint, Suspect
from peer_agent.core.candidates import Candidate, Candidates
from peer_agent.core.liveness import Watch
from peer_agent.core.nomination import Trials
from peer_agent.core.paths import Path, View
from peer_agent.core.reasons import why_not
from peer_agent.core.rehandshake import Sessions
from peer_agent.core.relay_choice import Choice
from peer_agent.core.signaling import MOST_SEEN, Talk
from peer_agent.core.silence import Doubts
from peer_agent.core.traffic import Bytes, Flow
from peer_agent.endpoints import Address, Endpoint, Network
from peer_agent.wire.control import Message
from peer_agent.wire.probes import PING, PONG, Probe, Window

_LONGEST_TICK = 5.0
_TICK = 0.1  # while something is under way
_SLEPT = 20.0  # seconds without a tick: the host slept, or stood still
_FORGIVEN = 600.0  # seconds of a direct path that works
_HOLD = 0.3  # seconds to hold on to the endpoint: packets that come the way of before take it along
_MOST_WAYS = 4  # to one relay: UDP of both IP versions, the fallback, and the one before
_LATE = 1.0  # seconds in which packets may still come the way of before
_IDLE = 3.0  # seconds without data, after which a move disturbs nobody
_NO_AGENT_SILENCE = 3.0  # seconds: nobody there to answer pings
_CHECK_AFTER = 1.0  # seconds of silence over a relay, until the other is asked in the tunnel
# Seconds between pings of full size over a direct path while data flows, while no data comes back, and without a pong.
_FULL_SIZE_EVERY, _FULL_SIZE_UNHEARD, _FULL_SIZE_AGAIN = 10.0, 2.0, 0.2
_CHECK_DIRECT_AFTER = 5.0  # and over a direct path, whose probes are answered: something may let only those pass


class Pair:
    """This device and one other."""

    def __init__(
        self,
        own: Address,
        other: Address,
        relays: Iterable[View],
        secret: bytes,
        overlays: Iterable[Network],
        now: float,
    ):
        """Take both overlay addresses (the first of each), the relays in their stated order, 32 random bytes that are
        new with each start of the agent, and the networks inside the tunnel, which no candidate may be in."""
        self.outbox: list[PairAction] = []
        self._leader = int(own) < int(other)
        self._views = {view.name: view for view in relays}
        self._ways = {view.endpoint: view.name for view in self._views.values()}  # what relays were reached by last
        self._via = next(iter(self._views))
        self._before = ""  # the relay that was left last
        self._direct: Candidate | None = None
        self._endpoint: Endpoint | None = None  # what WireGuard is to use; None until it was seen what it does use
        self._since = self._ticked_at = now
        self._changes = 0
        self._hosts: frozenset[str] = frozenset()
        self._candidates = Candidates(overlays)
        self._trials = Trials(self._candidates, self._leader, self.outbox)
        self._window = Window()
        self._talk = Talk(secret, self._leader, overlays, self.outbox, now)
        self._choice = Choice()
        self._flow = Flow()
        self._doubts = Doubts(now)
        self._watch = Watch(now, self._leader)
        self._sessions = Sessions(self._leader)

    # --- time ---------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> float:
        """Do what is due; return in how many seconds to call again at the latest."""
        if now - self._ticked_at > _SLEPT:
            self.wake(now)
        self._ticked_at = now
        self._candidates.expire(now)
        self._talk.tick(now, self._views.values())
        if self._endpoint is None:
            return _TICK
        if self._talk.gone(now):
            self._talk.forget()
            self._trials.nominee = None
            if self._direct:
                self._leave(now, self._direct, "the other runs no agent any more")
        if self._direct:
            self._tick_direct(now, self._direct)
        else:
            self._tick_relay(now)
        if self._talk.key:
            self._tick_candidates(now)
        if self._sessions.attempt(now):
            self.outbox.append(Rekey(self._endpoint))
            self._say(now, answer=True)
        return self._next(now)

    def _next(self, now: float) -> float:
        if self.watching:
            return _TICK
        due = [self._talk.due, self._flow.due(now)]
        if self._direct and self._talk.key:
            due.append(self._watch.due())
            due.append(self._full_size_due(now, self._direct))
        elif self._flow.silent(now):
            due.append(now + _TICK if self._direct else self._doubts.next(asks=self._talk.key is not None))
        if self._talk.key and self._trials.rivals(self._direct):
            due.append(self._punching_due(now))
        return min(max(min(due) - now, 0.01), _LONGEST_TICK)

    @property
    def watching(self) -> bool:
        """Whether to call `traffic` at every tick: something is under way. Otherwise when the interface's counters have
        grown (looked at five times a second), and every 5 s."""
        return bool(
            self._endpoint is None
            or self._trials.nominee
            or self._trials.punching.running
            or self._sessions.wanted
            or self._flow.busy(self._ticked_at, _LATE)
            or self._ticked_at - self._since < _LATE
            or (self._direct and self._watch.suspected)
            or any(candidate.streak for candidate in self._trials.rivals(self._direct))
        )

    def wake(self, now: float) -> None:
        """The host has slept: nothing was heard, and that means nothing. Ask everybody at once."""
        self._ticked_at = now
        self._candidates.forget()
        self._flow.calm(now)
        self._watch = Watch(now, self._leader)
        self._renew(now)

    def _renew(self, now: float) -> None:
        """Find out at once what has changed."""
        if self._direct:
            self._watch.suspect(now, self._direct.rtt)
        self.outbox.append(Suspect(self._via))
        self._trials.punching.reset()
        self._talk.renew(now)

    # --- the direct path ----------------------------------------------------------------------------------------------

    def _tick_direct(self, now: float, direct: Candidate) -> None:
        if not self._talk.key:
            if self._flow.unanswered(now) >= _NO_AGENT_SILENCE:
                self._leave(now, direct, "it has gone silent")
            return
        if self._talk.absent(now):
            return
        if self._flow.silent(now):
            self._watch.suspect(now, direct.rtt)
        self._watch.tick(now)
        if self._watch.lost(now):
            self._trials.penalize(direct)
            self._leave(now, direct, "it has gone silent")
            return
        if self._watch.ping(now):
            self._ping(now, direct)
        if self._watch.worried(now):
            self._suspect(now)
        if self._flow.unheard(now) >= _CHECK_DIRECT_AFTER and self._doubts.due(now):
            self._check(now)
        if direct is self._direct:  # it has not been left just now
            self._check_full_size(now, direct)
        if now - self._since > _FORGIVEN:
            self._trials.forgive(direct)

    def _check_full_size(self, now: float, direct: Candidate) -> None:
        """See now and then that large packets still arrive (RFC 8899, section 4.3): small ones may go on alone."""
        if not self._talk.full:
            return
        if direct.narrow:
            self._trials.penalize(direct)
            self._leave(now, direct, "packets of full size get lost on it, small ones arrive")
        elif now >= self._full_size_due(now, direct):
            self.outbox.append(self._candidates.ping(now, direct, in_use=True, full=True))

    def _full_size_due(self, now: float, direct: Candidate) -> float:
        if direct.full_pending:
            return direct.full_pinged_at + _FULL_SIZE_AGAIN
        if not self._flow.busy(now, _LATE):
            return float("inf")
        unheard = self._flow.unheard(now) >= _LATE
        return direct.full_ponged_at + (_FULL_SIZE_UNHEARD if unheard else _FULL_SIZE_EVERY)

    def _leave(self, now: float, direct: Candidate, why: str, alone: bool = False) -> None:
        """Leave the direct path for a relay; alone: the other cannot know yet."""
        self._direct = None
        direct.forget()
        self._ping(now, direct)  # not in use any more: the other may still hear that
        self._trials.nominee = None
        self._via, _ = self._choice.choose(now, self._via, self._views.values(), self._talk.theirs)
        self._note(f"left the direct path {direct.endpoint}: {why}; now over {self._via}", logging.WARNING)
        self._trials.punching.reset()
        self._moved(now, alone)
        self._say(now, left=True, answer=True)

    def _left_behind(self, now: float, direct: Candidate) -> None:
        self._trials.penalize(direct)
        self._leave(now, direct, "the other has left it")

    def _go_direct(self, now: float, candidate: Candidate) -> None:
        self._direct, self._trials.nominee = candidate, None
        self._candidates.keep(candidate)
        self._watch = Watch(now, self._leader)
        self._note(f"now {candidate.kind} to {candidate.endpoint}")
        self._trials.punching.stop()
        self._moved(now)
        self._ping(now, candidate)

    def _moved(self, now: float, alone: bool = False) -> None:
        """Tell WireGuard of the path that was chosen."""
        self._since = now
        self._changes += 1
        self._doubts.flowed()
        turn = 0 if alone or not self._talk.key else self._flow.turn(now)
        self._flow.moved(now)
        self._sessions.moved(now, "" if self._direct else self._via, turn)
        self._set()

    def _set(self) -> Endpoint:
        endpoint = self._direct.endpoint if self._direct else self._views[self._via].endpoint
        if endpoint != self._endpoint:
            self._endpoint = endpoint
            self.outbox.append(SetEndpoint(endpoint, _HOLD if self._direct else 0.0))
        return endpoint

    # --- candidates ---------------------------------------------------------------------------------------------------

    def _punching_due(self, now: float) -> float:
        hopeless = self._talk.symmetric == 2 or self._direct is not None
        return self._trials.punching.due(self._flow.busy(now, _LATE), hopeless)

    def _tick_candidates(self, now: float) -> None:
        wanted = self._trials.rivals(self._direct) and now >= self._punching_due(now)
        if wanted and self._trials.punching.begin(now):
            self._say(now, punch=True)
        self._trials.tick(now, self._direct)

    def _ping(self, now: float, candidate: Candidate) -> None:
        self._trials.ping(now, candidate, self._direct)

    # --- the relay ----------------------------------------------------------------------------------------------------

    def _tick_relay(self, now: float) -> None:
        name, can_wait = self._choice.choose(now, self._via, self._views.values(), self._talk.theirs)
        follows = self._talk.key and not self._leader  # it is the leader who improves what works
        if name != self._via and not (can_wait and (follows or self._flow.busy(now, _IDLE))):
            self._note(f"now over relay {name}, no longer over {self._via}")
            self._go_relay(now, name)
            self._moved(now)
            self._say(now, answer=True)
        if self._flow.silent(now):
            self._suspect(now)
        if self._talk.key and self._flow.unanswered(now) >= _CHECK_AFTER and self._doubts.due(now):
            self._check(now)

    def _go_relay(self, now: float, name: str) -> None:
        self._before, self._via = self._via, name

    def _suspect(self, now: float) -> None:
        if self._doubts.suspect(now):
            self.outbox.append(Suspect(self._via))

    def _check(self, now: float) -> None:
        """No data comes: ask the other itself, in the tunnel, and when it does not answer, do without this path."""
        view = self._views[self._via]
        if self._doubts.ask(now):
            self._say(now, answer=True)
        elif self._direct:
            self._trials.penalize(self._direct)
            self._leave(now, self._direct, "probes pass, data does not")
        elif view.alive and view.other_seen and self._doubts.demand(now):
            self._sessions.demand(now, self._via)

    # --- what happened ------------------------------------------------------------------------------------------------

    def control(self, now: float, message: Message) -> None:
        """The other's agent said something, in the tunnel, from its overlay address."""
        fresh = self._talk.hear(now, message)
        self._trials.full = self._talk.full
        if fresh:
            self._window = Window()
            self._candidates.forget()
            self._watch = Watch(now, self._leader)
        self._doubts.answered(now)
        new = self._tell()
        if fresh or new:
            self._trials.punching.reset()
        if message.answer:
            self._say(now)
        if message.punch and self._trials.rivals(self._direct):
            self._trials.punching.begin(now)
        if message.left and self._direct:
            self._watch.suspect(now, self._direct.rtt, firm=True)

    def _tell(self) -> bool:
        seen = list(dict.fromkeys(view.other_seen for view in self._views.values() if view.other_seen))
        return self._candidates.tell([*seen[:MOST_SEEN], *self._talk.candidates])

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
        candidate = self._candidates.reflect(source, keep=self._direct)
        if candidate is None:
            return
        self._talk.lives(now)
        if probe.in_use:
            candidate.claimed = probe.number
            if candidate is self._direct:
                self._watch.asked(now)
            self._claimed(now, candidate)
        elif candidate is self._direct and candidate.claimed is not None and probe.number > candidate.claimed:
            self._left_behind(now, candidate)
        pong = Probe(PONG, probe.number, self._trials.uses(candidate, self._direct), probe.full)
        self.outbox.append(Send(source, pong, True))
        self._trials.reply(now, candidate, self._direct)

    def _claimed(self, now: float, candidate: Candidate) -> None:
        """The other uses this path, or the leader wants to."""
        if candidate is self._direct or self._endpoint is None:
            return
        if self._leader:
            if candidate is self._trials.nominee:
                self._go_direct(now, candidate)
        elif self._trials.proven(now, candidate):
            self._go_direct(now, candidate)
        else:
            self._trials.nominate(now, candidate, self._direct)

    def _ponged(self, now: float, probe: Probe, source: Endpoint) -> None:
        ping = self._candidates.pong(now, probe.number, source)
        if ping is None:
            return
        self._talk.lives(now)
        candidate = ping.candidate
        if candidate is self._direct:
            if ping.in_use and not probe.in_use and self._trials.nominee is None:
                self._left_behind(now, candidate)
                return
            self._watch.answered(now)
            self._flow.calm(now)
        elif candidate is self._trials.nominee and (
            probe.in_use if self._leader else self._trials.proven(now, candidate)
        ):
            self._go_direct(now, candidate)

    def traffic(self, now: float, sent: Bytes, came: Bytes, endpoint: Endpoint | None, handshake: int) -> None:
        """The [Peer] as it runs: bytes, endpoint, and the time of the last handshake as WireGuard tells it. The first
        call tells which path runs already: it is kept as long as it works."""
        chosen = self._endpoint or self._adopt(endpoint)
        via = self._ways.get(endpoint, "") if endpoint else ""
        heard = self._flow.sample(now, sent, came, handshake, endpoint == chosen)
        self._sessions.sample(handshake, via, heard)
        if heard:
            self._talk.online(now)
        if endpoint == chosen:
            if heard:
                self._watch.flowed()
                self._doubts.flowed()
        elif not self._believe(now, endpoint, via, heard):
            self.outbox.append(SetEndpoint(chosen, _HOLD if self._direct else 0.0))

    def _adopt(self, endpoint: Endpoint | None) -> Endpoint:
        if endpoint in self._ways:
            self._via = self._ways[endpoint]
            self._endpoint = endpoint
        elif endpoint is not None:
            self._direct = self._candidates.reflect(endpoint, None)
        if self._direct:
            self._endpoint = endpoint
        return self._set()

    def _believe(self, now: float, endpoint: Endpoint | None, via: str, heard: bool) -> bool:
        """WireGuard has followed a packet of the other's: return whether to leave it there for now."""
        if self._direct:
            if via and now - self._watch.answered_at > _TICK * 5:
                # The other sends over a relay: it has left, or the packet was late.
                self._watch.suspect(now, self._direct.rtt, firm=True)
                return True
            return bool(self._trials.nominee and endpoint == self._trials.nominee.endpoint)
        if via and via != self._via and self._views[via].alive and heard:
            if via == self._before and now - self._since < _LATE:
                return False
            self._note(f"now over relay {via}, with the other, no longer over {self._via}")
            self._go_relay(now, via)
            self._endpoint = endpoint
            self._moved(now)
            return True
        return bool(self._trials.nominee and endpoint == self._trials.nominee.endpoint)

    def relay(self, now: float, view: View) -> None:
        """A relay is alive, or dead, or reached in another way, or sees another address: call it for each change."""
        before = self._views[view.name]
        self._views[view.name] = view
        self._reached(view)
        if view.seen != before.seen:
            self._talk.changed(now)
        if view.other_seen != before.other_seen and self._talk.key and self._tell():
            self._trials.punching.reset()
        if self._endpoint is not None and self._direct is None and view.name == self._via:
            self._set()

    def _reached(self, view: View) -> None:
        """Remember this way to the relay, with the few before: WireGuard may be there still. A fallback has a new one
        each time."""
        self._ways.pop(view.endpoint, None)
        self._ways[view.endpoint] = view.name
        for endpoint in [endpoint for endpoint, name in self._ways.items() if name == view.name][:-_MOST_WAYS]:
            del self._ways[endpoint]

    def network(self, now: float, endpoints: Iterable[Endpoint], networks: Iterable[Network]) -> None:
        """This device's own addresses with WireGuard's port (and the endpoints that the settings state), and the
        networks that it is in. Call it at the start, and when they change: a path from an address that is gone is left
        at once."""
        self._candidates.classify(networks)
        first = not self._talk.own
        if not self._talk.move(now, endpoints):
            return
        before, self._hosts = self._hosts, frozenset(endpoint.host for endpoint in self._talk.own)
        if first:
            return
        self._renew(now)
        if self._direct and self._direct.local in before - self._hosts:
            self._leave(now, self._direct, f"the address {self._direct.local} is gone", alone=True)

    def stop(self, now: float) -> None:
        """The agent ends, maybe to start again at once: tell the other, and leave the path as it is."""
        self._say(now, bye=True)

    # --- for others to read -------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The path in use, for the status."""
        agent = self._talk.key is not None
        if self._direct:
            direct = self._direct
            return Path(direct.kind, "", direct.endpoint, self._since, direct.rtt, "", agent, self._changes)
        view = self._views[self._via]
        reason = why_not(view, self._views.values(), self._talk, self._candidates)
        return Path(view.kind, view.name, view.endpoint, self._since, view.rtt, reason, agent, self._changes)

    def _say(self, now: float, **flags: bool) -> None:
        self._talk.say(now, self._views.values(), **flags)

    def _note(self, text: str, level: int = logging.INFO) -> None:
        self.outbox.append(Note(text, level))
