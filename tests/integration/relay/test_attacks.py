# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Captured packets replayed from elsewhere move nobody, and equal session indexes of two devices do no harm."""

from __future__ import annotations

import time
from base64 import b64decode
from collections.abc import Callable, Iterator

import pytest
from harness.capture import Capture, Datagram, udp_socket
from harness.client import Client, random_index, transport
from harness.processes import wait_until
from harness.service import PORT, Relay
from harness.topology import RELAY_V4, STRANGER_V4
from harness.traffic import Stream
from harness.trio import Trio
from peer_common import packets

Figure = Callable[..., None]
_RELAY = (RELAY_V4[0], PORT)


def _to_relay(seen: list[Datagram], kind: int, source: str) -> list[bytes]:
    return [d.payload for d in seen if d.kind == kind and d.source[0] == source and d.destination == _RELAY]


def _drops(relay: Relay) -> dict[str, int]:
    return {reason: count["packets"] for reason, count in relay.status()["drops"].items()}


def test_replays_from_elsewhere_move_nobody(trio: Trio, figure: Figure) -> None:
    ann, bob = trio.devices[:2]
    relay, home = trio.relay, trio.sites[0].wan_v4
    stranger = udp_socket(trio.lab.stranger(), STRANGER_V4)
    with stranger, Capture(relay.host, "eth0") as capture:
        trio.up()
        with Stream(ann, bob, rate=50, size=300) as stream:
            stream.wait_flowing()
            bound = relay.endpoint("ann")
            seen = capture.read()
            replays = [
                *_to_relay(seen, packets.INITIATION, home),  # to the relay and to the other device
                *_to_relay(seen, packets.RESPONSE, home),
                *_to_relay(seen, packets.TRANSPORT, home)[:20],  # the relay's own session, and the pair's
            ]
            moment = time.monotonic()
            for _ in range(3):
                for datagram in replays:
                    stranger.sendto(datagram, _RELAY)
                time.sleep(0.7)
            assert relay.endpoint("ann") == bound
            seen = capture.stop()
        lost = [at for direction in stream.directions for at in direction.lost() if at > moment]
    sent = sum(len(d.payload) for d in seen if d.source[0] == STRANGER_V4)
    answered = sum(len(d.payload) for d in seen if d.destination[0] == STRANGER_V4)
    figure("replays from elsewhere", f"{3 * len(replays)} sent, device stayed, {len(lost)} lost", "stays, 0 lost")
    figure("replays from elsewhere: bytes out / in", f"{answered} / {sent}", "never more out")
    assert replays
    assert not lost
    assert answered <= sent


def test_stolen_initiation_moves_nobody(trio_up: Trio, figure: Figure) -> None:
    """The thief's copy is the only one that the relay ever sees: it is fresh and valid, yet proves no address."""
    ann, bob = trio_up.devices[:2]
    relay = trio_up.relay
    bound = relay.endpoint("ann")
    answers = []
    with (
        udp_socket(trio_up.lab.stranger(), STRANGER_V4) as stranger,
        Capture(trio_up.sites[0].router, "lan0") as capture,
        Stream(ann, bob, rate=20) as stream,
    ):
        stream.wait_flowing()
        trio_up.sites[0].partition()
        # A peer that is new again makes a new handshake.
        ann.remove_peer(relay.public_key)
        relay.connect(ann)

        def stolen() -> list[bytes]:
            return [d.payload for d in capture.read() if d.kind == packets.INITIATION]

        wait_until("an initiation to steal", stolen, 10)
        stranger.sendto(stolen()[-1], _RELAY)
        answers.append(stranger.recv(2048))
        stranger.sendto(transport(packets.sender_index(answers[0]), 0, 32), _RELAY)
        time.sleep(0.2)
        assert relay.endpoint("ann") == bound
        assert len(answers[0]) == packets.RESPONSE_SIZE
        trio_up.sites[0].heal()
        moment = time.monotonic()
        stream.wait_flowing(10)
    figure("stolen fresh initiation", "device stayed", "stays")
    assert relay.endpoint("ann") == bound
    assert stream.back_after(moment) < 1


@pytest.fixture
def mallory(trio: Trio) -> Iterator[Client]:
    """A registered device that plays foul with its indexes."""
    host = trio.sites[2].host("mallory")
    with udp_socket(host, "0.0.0.0") as end:
        client = Client("mallory", "10.77.1.66", end, _RELAY)
        trio.relay.registrations["mallory"] = client.registration()
        trio.relay.reload()
        for device in trio.devices:
            device.add_peer(client.public_key, f"{_RELAY[0]}:{_RELAY[1]}", ["10.77.1.66/32"])
        yield client


def _bound(relay: Relay, name: str) -> None:
    wait_until(f"{name} is bound", lambda: relay.device(name)["state"] == "bound", 5)


def test_initiators_index_collision(trio: Trio, mallory: Client, figure: Figure) -> None:
    """Mallory calls bob under the index that ann uses towards bob: bob's packets still go to ann."""
    ann, bob = trio.devices[:2]
    relay = trio.relay
    with Capture(relay.host, "eth0") as capture:
        trio.up()
        mallory.register(relay.public_key)
        _bound(relay, "mallory")
        with Stream(ann, bob, rate=50) as stream:
            stream.wait_flowing()
            home = trio.sites[0].wan_v4
            seen = capture.read()
            indexes = {packets.sender_index(d) for kind in (1, 2) for d in _to_relay(seen, kind, home)}
            moment = time.monotonic()
            for index in indexes:
                mallory.send(mallory.initiation(b64decode(bob.public_key), index).datagram)
            time.sleep(1)
            assert _drops(relay).get("index_collision", 0) >= 1
            # With an index of its own it is served at once.
            index = random_index()
            writer = mallory.initiation(b64decode(bob.public_key), index)
            mallory.send(writer.datagram)
            assert writer.finish(mallory.receive(packets.RESPONSE, index)).remote_index
        lost = [at for direction in stream.directions for at in direction.lost() if at > moment]
    figure("index collision of two initiators", f"{len(lost)} lost", "0")
    assert not lost


def test_responders_index_collides_with_the_relays_own(trio: Trio, mallory: Client, figure: Figure) -> None:
    """Mallory answers ann under the index that the relay itself uses towards ann: ann still reaches the relay."""
    ann = trio.devices[0]
    relay = trio.relay
    with Capture(relay.host, "eth0") as capture:
        trio.up()
        mallory.register(relay.public_key)
        _bound(relay, "mallory")
        home = trio.sites[0].wan_v4
        own = [d.payload for d in capture.read() if d.kind == packets.RESPONSE and d.destination[0] == home]
        taken = packets.sender_index(own[0])
        ping = trio.lab.start(ann.host.spawn("ping", "-i", "0.5", "-c", "20", "10.77.1.66", log="ping"))
        mallory.answer(taken)
        wait_until("the collision is counted", lambda: _drops(relay).get("index_collision"), 3)
        ann.host.run("ping", "-c", "3", "-i", "0.2", "-W", "1", "10.77.0.1")
        # Ann asks again after 5 s; a fresh index is served.
        mallory.end.settimeout(8)
        mallory.answer(random_index())
        mallory.receive(packets.TRANSPORT)
        ping.stop()
    figure("responder's index equal to the relay's own", "dropped, counted, retry served", "so")
