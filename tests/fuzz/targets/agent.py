# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What agents send each other, and tell on their own device."""

from __future__ import annotations

import json

from ansible_collections.homelab.peer_relay.plugins.module_utils.agent_status import AgentError, parse
from peer_agent.control import Message, MessageError, decode, encode
from peer_agent.endpoints import Endpoint
from peer_agent.probes import PING, PONG, Key, Probe

from targets.target import JSON_WORDS, Target

AGENT_KEYS = [Key(bytes(32), bytes(range(32)), leader) for leader in (True, False)]
AGENT_PROBES = [AGENT_KEYS[1].seal(Probe(kind, 2**40, in_use)) for kind in (PING, PONG) for in_use in (True, False)]
AGENT_MESSAGE = encode(Message(bytes(32), (Endpoint("192.0.2.1", 1),), {"relay": 0.02}, *[True] * 5))


def agent_probe(data: bytes) -> None:
    probe = AGENT_KEYS[0].open(data)
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

TARGETS = {
    "agent_probe": Target(agent_probe, (), AGENT_PROBES),
    "agent_message": Target(agent_message, (MessageError,), [AGENT_MESSAGE], [b'"[::1]:1"', *JSON_WORDS]),
    "agent_status": Target(parse, (AgentError,), [json.dumps(AGENT_STATUS).encode()], JSON_WORDS),
}
