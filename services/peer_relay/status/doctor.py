# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What doctor finds: a pure reading of the status document. Each finding says what is wrong and what to do."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from peer_common import endpoints

_OFTEN = 10  # what happens now and then to a device that moves needs no fixing
_RECENT = 300.0  # seconds; older attempts are history
_EXPIRES_SOON = 7 * 86400.0  # seconds
_NAMED = 3  # of those that share a cause
_IPV4 = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


class Finding(NamedTuple):
    """One cause: whom it concerns, what is wrong, what to do."""

    subject: str
    problem: str
    fix: str

    def document(self) -> dict[str, str]:
        """Return it as JSON has it."""
        return {"subject": self.subject, "problem": self.problem, "cure": self.fix}


def findings(status: dict[str, Any]) -> list[Finding]:
    """Return all findings, the relay's own first, then the router's, then the devices', then the pairs'."""
    return [*_relay(status), *_router(status), *_expiring(status), *traffic(status)]


def traffic(status: dict[str, Any]) -> list[Finding]:
    """Return what is wrong with devices and pairs, one finding for all that share a cause."""
    return [*_together(_devices(status)), *_pairs(status)]


def remarks(status: dict[str, Any]) -> list[str]:
    """Return what is as it was asked for, and may yet surprise."""
    result = []
    if status["data_plane_wanted"] == "auto" and status["data_plane_reason"]:
        result.append(f"userspace forwards, not the kernel: {status['data_plane_reason']}")
    edge = status["edge"] or {"router_oddities": []}
    for oddity in edge["router_oddities"]:
        result.append(f"the router {edge['router_model']} {oddity}, and is understood all the same".replace("  ", " "))
    return result


def _recent(age: float | None, within: float = _RECENT) -> bool:
    return age is not None and age < within


def _split(subject: str, problem: str) -> Finding:
    text, _, fix = problem.rpartition(": ")
    return Finding(subject, text or problem, fix)


def _names(names: Collection[str]) -> str:
    """Return the first few, and how many there are beside them."""
    first, more = list(names)[:_NAMED], len(names) - _NAMED
    return f"{', '.join(first)} and {more} more" if more > 0 else ", ".join(first)


def _together(found: Iterator[Finding]) -> Iterator[Finding]:
    """Say once what is wrong with several."""
    subjects: dict[tuple[str, str], list[str]] = {}
    for subject, problem, fix in found:
        subjects.setdefault((problem, fix), []).append(subject)
    for (problem, fix), names in subjects.items():
        yield Finding(_names(names), problem, fix)


def _port(status: dict[str, Any]) -> str:
    return str(endpoints.split(status["listen"][0])[1]) if status["listen"] else "?"


def _relay(status: dict[str, Any]) -> Iterator[Finding]:
    for problem in status["problems"]:
        yield _split("relay", problem)
    for stranger in status["unknown_devices"]:
        if _recent(stranger["last_seen_seconds"]):
            yield Finding(
                "relay",
                f"a device with public key {stranger['public_key']} asks for a handshake and is not registered",
                "add it to the inventory, or correct the key of the device that it is",
            )
    kernel = status["kernel"]
    if kernel and kernel["refusals"].get("table_full"):
        yield Finding(
            "relay",
            f"the kernel's table of {kernel['size']} entries is full, userspace forwards what has no room there",
            "share the devices among several relays",
        )
    if status["drops"].get("send_buffer_full", {}).get("packets"):
        yield Finding(
            "relay",
            "its send buffer was full and packets were lost",
            "raise net.core.wmem_max (role variable relay_socket_buffer)",
        )


