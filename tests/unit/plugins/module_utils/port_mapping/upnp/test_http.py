# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP with a router that may do anything: every exchange ends, in time and in size, with an answer or MappingError."""

import contextlib
import itertools
import socket
import threading
import time

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed, Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import http


class Router:
    """Takes one connection, reads the request, and sends the given pieces, with a pause after each."""

    def __init__(self, pieces, pause=0.0, linger=False):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = http.Url("127.0.0.1", self.listener.getsockname()[1], "/ctl")
        self.pieces, self.pause, self.linger = pieces, pause, linger
        self.request = b""
        self.sent = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        with contextlib.suppress(OSError), self.listener.accept()[0] as connection:
            while b"\r\n\r\n" not in self.request:
                self.request += connection.recv(65536)
            for piece in self.pieces:
                connection.sendall(piece)
                self.sent += len(piece)
                if self.over.wait(self.pause):
                    return
            if self.linger:
                self.over.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.listener.close()
        self.thread.join(5)


def post(router, body=b"<a/>"):
    return http.exchange(router.url, "127.0.0.1", "POST", {"SOAPAction": '"x#y"'}, body)


def test_request():
    with Router([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"]) as router:
        assert post(router) == (200, b"ok")
    lines = router.request.split(b"\r\n")
    assert lines[0] == b"POST /ctl HTTP/1.1"
    assert set(lines[1:5]) == {
        b"Host: 127.0.0.1:%d" % router.url.port,
        b"Connection: close",
        b"Content-Length: 4",
        b'SOAPAction: "x#y"',
    }
    assert router.request.endswith(b"\r\n\r\n<a/>")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nT: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_bodies(answer):
    with Router([answer]) as router:
        assert post(router) == (200, b"ok")


def test_a_connection_that_is_kept_open_after_the_announced_length():
    with Router([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], linger=True) as router:
        start = time.monotonic()
        assert post(router) == (200, b"ok")
        assert time.monotonic() - start < 3


DOCUMENT = b"<root><a>1</a></root>"
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("linger", [False, True])
@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD + b"Content-Length: 5\r\n\r\n" + DOCUMENT],
        [HEAD + b"Content-Length: 5\r\n\r\n" + DOCUMENT[:5], DOCUMENT[5:9], DOCUMENT[9:]],
        [HEAD + b"Content-Length: 500\r\n\r\n" + DOCUMENT],
        [HEAD + b"\r\n" + DOCUMENT],
        [HEAD + b"\r\n" + DOCUMENT + b"\r\n\0\0<!-- more -->"],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(DOCUMENT) + DOCUMENT],
        [HEAD.replace(b"\r", b"") + b"\n" + DOCUMENT],
    ],
)
def test_a_document_ends_an_answer_whatever_its_length_is_said_to_be(pieces, linger):
    with Router(pieces, pause=0.02, linger=linger) as router:
        start = time.monotonic()
        assert post(router) == (200, DOCUMENT)
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("size", [b"-5", b"", b"0x5", b"+5", b"5" * 30, b" "])
def test_a_size_of_a_chunk_that_is_none(size):
    with (
        Router([HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + DOCUMENT]) as router,
        pytest.raises(Malformed, match="is no size of a chunk"),
    ):
        post(router)


def test_a_redirect_is_not_followed():
    with Router([b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"]) as router:
        assert post(router) == (302, b"")
    with (
        Router([b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n"]) as router,
        pytest.raises(Malformed, match="HTTP status 302"),
    ):
        http.fetch(router.url, "127.0.0.1")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2xx OK\r\n\r\n",
        b"HTTP/9.9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcdefgh\r\n",
        b"HTTP/1.1 200 " + b"x" * 70000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000 + b"\r\n\r\n",
    ],
)
def test_broken_http(answer):
    with Router([answer]) as router, pytest.raises(Malformed, match=r"router 127\.0\.0\.1 answers"):
        post(router)


@pytest.mark.parametrize("length", [b"99999999999999", b"-1", b"x", b"9" * 5000])
def test_an_announced_length_is_not_believed(length):
    with Router([b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nok"]) as router:
        assert post(router) == (200, b"ok")


ENDLESS = [
    (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
    (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"Trailer: x\r\n" * 2000),
]


@pytest.mark.parametrize(("start", "more"), ENDLESS)
def test_endless_answers_are_cut(start, more):
    with Router(itertools.chain([start], itertools.repeat(more))) as router:
        with pytest.raises(Malformed, match="more than 307200 bytes"):
            post(router)
        router.over.set()


@pytest.mark.parametrize("pieces", [itertools.repeat(b"x"), [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x"] * 100], [b""]])
def test_dripping_and_silent_answers_end_in_time(monkeypatch, pieces):
    monkeypatch.setattr(http, "_SECONDS", 0.3)
    with Router(pieces, pause=0.05, linger=True) as router:
        start = time.monotonic()
        with pytest.raises(Unreachable, match="timed out"):
            post(router)
        assert time.monotonic() - start < 3
        router.over.set()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = http.Url("127.0.0.1", closed.getsockname()[1], "/")
    with pytest.raises(
        Unreachable, match=r"the router 127\.0\.0\.1 does not answer http://127\.0\.0\.1:\d+/: .*refused"
    ):
        http.fetch(url, "127.0.0.1")


def test_an_own_address_that_is_gone():
    with pytest.raises(Unreachable):
        http.fetch(http.Url("127.0.0.1", 9, "/"), "192.0.2.77")


def test_urls():
    assert http.url("/a?b=c#d", "192.0.2.1", "http://192.0.2.1:5000/x/y") == http.Url("192.0.2.1", 5000, "/a?b=c")
    assert http.url("http://192.0.2.1", "192.0.2.1") == http.Url("192.0.2.1", 80, "/")
    assert str(http.url("http://[FE80::1]:5000/x", "fe80::1%eth0")) == "http://[fe80::1]:5000/x"
    # The router's other address of the same network is no stranger; whom we talk to is the one that answered.
    assert http.url("http://[2001:db8::1]:5000/x", "fe80::1%eth0").host == "fe80::1%eth0"


@pytest.mark.parametrize(
    "text", ["", "/relative", "http://", "ftp://192.0.2.1/", "http://192.0.2.2/", "http://[2001:db8::1]/"]
)
def test_urls_of_nobody(text):
    with pytest.raises(Malformed):
        http.url(text, "192.0.2.1")


@pytest.mark.parametrize("name", ["[::1]", "[::]", "[fe80::1]", "127.0.0.1", "127.9.9.9", "169.254.7.7", "0.0.0.0"])
@pytest.mark.parametrize("host", ["192.0.2.1", "fe80::7%eth0"])
def test_a_name_that_is_nobody_elses_is_the_one_that_answered(name, host):
    assert http.url(f"http://{name}:5000/x?y", host) == http.Url(host, 5000, "/x?y")
