# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from peer_relay.status import doctor as status_doctor


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 36000
        else f"{seconds / 3600:.0f} h"
    )


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def status(document: dict[str, Any], each_pair: bool = False) -> str:
    """Return what a person wants to see: totals, what is not well, the devices; and each pair where asked for."""
    head = (
        f"{document['name']}: {document['data_plane']} data plane on {', '.join(document['listen'])}, "
        f"up {_age(document['uptime_seconds'])}, version {document['version']}"
    )
    if document["data_plane_wanted"] != "userspace" and document["data_plane_reason"]:
        head += f"\nnot the kernel's, since {document['data_plane_reason']}"
    parts = [head, *(f"problem: {problem}" for problem in document["problems"])]
    found = status_doctor.traffic(document)
    parts += [f"not well: {finding.subject}: {finding.problem}" for finding in found]
    if found:
        parts.append("peer-relay doctor says what to do")
    if document["edge"] is not None:
        parts.append(_edge(document["edge"]))
    parts += [f"\n{_totals(document)}", _devices(document)]
    if each_pair and document["pairs"]:
        parts.append("\n" + _pairs(document))
    probes = [(probe["source"], _age(probe["age_seconds"])) for probe in document["probes"]]
    if probes:
        parts.append("\n" + _table(("probe answered", "age"), probes))
    drops = [(reason, str(count["packets"]), _size(count["bytes"])) for reason, count in document["drops"].items()]
    if drops:
        parts.append("\n" + _table(("not forwarded", "packets", "bytes"), drops))
    return "\n".join(parts)


def _totals(document: dict[str, Any]) -> str:
    devices = Counter(device["state"] for device in document["devices"])
    pairs = document["pairs"]
    lines = [
        f"devices: {', '.join(f'{devices[state]} {state}' for state in ('bound', 'handshaking', 'absent'))}",
        f"pairs: {document['pairs_total']}, {sum(pair['state'] == 'up' for pair in pairs)} of them up, "
        f"{_size(sum(pair['bytes'] for pair in pairs))} forwarded (--pairs shows each)",
    ]
    if document["kernel"]:
        up = Counter(_by(pair) for pair in pairs if pair["state"] == "up")
        lines += [f"{count} up by {by}" for by, count in sorted(up.items())]
    return "\n".join(lines)


def _by(pair: dict[str, Any]) -> str:
    return pair["plane"] + (f" ({pair['why_userspace']})" if pair["why_userspace"] else "")


def _devices(document: dict[str, Any]) -> str:
    rows = [
        (
            device["name"],
            device["state"],
            device["endpoint"] or "-",
            _age(device["last_seen_seconds"]),
            _size(device["rx_bytes"]),
            _size(device["tx_bytes"]),
        )
        for device in document["devices"]
    ]
    return _table(("device", "state", "endpoint", "last seen", "received", "sent"), rows)


def _pairs(document: dict[str, Any]) -> str:
    rows = [
        (
            f"{pair['from']} -> {pair['to']}",
            pair["state"],
            _age(pair["last_packet_seconds"]),
            _size(pair["bytes"]),
            _by(pair) if document["kernel"] else pair["plane"],
        )
        for pair in document["pairs"]
    ]
    return _table(("pair", "state", "last packet", "forwarded", "by"), rows)


def _edge(edge: dict[str, Any]) -> str:
    router = f"{edge['router']['address']} ({edge['router']['method']})" if edge["router"] else "none found"
    address = edge["external_address"] or "unknown"
    rows = [
        (
            f"{mapping['external_address'] or address} {mapping['external_port']}/{mapping['protocol']}",
            mapping["name"],
            mapping["state"],
            "-" if mapping["expires"] is None else _age(max(0.0, mapping["expires"] - edge["updated"])),
            str(mapping["restores"]),
        )
        for mapping in edge["mappings"]
    ]
    head = f"router: {router}, external address {address}, {edge['nat']}, as of {_age(edge['age_seconds'])} ago"
    problems = [f"problem: {problem}" for problem in edge["problems"]]
    return "\n".join(("\n" + head, *problems, _table(("open outside", "mapping", "state", "lease", "restored"), rows)))
