# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carrying probes: what counts as an answer, and what is done without one. The relay is a thread on the loopback."""

import contextlib
import os
import socket
import struct
import threading
import time
from hashlib import blake2s

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.relay_probe import (
    Carrier,
    ProbeError,
    answered,
    read_fwmark,
    read_key,
    read_probes,
    read_route,
    resolve,
)

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
TEXT_KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def probe(index):
    return struct.pack("<II", 1, index) + os.urandom(140)


def response(index, key=KEY):
    message = struct.pack("<III", 2, 99, index) + os.urandom(48)
    mac1 = blake2s(message, key=blake2s(b"mac1----" + key).digest(), digest_size=16).digest()
    return message + mac1 + bytes(16)


def cookie_reply(index):
    return struct.pack("<II", 3, index) + os.urandom(56)


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2**32 - 1])
def test_answers(index):
    assert answered(response(index), KEY) == index
    assert answered(cookie_reply(index), KEY) == index


# By name: the keys are random, and two processes that share the tests must know them by the same names.
NO_ANSWERS = {
    "nothing": b"",
    "zeros": bytes(92),
    "a response cut": response(5)[:-1],
    "a response with more": response(5) + b"\0",
    "a response with another key": response(5, OTHER_KEY),
    "a response with reserved bits": b"\2\0\0\1" + response(5)[4:],
    "a cookie reply cut": cookie_reply(5)[:-1],
    "a cookie reply with more": cookie_reply(5) + b"\0",
    "the probe": probe(5),
    "data": struct.pack("<II", 4, 5) + bytes(84),
}


@pytest.mark.parametrize("datagram", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer(datagram):
    assert answered(datagram, KEY) is None


@pytest.mark.parametrize("position", range(76))
def test_mac1_covers_the_response(position):
    datagram = bytearray(response(5))
    datagram[position] ^= 1
    assert answered(bytes(datagram), KEY) is None


# --- input ------------------------------------------------------------------------------------------------------------


def test_probes_are_known_by_their_index():
    first, second = probe(7), probe(8)
    assert read_probes([first.hex(), second.hex()]) == {7: first, 8: second}


@pytest.mark.parametrize(
    "text",
    ["", "zz", "é", probe(1).hex()[:-2], probe(1).hex() + "00", response(1).hex()],
    ids=["nothing", "no digits", "no ASCII", "cut", "with more", "a response"],
)
def test_what_is_no_probe(text):
    with pytest.raises(ProbeError, match=r"initiation 2 is not .* `peer-relay probe`"):
        read_probes([probe(1).hex(), text])


def test_no_probes():
    with pytest.raises(ProbeError, match="no initiation to send"):
        read_probes([])


def test_key():
    assert read_key(TEXT_KEY) == KEY
    with pytest.raises(ProbeError, match="relay_public_key 'short' is not 32 bytes"):
        read_key("short")


def test_fwmark():
    assert (read_fwmark("off\n"), read_fwmark("0x7072\n")) == (0, 0x7072)
    with pytest.raises(ProbeError, match="instead of off"):
        read_fwmark("nonsense")


def test_route():
    assert read_route('[{"dst":"192.0.2.1","gateway":"192.168.1.1","dev":"eth0","flags":[]}]') == "eth0"
    for text in ("", "[]", "{}", "[5]", "null", "[{}]", "192.0.2.1 dev eth0"):
        with pytest.raises(ProbeError, match="update iproute2"):
            read_route(text)


def test_an_address_resolves_to_itself():
    assert resolve("127.0.0.1", 9) == [(socket.AF_INET, ("127.0.0.1", 9))]
    assert resolve("::1", 9) == [(socket.AF_INET6, ("::1", 9, 0, 0))]


# --- carrying ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def relay(answer, host="127.0.0.1"):
    """A socket whose every datagram is answered by what `answer` makes of (number, index); its target and its input."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(0.05)
        received, stop = [], threading.Event()

        def serve():
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    datagram, source = sock.recvfrom(2048)
                    received.append(datagram)
                    for out in answer(len(received), struct.unpack_from("<I", datagram, 4)[0]):
                        sock.sendto(out, source)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield (family, sock.getsockname()), received
        finally:
            stop.set()
            thread.join()


PROBES = {index: probe(index) for index in (11, 12, 13)}
SILENT = (socket.AF_INET, ("127.0.0.1", 9))


def carry(*targets, timeout=0.2):
    return Carrier(KEY, timeout).carry(PROBES, list(targets))


@pytest.mark.parametrize("make", [response, cookie_reply])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_first_answer_is_enough(make, host):
    with relay(lambda _number, index: [make(index)], host) as (target, received):
        outcome = carry(target, timeout=5)
    assert outcome.reachable
    assert 0 < outcome.round_trip_ms < 5000
    assert outcome.address.rpartition(":")[0] == (f"[{host}]" if ":" in host else host)
    assert (outcome.indexes, outcome.reason) == ((11,), "")
    assert received == [PROBES[11]]


def test_a_lost_probe_is_followed_by_another_one():
    with relay(lambda number, index: [response(index)] if number == 3 else []) as (target, received):
        outcome = carry(target)
    assert outcome.reachable
    assert outcome.indexes == (11, 12, 13)
    assert received == list(PROBES.values())


def test_a_late_answer_counts():
    with relay(lambda number, _index: [response(11)] if number == 2 else []) as (target, _):
        outcome = carry(target)
    assert outcome.indexes == (11, 12)
    assert outcome.round_trip_ms >= 200


def test_no_answer():
    with relay(lambda _number, _index: []) as (target, received):
        outcome = carry(target, timeout=0.05)
    assert not outcome.reachable
    assert (outcome.address, outcome.indexes, outcome.reason) == ("", (11, 12, 13), "no answer to 3 probes")
    assert len(received) == 3


def test_a_closed_port_is_no_answer():
    assert carry(SILENT, timeout=0.01).reason == "no answer to 3 probes"


def test_forged_answers_do_not_count_and_take_no_time():
    forged = [response(11, OTHER_KEY), response(77), cookie_reply(77), os.urandom(92), b"", os.urandom(2000)]
    start = time.monotonic()
    with relay(lambda _number, _index: forged * 20) as (target, _):
        outcome = carry(target, timeout=0.1)
    assert not outcome.reachable
    assert time.monotonic() - start < 3


def test_the_addresses_of_a_name_are_tried_in_turn():
    with relay(lambda _number, index: [response(index)]) as (target, received):
        outcome = carry(SILENT, target)
    assert outcome.reachable
    assert outcome.indexes == (11, 12)
    assert received == [PROBES[12]]


def test_an_address_that_cannot_be_sent_to_costs_no_probe():
    unusable = (socket.AF_INET, ("255.255.255.255", 9))
    with relay(lambda _number, index: [response(index)]) as (target, _):
        assert carry(unusable, target).indexes == (11,)
    outcome = carry(unusable)
    assert outcome.indexes == ()
    assert outcome.reason == "255.255.255.255:9: Permission denied"


def test_an_answer_from_another_address_counts_and_is_named():
    """As for WireGuard: a router that does not translate the way back lets the relay answer by its own address."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        for sock in (asked, other):
            sock.bind(("127.0.0.1", 0))
        asked.settimeout(5)
        answering = threading.Thread(target=lambda: other.sendto(response(11), asked.recvfrom(2048)[1]))
        answering.start()
        outcome = carry((socket.AF_INET, asked.getsockname()), timeout=5)
        answering.join()
        assert outcome.address == f"127.0.0.1:{other.getsockname()[1]}"