def _router(status: dict[str, Any]) -> Iterator[Finding]:
    edge = status["edge"]
    if edge is None:
        return
    for problem in edge["problems"]:
        yield _split("router", problem)
    if edge["nat"] not in ("public", "unknown"):
        explanation, _, fix = edge["explanation"].partition(". ")
        yield Finding("router", explanation, fix)
    for mapping in edge["mappings"]:
        name = f"port {mapping['external_port']}/{mapping['protocol']} ({mapping['name']}, IPv{mapping['family']})"
        if mapping["problem"] == edge["explanation"]:
            continue  # told already
        if mapping["problem"]:
            yield _split(name, mapping["problem"])
        elif mapping["state"] != "mapped":
            yield Finding(name, "the router has not answered yet", "look again in a minute")
    host = endpoints.split(status["endpoint"])[0] if status["endpoint"] else ""
    if _IPV4.fullmatch(host) and _IPV4.fullmatch(edge["external_address"]) and host != edge["external_address"]:
        yield Finding(
            "router",
            f"its external address is {edge['external_address']}, but the devices know {host}",
            "run the playbook site again, or set relay_endpoint to a name that follows the address (dynamic DNS)",
        )
    elif edge["address_changes"] and _recent(edge["address_age_seconds"]):
        yield Finding(
            "router",
            f"its external address has become {edge['external_address']}, {edge['address_age_seconds']:.0f} s ago",
            "do the devices know it? Their endpoint should be a name that follows the address (dynamic DNS)",
        )


_SILENT_FIX = "is it switched off, or without PersistentKeepalive = 25 on its relay peer?"


def _expiring(status: dict[str, Any]) -> Iterator[Finding]:
    for device in status["expiring"]:
        left = device["left_seconds"]
        if left <= 0:
            yield Finding(
                device["name"],
                f"has expired on {device['expires']}, and is let in no more",
                "take it out of the inventory or give it another peer_expires, and run site",
            )
        elif left < _EXPIRES_SOON:
            yield Finding(
                device["name"],
                f"expires in {left / 86400:.1f} days, on {device['expires']}",
                "nothing, or give it another peer_expires and run site",
            )


def _silence(device: dict[str, Any]) -> float | None:
    """Return for how long an absent device has been silent; None where it never was heard, or speaks to others."""
    ages = [age for age in (device["last_seen_seconds"], device["attempt_age_seconds"]) if age is not None]
    return None if not ages or _recent(device["last_seen_seconds"], within=60) else min(ages)


def _devices(status: dict[str, Any]) -> Iterator[Finding]:
    port = _port(status)
    silences = [_silence(device) for device in status["devices"] if device["state"] == "absent"]
    silent = [seconds for seconds in silences if seconds is not None]
    for device in status["devices"]:
        name = device["name"]
        drops = device["drops"]
        if device["state"] == "absent":
            if device["attempt_age_seconds"] is None and device["last_seen_seconds"] is None:
                yield Finding(
                    name,
                    "no handshake has ever arrived",
                    f"is the device on, and UDP {port} reachable from where it is? "
                    f"Does its relay peer carry key {status['public_key']}?",
                )
            elif _recent(device["last_seen_seconds"], within=60):
                yield Finding(
                    name,
                    "it sends to other devices, but has no session with the relay",
                    f"does its relay peer carry key {status['public_key']}, and PersistentKeepalive = 25?",
                )
            elif len(silent) <= _NAMED:
                yield Finding(name, f"silent for {_silence(device):.0f} s", _SILENT_FIX)
            else:
                yield Finding(name, f"silent, the longest for {max(silent):.0f} s", _SILENT_FIX)
        elif device["state"] == "handshaking":
            yield Finding(
                name,
                f"handshakes arrive from {device['attempt_endpoint']}, but the relay's answers do not reach it",
                "does a firewall let UDP out but not back in, or does the relay answer by another way "
                f"({', '.join(status['listen'])})?",
            )
        if device["refused_peer"] == "unknown":
            yield Finding(
                name,
                "it has a peer with a public key that no registered device has",
                "remove that peer, or register the device that has this key",
            )
        elif device["refused_peer"]:
            yield Finding(
                name,
                f"it tries to reach {device['refused_peer']}, with which it shares no group",
                "give both a common group (peer_groups), or remove the peer entry",
            )
        if drops.get("timestamp_replayed"):
            yield Finding(
                name,
                "handshakes of it are older than one seen before",
                "set its clock right (NTP; fake-hwclock on a board without a clock); if it is right, a copy of it uses "
                "its key on a host whose clock is behind, or somebody replays captured packets, which does no harm",
            )
        if drops.get("rate_limited"):
            yield Finding(
                name,
                f"{drops['rate_limited']} packets over its rate limit of {device['rate_limit_mbit']:g} Mbit/s",
                "raise rate_limit_mbit if that is too little",
            )
        if device["key_used_at"]:
            yield Finding(
                name,
                f"two hosts use its key, at {' and '.join(device['key_used_at'])}, so each gets a part of its packets",
                "one is a copy of the other (a cloned disk): on the copy, remove the key file (/etc/wireguard/*.key) "
                "and run the playbook site, with a name of its own in the inventory; it makes a new key",
            )
        if drops.get("address_unproven", 0) >= _OFTEN:
            yield Finding(
                name,
                "messages of it come from where another device or a relay is",
                "it gets that address once it has answered there; if it is not about to change its address, "
                "somebody forges sources with its key, and takes nobody's place",
            )
        if drops.get("moves_limited", 0) >= _OFTEN and not device["key_used_at"]:
            yield Finding(
                name,
                "it changes its address more often than every 5 s, and is reached where it was meanwhile",
                "does its router give each packet another port, or do two of its interfaces take turns?",
            )
        if drops.get("pair_limited", 0) >= _OFTEN:
            yield Finding(
                name,
                f"{drops['pair_limited']} handshake messages more than WireGuard sends",
                "is it in the right hands? If so, somebody forges its address, and can slow down its new sessions only",
            )
        if drops.get("inner_source"):
            yield Finding(
                name,
                "it sends to the relay from an overlay address that is not its own",
                f"its interface must have {', '.join(device['addresses'])}",
            )


