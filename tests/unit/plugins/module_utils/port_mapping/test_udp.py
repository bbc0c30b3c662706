# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One request and one answer by UDP, on the loopback interface: whose answer counts, and how long it may take."""

import socket
import threading
import time

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import udp
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import (
    Malformed,
    Refused,
    Unreachable,
)


def read(datagram):
    if not datagram.startswith(b"yes"):
        raise Malformed(f"says {datagram[:10]!r}")
    return datagram


@pytest.fixture
def server():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock


def answering(server, *rounds):
    """Answer the n-th request with the datagrams of the n-th round."""

    def work():
        for datagrams in rounds:
            _request, source = server.recvfrom(100)
            for datagram in datagrams:
                server.sendto(datagram, source)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def ask(server, patience=3.0, reader=read, **options):
    return udp.exchange("127.0.0.1", server.getsockname()[1], b"?", reader, patience=patience, **options)


def test_an_answer(server):
    thread = answering(server, [b"yes"])
    assert ask(server, source="127.0.0.1") == b"yes"
    thread.join()


def test_a_lost_request_is_sent_again(server):
    thread = answering(server, [], [b"yes"])
    assert ask(server) == b"yes"
    thread.join()


def test_nonsense_is_passed_over(server):
    thread = answering(server, [b"no", b"", b"yes!"])
    assert ask(server) == b"yes!"
    thread.join()


def test_a_long_datagram_is_cut(server):
    thread = answering(server, [b"yes" * 10000])
    assert len(ask(server)) == 1500
    thread.join()


def test_nonsense_only(server):
    thread = answering(server, [b"no"])
    with pytest.raises(Malformed, match=r"^127\.0\.0\.1: says b'no'"):
        ask(server, patience=0.2)
    thread.join()


def test_a_flood_of_nonsense_ends_in_time(server):
    stop = threading.Event()

    def flood():
        _request, source = server.recvfrom(100)
        while not stop.is_set():
            server.sendto(b"no", source)

    thread = threading.Thread(target=flood)
    thread.start()
    start = time.monotonic()
    with pytest.raises(Malformed):
        ask(server, patience=0.3)
    assert time.monotonic() - start < 2
    stop.set()
    thread.join()


def test_another_sender_is_not_heard(server):
    def work():
        _request, source = server.recvfrom(100)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"yes, but from another port", source)

    thread = threading.Thread(target=work)
    thread.start()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1 does not answer on UDP port"):
        ask(server, patience=0.2)
    thread.join()


@pytest.mark.parametrize("error", [Refused("no"), Unreachable("127.0.0.1 says so")])
def test_an_answer_that_says_no_ends_the_wait(server, error):
    def reader(_datagram):
        if isinstance(error, Unreachable):
            raise Unreachable("says so")
        raise error

    thread = answering(server, [b"no"])
    start = time.monotonic()
    with pytest.raises(type(error), match=str(error)):
        ask(server, reader=reader)
    assert time.monotonic() - start < 1.5
    thread.join()


def test_a_closed_port_is_known_at_once(server):
    port = server.getsockname()[1]
    server.close()
    start = time.monotonic()
    with pytest.raises(Unreachable, match=f"127.0.0.1: nothing listens on UDP port {port}"):
        udp.exchange("127.0.0.1", port, b"?", read, patience=3.0)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize(
    ("address", "source"), [("banana", ""), ("", "203.0.113.9"), ("127.0.0.1", "203.0.113.9"), ("fe80::1%nowhere", "")]
)
def test_addresses_that_are_not_there(address, source):
    with pytest.raises(Unreachable):
        udp.exchange(address, 9, b"?", read, patience=0.1, source=source)
