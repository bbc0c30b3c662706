# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What agents send each other, and what they read and tell on their own device."""

from __future__ import annotations

import json
import struct

from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import AgentError, parse
from peer_agent import settings
from peer_agent.endpoints import Endpoint
from peer_agent.wire.control import Message, MessageError, decode, encode
from peer_agent.wire.probes import PING, PONG, Key, Probe
from peer_agent.wireguard import netlink, uapi
from peer_agent.wireguard.interface import Malformed
from peer_common.toml_table import SettingsError

from targets.disk import file
from targets.target import JSON_WORDS, TOML_WORDS, Target

AGENT_KEYS = [Key(bytes(32), bytes(range(32)), leader) for leader in (True, False)]
AGENT_PROBES = [AGENT_KEYS[1].seal(Probe(kind, 2**40, in_use)) for kind in (PING, PONG) for in_use in (True, False)]
AGENT_MESSAGE = encode(Message(bytes(32), (Endpoint("192.0.2.1", 1),), {"relay": 0.02}, *[True] * 5))


def agent_probe(data: bytes) -> None:
    probe = AGENT_KEYS[0].unseal(data)
    assert probe is None or data == AGENT_KEYS[1].seal(probe)


def agent_message(data: bytes) -> None:
    message = decode(data)
    assert decode(encode(message)).candidates == message.candidates


PEER_PATH = {
    "name": "nas",
    "addresses": ["10.77.1.2"],
    "path": "relay",
    "via": "relay",
    "since": 1.5,
    "why_not": "proving",
    "why_not_text": "wait",
}
AGENT_STATUS = {"updated": 1, "problems": ["a"], "relays": [{"name": "a", "fallback": True}], "peers": [PEER_PATH]}

AGENT_SETTINGS = b"""[agent]
addresses = ["10.77.1.1", "fd77::1:1"]
networks = ["10.77.0.0/16", "fd77::/64"]
endpoints = ["home.example:51820", "[2001:db8::7]:51820"]
[[relay]]
name = "relay"
public_key = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
addresses = ["10.77.0.1"]
endpoints = ["192.0.2.1:40000"]
fallback_url = "wss://192.0.2.1:443/"
[[peer]]
name = "nas"
public_key = "AgIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
addresses = ["10.77.1.2"]
"""


def agent_settings(data: bytes) -> None:
    settings.load(file("pr0.toml", data))


# What wireguard-go and the kernel say of an interface with one peer.
UAPI = (
    f"private_key={'5e' * 32}\nlisten_port=51820\nfwmark=28786\npublic_key={'01' * 32}\npreshared_key={'0' * 64}\n"
    "endpoint=[2001:db8::2]:40000\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=148\n"
    "rx_bytes=92\npersistent_keepalive_interval=25\nallowed_ip=10.77.0.1/32\nallowed_ip=fd77::1/128\n"
)


def _netlink_peer() -> bytes:
    attribute = netlink.attribute
    allowed = attribute(1, struct.pack("=H", 2)) + attribute(2, bytes([10, 77, 0, 1])) + attribute(3, b"\x20")
    return (
        attribute(1, bytes(32))
        + attribute(4, netlink.sockaddr(Endpoint("192.0.2.1", 40000)))
        + attribute(5, struct.pack("=H", 25))
        + attribute(6, struct.pack("=qq", 1_700_000_000, 5))
        + attribute(7, struct.pack("=Q", 92))
        + attribute(9, attribute(0, allowed))
    )


NETLINK = netlink.attribute(6, struct.pack("=H", 51820)) + netlink.attribute(8, netlink.attribute(0, _netlink_peer()))


def agent_uapi(data: bytes) -> None:
    uapi.parse(data.decode(errors="replace"))


def agent_netlink(data: bytes) -> None:
    netlink.parse([data, data])


TARGETS = {
    "agent_probe": Target(agent_probe, (), AGENT_PROBES),
    "agent_message": Target(agent_message, (MessageError,), [AGENT_MESSAGE], [b'"[::1]:1"', *JSON_WORDS]),
    "agent_settings": Target(agent_settings, (SettingsError,), [AGENT_SETTINGS], TOML_WORDS),
    "agent_uapi": Target(agent_uapi, (Malformed,), [UAPI.encode()], [b"public_key=", b"endpoint=", b"\n", b"=", b"-1"]),
    "agent_netlink": Target(agent_netlink, (Malformed,), [NETLINK]),
    "agent_status": Target(parse, (AgentError,), [json.dumps(AGENT_STATUS).encode()], JSON_WORDS),
}