class _Asked(NamedTuple):
    """A pair whose one side asks for the other in vain, and why."""

    source: str
    peer: str
    kind: str


def _pairs(status: dict[str, Any]) -> Iterator[Finding]:
    """Group by the end that most of them share: its configuration is the cause."""
    asked = list(_asked_in_vain(status))
    sources, peers = (Counter((getattr(pair, end), pair.kind) for pair in asked) for end in ("source", "peer"))
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for pair in asked:
        by_peer = pair.kind == "absent" or peers[pair.peer, pair.kind] >= sources[pair.source, pair.kind]
        one, other = (pair.peer, pair.source) if by_peer else (pair.source, pair.peer)
        groups.setdefault((one, pair.kind, by_peer), []).append(other)
    for (one, kind, by_peer), others in groups.items():
        many = _names(others)
        if by_peer:
            yield _unanswered(many, one, kind, len(others) > 1)
        else:
            problem = "never answer" if kind == "never" else "answered once and do not any more"
            fix = f"does {one} have the key that they know, and the relay as the endpoint of each?"
            yield Finding(f"{one} -> {many}", f"{many} {problem}", fix)


def _unanswered(sources: str, peer: str, kind: str, several: bool) -> Finding:
    subject = f"{sources} -> {peer}"
    if kind == "absent":
        ask = "ask" if several else "asks"
        return Finding(subject, f"{sources} {ask} for {peer}, which is not connected to the relay", f"see {peer} above")
    if kind == "never":
        entry = "entries for {} are missing, have" if several else "entry for {} is missing, has"
        point = "do not point" if several else "does not point"
        return Finding(
            subject,
            f"initiations arrive, {peer} never answers",
            f"its peer {entry.format(sources)} another key, or {point} at the relay",
        )
    return Finding(
        subject,
        f"{peer} answered once and does not any more",
        f"was its key for {sources} changed, or its interface restarted without that peer?",
    )


def _asked_in_vain(status: dict[str, Any]) -> Iterator[_Asked]:
    """Find the pairs whose latest initiation has no answer. One that was answered, and is not used since, is well."""
    states = {device["name"]: device["state"] for device in status["devices"]}
    answered = {(pair["from"], pair["to"]): pair["last_response_seconds"] for pair in status["pairs"]}
    for pair in status["pairs"]:
        source, peer, asked = pair["from"], pair["to"], pair["last_initiation_seconds"]
        # Where two ask each other, one answer serves both.
        answers = (answered[source, peer], answered.get((peer, source)))
        if pair["state"] == "up" or not _recent(asked) or any(age is not None and age <= asked for age in answers):
            continue
        if states.get(peer) != "bound":
            yield _Asked(source, peer, "absent")
        else:
            yield _Asked(source, peer, "never" if pair["responses"] == 0 else "once")
