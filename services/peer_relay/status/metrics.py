# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The status document in Prometheus' text form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MOST_PAIRS = 2000  # that have time series of their own

_DEVICE_COUNTERS = {
    "rx_packets": ("peer_relay_device_received_packets", "Packets received from the device"),
    "rx_bytes": ("peer_relay_device_received_bytes", "Bytes received from the device"),
    "tx_packets": ("peer_relay_device_sent_packets", "Packets sent to the device"),
    "tx_bytes": ("peer_relay_device_sent_bytes", "Bytes sent to the device"),
}


_EDGE_COUNTERS = {
    "renewals": ("peer_relay_edge_mapping_renewals", "Renewals of the mapping in the router"),
    "restores": ("peer_relay_edge_mapping_restores", "Losses of the mapping that were made good"),
}


def exposition(status: dict[str, Any]) -> bytes:
    """Return the metrics of a status document."""
    # Imported here: the library costs memory that only those who scrape should spend.
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(status))
    return generate_latest(registry)


class _Collector:
    def __init__(self, status: dict[str, Any]):
        self._status = status

    def collect(self) -> Iterator[Any]:
        return _families(self._status)


def _families(status: dict[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    info = GaugeMetricFamily("peer_relay_info", "Version and data plane", labels=["version", "data_plane", "name"])
    info.add_metric([status["version"], status["data_plane"], status["name"]], 1)
    yield info
    yield GaugeMetricFamily("peer_relay_healthy", "1 when the relay has no problem to report", int(status["healthy"]))
    yield GaugeMetricFamily("peer_relay_uptime_seconds", "Seconds since the start", status["uptime_seconds"])
    devices = status["devices"]
    bound = GaugeMetricFamily("peer_relay_device_bound", "1 when the device has proven its address", labels=["device"])
    seen = GaugeMetricFamily("peer_relay_device_last_seen_seconds", "Age of the last packet", labels=["device"])
    for device in devices:
        bound.add_metric([device["name"]], int(device["state"] == "bound"))
        if device["last_seen_seconds"] is not None:
            seen.add_metric([device["name"]], device["last_seen_seconds"])
    yield bound
    yield seen
    twins = GaugeMetricFamily("peer_relay_device_key_used_twice", "1 when two hosts use its key", labels=["device"])
    for device in devices:
        twins.add_metric([device["name"]], int(bool(device["key_used_at"])))
    yield twins
    for key, (name, text) in _DEVICE_COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=["device"])
        for device in devices:
            family.add_metric([device["name"]], device[key])
        yield family
    yield CounterMetricFamily(
        "peer_relay_probes_answered", "Reachability probes that were answered", value=status["probes_answered"]
    )
    device_drops = CounterMetricFamily(
        "peer_relay_device_dropped_packets",
        "Packets of the device that were not forwarded",
        labels=["device", "reason"],
    )
    for device in devices:
        for reason, count in device["drops"].items():
            device_drops.add_metric([device["name"], reason], count)
    yield device_drops
    yield from _kernel_families(status)
    yield GaugeMetricFamily("peer_relay_pairs", "Pairs that have asked for each other", status["pairs_total"])
    for key in ("packets", "bytes"):
        family = CounterMetricFamily(
            f"peer_relay_pair_{key}", f"Forwarded transport {key} of a pair", labels=["from", "to"]
        )
        for pair in _pairs(status):
            family.add_metric([pair["from"], pair["to"]], pair[key])
        yield family
        drops = CounterMetricFamily(f"peer_relay_dropped_{key}", f"Dropped {key} by reason", labels=["reason"])
        for reason, count in status["drops"].items():
            drops.add_metric([reason], count[key])
        yield drops
    if status["edge"] is not None:
        yield from _edge_families(status["edge"])


def _pairs(status: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pairs, where they are few enough for a monitoring system to keep three series of each."""
    return status["pairs"] if status["pairs_total"] <= MOST_PAIRS else []


def _kernel_families(status: dict[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    plane = GaugeMetricFamily("peer_relay_data_plane", "1 for the plane that forwards what it can", labels=["plane"])
    for name in ("kernel", "userspace"):
        plane.add_metric([name], int(status["data_plane"] == name))
    yield plane
    by_kernel = CounterMetricFamily(
        "peer_relay_pair_kernel_packets",
        "Those of the forwarded packets that the kernel forwarded",
        labels=["from", "to"],
    )
    for pair in _pairs(status):
        by_kernel.add_metric([pair["from"], pair["to"]], pair["kernel_packets"])
    yield by_kernel
    kernel = status["kernel"]
    if kernel is None:
        return
    yield GaugeMetricFamily("peer_relay_kernel_entries", "Entries of the kernel's table", kernel["entries"])
    yield GaugeMetricFamily("peer_relay_kernel_entries_limit", "Entries that it has room for", kernel["size"])
    refused = GaugeMetricFamily(
        "peer_relay_kernel_refused", "What userspace has to forward, by reason", labels=["reason"]
    )
    for reason, count in kernel["refusals"].items():
        refused.add_metric([reason], count)
    yield refused


def _edge_families(edge: dict[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    router = edge["router"] or {"address": "", "method": ""}
    info = GaugeMetricFamily(
        "peer_relay_edge_info", "The router", labels=["router", "method", "external_address", "nat"]
    )
    info.add_metric([router["address"], router["method"], edge["external_address"], edge["nat"]], 1)
    yield info
    yield GaugeMetricFamily("peer_relay_edge_up", "1 when the router answers", int(edge["router"] is not None))
    yield GaugeMetricFamily("peer_relay_edge_age_seconds", "Age of what is known of it", edge["age_seconds"])
    yield CounterMetricFamily(
        "peer_relay_edge_address_changes", "Changes of the external address", value=edge["address_changes"]
    )
    mapped = GaugeMetricFamily(
        "peer_relay_edge_mapping_up", "1 when the router has the port open", labels=["mapping", "family"]
    )
    for mapping in edge["mappings"]:
        mapped.add_metric([mapping["name"], str(mapping["family"])], int(mapping["state"] == "mapped"))
    yield mapped
    for key, (name, text) in _EDGE_COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=["mapping", "family"])
        for mapping in edge["mappings"]:
            family.add_metric([mapping["name"], str(mapping["family"])], mapping[key])
        yield family
