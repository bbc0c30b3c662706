# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains: what interfaces merge of several messages, with all settings that decide about it."""

from __future__ import annotations

from collections import Counter

import pytest
from harness.kernel import UDP_GRO, V4, V6, Family, Talk, World, message, receive_all

_SOL_UDP, _UDP_SEGMENT = 17, 103

families = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])


_TRAIN, _TRAINS = 32, 60


@families
@pytest.mark.parametrize("receiving", ["no socket", "plain socket", "UDP_GRO socket"])
@pytest.mark.parametrize(
    "features",
    [
        {},
        {"gro": True},
        {"gro": True, "rx_udp_gro_forwarding": True},
        {"gro": True, "rx_gro_list": True},
        {"gro": True, "rx_gro_list": True, "rx_udp_gro_forwarding": True},
        {"tx_udp_segmentation": True},
        {"gro": True, "tx_udp_segmentation": True},
    ],
    ids=lambda features: " ".join(features) or "none",
)
def test_no_message_of_a_train_is_misrouted(
    world: World, family: Family, features: dict[str, bool], receiving: str
) -> None:
    """One source sends under two indexes, in trains of both: what the interfaces merge may not go to one of them."""
    everything_off = dict.fromkeys(("gro", "tso", "rx_udp_gro_forwarding", "rx_gro_list", "tx_udp_segmentation"), False)
    for host, interface in ((world.ann, "eth0"), (world.relay, "in0"), (world.relay, "out0"), (world.bob, "eth0")):
        world.ethtool(host, interface, **everything_off | features)
    talk = Talk(world, family)
    talk.put()
    cat = world.socket(world.bob, family.bob)
    to_cat = talk.key._replace(receiver_index=8), talk.to(cat)
    assert world.table.put([to_cat]) == {}
    if receiving == "no socket":
        talk.relay.close()
    elif receiving == "UDP_GRO socket":
        talk.relay.setsockopt(_SOL_UDP, UDP_GRO, 1)
    talk.ann.setsockopt(_SOL_UDP, _UDP_SEGMENT, 1000)
    patterns = {
        "mixed": [7 + (number * 7 // 3) % 2 for number in range(_TRAIN)],
        "one stranger at the end": [7] * (_TRAIN - 1) + [8],
        "one stranger at the beginning": [8] + [7] * (_TRAIN - 1),
        "unknown inside": [7] * 10 + [9] + [7] * (_TRAIN - 11),
        "one": [7] * _TRAIN,
    }
    for name, pattern in patterns.items():
        before = world.table.read()
        train = b"".join(message(index, number, 1000) for number, index in enumerate(pattern))
        for _ in range(_TRAINS):
            talk.send(train[:-300])  # the last one is shorter
        ends = [talk.bob, cat] + ([talk.relay] if receiving != "no socket" else [])
        bob, other, *passed_on = receive_all(*ends)
        assert set(bob) <= {7} and set(other) <= {8}, f"{name}: misrouted"
        after = world.table.read()
        for index, arrived in ((7, bob[7]), (8, other[8])):
            key = talk.key._replace(receiver_index=index)
            assert after[key][1].packets - before[key][1].packets == arrived, f"{name}: forwarded, not arrived"
        if passed_on:
            arrived = bob + other + passed_on[0]
            assert arrived == Counter(pattern * _TRAINS), f"{name}: lost"
        if name == "one" and "rx_gro_list" not in features:
            assert bob[7] == _TRAIN * _TRAINS, "a train of one index goes the fast way"
