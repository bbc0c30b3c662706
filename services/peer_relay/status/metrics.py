# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from peer_common.exposition import COUNTER, GAUGE, Sample, family

MAX_PAIRS = 2000  # that have time series of their own

_DEVICE_COUNTERS = {
    "rx_packets": ("received_packets", "Packets received from the device"),
    "rx_bytes": ("received_bytes", "Bytes received from the device"),
    "tx_packets": ("sent_packets", "Packets sent to the device"),
    "tx_bytes": ("sent_bytes", "Bytes sent to the device"),
}
_EDGE_COUNTERS = {
    "renewals": "Renewals of the mapping in the router",
    "restores": "Losses of the mapping that were made good",
}


def exposition(status: dict[str, Any]) -> bytes:
    """Return the metrics of a status document."""
    return "".join(_families(status)).encode()


def _families(status: dict[str, Any]) -> Iterator[str]:
    info = {name: status[name] for name in ("version", "data_plane", "name")}
    yield from _family("peer_relay_info", GAUGE, "Version and data plane", [(info, 1)])
    healthy = int(status["healthy"])
    yield from _single("peer_relay_healthy", GAUGE, "1 when the relay has no problem to report", healthy)
    uptime = status["uptime_seconds"]
    yield from _single("peer_relay_uptime_seconds", GAUGE, "Seconds since the start", uptime)
    yield from _device_families([({"device": device["name"]}, device) for device in status["devices"]])
    ends = [({"device": device["name"]}, device["left_seconds"]) for device in status["expiring"]]
    yield from _family("peer_relay_device_expires_in_seconds", GAUGE, "Time until the device is let in no more", ends)
    probes = status["probes_answered"]
    yield from _single("peer_relay_probes_answered_total", COUNTER, "Reachability probes that were answered", probes)
    yield from _kernel_families(status)
    yield from _single("peer_relay_pairs", GAUGE, "Pairs that have asked for each other", status["pairs_total"])
    pairs = _pairs(status)
    for unit in ("packets", "bytes"):
        text = f"Forwarded transport {unit} of a pair"
        yield from _family(
            f"peer_relay_pair_{unit}_total", COUNTER, text, [(labels, pair[unit]) for labels, pair in pairs]
        )
        drops = [({"reason": reason}, count[unit]) for reason, count in status["drops"].items()]
        yield from _family(f"peer_relay_dropped_{unit}_total", COUNTER, f"Dropped {unit} by reason", drops)
    if status["edge"] is not None:
        yield from _edge_families(status["edge"])


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    # As the library of Prometheus wrote them up to 1.2.
    return family(name, kind, text, [(dict(sorted(labels.items())), float(value)) for labels, value in samples])


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    return _family(name, kind, text, [({}, value)])


def _device_families(devices: list[tuple[dict[str, str], dict[str, Any]]]) -> Iterator[str]:
    bound = [(labels, int(device["state"] == "bound")) for labels, device in devices]
    yield from _family("peer_relay_device_bound", GAUGE, "1 when the device has proven its address", bound)
    seen = [(labels, device["last_seen_seconds"]) for labels, device in devices]
    seen = [(labels, age) for labels, age in seen if age is not None]
    yield from _family("peer_relay_device_last_seen_seconds", GAUGE, "Age of the last packet", seen)
    twins = [(labels, int(bool(device["key_used_at"]))) for labels, device in devices]
    yield from _family("peer_relay_device_key_used_twice", GAUGE, "1 when two hosts use its key", twins)
    for key, (name, text) in _DEVICE_COUNTERS.items():
        counts = [(labels, device[key]) for labels, device in devices]
        yield from _family(f"peer_relay_device_{name}_total", COUNTER, text, counts)
    drops = [
        (labels | {"reason": reason}, count) for labels, device in devices for reason, count in device["drops"].items()
    ]
    text = "Packets of the device that were not forwarded"
    yield from _family("peer_relay_device_dropped_packets_total", COUNTER, text, drops)


def _pairs(status: dict[str, Any]) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Return the pairs, where they are few enough for a monitoring system to keep three series of each."""
    pairs = status["pairs"] if status["pairs_total"] <= MAX_PAIRS else []
    return [({"from": pair["from"], "to": pair["to"]}, pair) for pair in pairs]


def _kernel_families(status: dict[str, Any]) -> Iterator[str]:
    planes = [({"plane": name}, int(status["data_plane"] == name)) for name in ("kernel", "userspace")]
    yield from _family("peer_relay_data_plane", GAUGE, "1 for the plane that forwards what it can", planes)
    by_kernel = [(labels, pair["kernel_packets"]) for labels, pair in _pairs(status)]
    text = "Those of the forwarded packets that the kernel forwarded"
    yield from _family("peer_relay_pair_kernel_packets_total", COUNTER, text, by_kernel)
    kernel = status["kernel"]
    if kernel is None:
        return
    yield from _single("peer_relay_kernel_entries", GAUGE, "Entries of the kernel's table", kernel["entries"])
    yield from _single("peer_relay_kernel_entries_limit", GAUGE, "Entries that it has room for", kernel["size"])
    refused = [({"reason": reason}, count) for reason, count in kernel["refusals"].items()]
    yield from _family("peer_relay_kernel_refused", GAUGE, "What userspace has to forward, by reason", refused)


def _edge_families(edge: dict[str, Any]) -> Iterator[str]:
    router = edge["router"] or {"address": "", "method": ""}
    info = {"router": router["address"], "method": router["method"]}
    info |= {"external_address": edge["external_address"], "nat": edge["nat"]}
    yield from _family("peer_relay_edge_info", GAUGE, "The router", [(info, 1)])
    answers = int(edge["router"] is not None)
    yield from _single("peer_relay_edge_up", GAUGE, "1 when the router answers", answers)
    yield from _single("peer_relay_edge_age_seconds", GAUGE, "Age of what is known of it", edge["age_seconds"])
    changes = edge["address_changes"]
    yield from _single("peer_relay_edge_address_changes_total", COUNTER, "Changes of the external address", changes)
    mappings = [
        ({"mapping": mapping["name"], "family": str(mapping["family"])}, mapping) for mapping in edge["mappings"]
    ]
    mapped = [(labels, int(mapping["state"] == "mapped")) for labels, mapping in mappings]
    yield from _family("peer_relay_edge_mapping_up", GAUGE, "1 when the router has the port open", mapped)
    for key, text in _EDGE_COUNTERS.items():
        counts = [(labels, mapping[key]) for labels, mapping in mappings]
        yield from _family(f"peer_relay_edge_mapping_{key}_total", COUNTER, text, counts)
