# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a device is not reached by a better path. Status, metrics and the module path_info speak these names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from peer_agent.core.candidates import Candidates
from peer_agent.core.paths import FALLBACK, RelayView
from peer_agent.core.signaling import Signaling


class Reason(NamedTuple):
    """What the name means, and what to do about it."""

    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.text}: {self.fix}"


UNCHANGEABLE = "peers_unchangeable"
REASONS = {
    # On a relay, for want of a direct path.
    "other_has_no_agent": Reason(
        "no agent of the other device has answered, so nothing tells where it is",
        "see there that the service peer-agent runs; a device that cannot run it stays on the relay",
    ),
    "no_candidates": Reason(
        "the other device's agent tells of no address outside the tunnel, and no relay sees it over UDP",
        "let UDP to a relay's port out at its site",
    ),
    "proving": Reason(
        "a direct path has been found and is on trial", "wait; one that came and went is tried for a minute"
    ),
    "narrow_path": Reason(
        "small packets reach the other device directly, but those of full size get lost without a word",
        "lower peer_mtu of both devices (1280 fits everywhere), or mend the network in between",
    ),
    "symmetric_nat": Reason(
        "the routers of both sites use another port for each destination, so neither side can be met there",
        "open a port at one of the sites: the role port_forward does",
    ),
    "one_symmetric_nat": Reason(
        "one site's router uses another port for each destination, and the other's lets in only what was sent to",
        "open a port at one of the sites: the role port_forward does, or state one in peer_endpoints",
    ),
    "no_answer": Reason(
        "no probe is answered: a firewall, or a router with another port for each destination",
        "let UDP to WireGuard's port through the firewall of one of the sites, or open a port there: role port_forward",
    ),
    # For all devices, whichever path they are on.
    UNCHANGEABLE: Reason(
        "this device's WireGuard takes no change of a [Peer], so the agent leaves every device on the path that it has",
        "use the kernel's WireGuard or wireguard-go, or set peer_agent: false",
    ),
    # On the fallback.
    "blocked_udp": Reason(
        "no relay answers over UDP, so packets go over TLS",
        "let UDP to the relays' ports out; the agent tries it again every 5 s",
    ),
    # Nowhere.
    "no_relay_answers": Reason(
        "no relay answers, and none has a fallback",
        "see that a relay runs and this device is online; peer-relay doctor",
    ),
    "certificate_refused": Reason(
        "no relay answers over UDP, and the certificate of its fallback is neither pinned nor trusted",
        "if it is new, run the playbook, or have this device trust its authority; if not, somebody stands between",
    ),
    "fallback_failed": Reason(
        "no relay answers over UDP, and its fallback cannot be opened", "see the problems in this status for the cause"
    ),
}
NO_PATH = frozenset(("no_relay_answers", "certificate_refused", "fallback_failed"))


def why_not(view: RelayView, views: Iterable[RelayView], signaling: Signaling, candidates: Candidates) -> str:
    """Return the reason that a pair which takes this relay has no better path."""
    if not view.alive:
        # Of several, the certificate is what somebody has to look at.
        return min((view.failure for view in views if view.failure), default="no_relay_answers")
    if view.kind == FALLBACK:
        return "blocked_udp"
    if not signaling.key:
        return "other_has_no_agent"
    if not len(candidates):
        return "no_candidates"
    if any(candidate.narrow for candidate in candidates):
        return "narrow_path"
    if any(candidate.streak for candidate in candidates):
        return "proving"
    return ("no_answer", "one_symmetric_nat", "symmetric_nat")[signaling.symmetric_nats]


class Failure(NamedTuple):
    """Why a fallback could not be opened, or has ended."""

    reason: str
    text: str

    def __str__(self) -> str:
        return self.text
