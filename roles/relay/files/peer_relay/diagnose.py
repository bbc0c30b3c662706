# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What doctor finds: a pure reading of the status document. Each finding says what is wrong and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_RECENT = 300.0  # seconds; older attempts are history
_IPV4 = re.compile(r"[0-9]+(?:\.[0-9]+){3}")


class Finding(NamedTuple):
    """One problem: whom it concerns, what is wrong, what to do."""

    subject: str
    problem: str
    cure: str


def findings(status: dict[str, Any]) -> list[Finding]:
    """Return all findings, the relay's own first, then the router's, then each device's, then each pair's."""
    return [*_relay(status), *_router(status), *_devices(status), *_pairs(status)]


def remarks(status: dict[str, Any]) -> list[str]:
    """Return what is as it was asked for, and may yet surprise."""
    if status["data_plane_wanted"] == "auto" and status["data_plane_reason"]:
        return [f"userspace forwards, not the kernel: {status['data_plane_reason']}"]
    return []


def _recent(age: float | None, within: float = _RECENT) -> bool:
    return age is not None and age < within


def _split(subject: str, problem: str) -> Finding:
    text, _, cure = problem.rpartition(": ")
    return Finding(subject, text or problem, cure)


def _port(status: dict[str, Any]) -> str:
    return status["listen"][0].rpartition(":")[2] if status["listen"] else "?"


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
        explanation, _, cure = edge["explanation"].partition(". ")
        yield Finding("router", explanation, cure)
    for mapping in edge["mappings"]:
        name = f"port {mapping['external_port']}/{mapping['protocol']} ({mapping['name']}, IPv{mapping['family']})"
        if mapping["problem"] == edge["explanation"]:
            continue  # told already
        if mapping["problem"]:
            yield _split(name, mapping["problem"])
        elif mapping["state"] != "mapped":
            yield Finding(name, "the router has not answered yet", "look again in a minute")
    host = (status["endpoint"] or "").rpartition(":")[0]
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


def _devices(status: dict[str, Any]) -> Iterator[Finding]:
    port = _port(status)
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
            else:
                ages = (device["last_seen_seconds"], device["attempt_age_seconds"])
                yield Finding(
                    name,
                    f"silent for {min(age for age in ages if age is not None):.0f} s",
                    "is it switched off, or without PersistentKeepalive = 25 on its relay peer?",
                )
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
                "set its clock right (NTP; fake-hwclock on a board without a clock); "
                "if it is right, somebody replays captured packets, which does no harm",
            )
        if drops.get("rate_limited"):
            yield Finding(
                name,
                f"{drops['rate_limited']} packets over its rate limit of {device['rate_limit_mbit']:g} Mbit/s",
                "raise rate_limit_mbit if that is too little",
            )
        if drops.get("inner_source"):
            yield Finding(
                name,
                "it sends to the relay from an overlay address that is not its own",
                f"its interface must have {', '.join(device['addresses'])}",
            )


def _pairs(status: dict[str, Any]) -> Iterator[Finding]:
    states = {device["name"]: device["state"] for device in status["devices"]}
    for pair in status["pairs"]:
        source, peer = pair["from"], pair["to"]
        subject = f"{source} -> {peer}"
        if pair["state"] == "up" or not _recent(pair["last_initiation_seconds"]):
            continue
        if states[peer] != "bound":
            yield Finding(
                subject, f"{source} asks for {peer}, which is not connected to the relay", f"see {peer} above"
            )
        elif pair["responses"] == 0:
            yield Finding(
                subject,
                f"initiations arrive, {peer} never answers",
                f"its peer entry for {source} is missing, has another key, or does not point at the relay",
            )
        else:
            yield Finding(
                subject,
                f"{peer} answered once and does not any more",
                f"was its key for {source} changed, or its interface restarted without that peer?",
            )
