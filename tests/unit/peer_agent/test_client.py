# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading WireGuard's state in all three forms, and the datagrams that are made by hand."""

from __future__ import annotations

import base64
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_agent.endpoints import Endpoint
from peer_agent.host.probe_socket import checksum
from peer_agent.wireguard import client, netlink, uapi
from peer_agent.wireguard.interface import Interface, Malformed, Peer, Unchangeable
from peer_agent.wireguard.netlink import attribute, sockaddr

SECRET = b"\x5e" * 32
KEYS = [bytes([number]) * 32 for number in (1, 2, 3)]
FIRST, SECOND, THIRD = (base64.b64encode(key).decode() for key in KEYS)
DUMP = (
    "PRIVATE\tPUBLIC\t51820\t0x7072\n"
    f"{FIRST}\t(none)\t192.0.2.1:40000\t10.77.0.1/32,fd77::1/128\t1700000000\t92\t148\t25\n"
    f"{SECOND}\tSECRET\t[2001:db8::2]:51820\t(none)\t0\t0\t0\toff\n"
    f"{THIRD}\t(none)\t[fe80::1%2]:1\t10.77.0.3/32\t0\t0\t0\toff\n"
)
ANSWER = (
    f"private_key={SECRET.hex()}\nlisten_port=51820\nfwmark=28786\n"
    f"public_key={KEYS[0].hex()}\npreshared_key={'0' * 64}\nprotocol_version=1\nendpoint=192.0.2.1:40000\n"
    "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=5\ntx_bytes=148\nrx_bytes=92\n"
    "persistent_keepalive_interval=25\nallowed_ip=10.77.0.1/32\nallowed_ip=fd77::1/128\n"
    f"public_key={KEYS[1].hex()}\npreshared_key={SECRET.hex()}\nprotocol_version=1\nendpoint=[2001:db8::2]:51820\n"
    "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\npersistent_keepalive_interval=0\n"
    f"public_key={KEYS[2].hex()}\npreshared_key={'0' * 64}\nendpoint=[fe80::1%2]:1\nallowed_ip=10.77.0.3/32\n"
)
STATE = Interface(
    51820,
    0x7072,
    {
        FIRST: Peer(FIRST, False, Endpoint("192.0.2.1", 40000), "10.77.0.1/32,fd77::1/128", 1_700_000_000, 92, 148, 25),
        SECOND: Peer(SECOND, True, Endpoint("2001:db8::2", 51820), "", 0, 0, 0, 0),
        THIRD: Peer(THIRD, False, None, "10.77.0.3/32", 0, 0, 0, 0),
    },
)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | 0x8000, b"".join(parts))


def allowed(text: str) -> bytes:
    address, prefix = text.split("/")
    packed = ip_address(address).packed
    family = struct.pack("=H", socket.AF_INET if len(packed) == 4 else socket.AF_INET6)
    return nested(0, attribute(1, family), attribute(2, packed), attribute(3, bytes([int(prefix)])))


def peer(key: bytes, *parts: bytes) -> bytes:
    return nested(0, attribute(1, key), *parts)


def kernel_messages() -> list[bytes]:
    """What the kernel says of the same interface, by linux/wireguard.h: in two messages, with a peer across both."""
    counters = attribute(6, struct.pack("=qq", 1_700_000_000, 5))
    counters += attribute(7, struct.pack("=Q", 92)) + attribute(8, struct.pack("=Q", 148))
    version = attribute(10, struct.pack("=I", 1))
    link_local = struct.pack("=H", socket.AF_INET6) + struct.pack(">HI16s", 1, 0, ip_address("fe80::1").packed)
    first = peer(
        KEYS[0],
        attribute(2, bytes(32)),
        attribute(4, sockaddr(Endpoint("192.0.2.1", 40000))),
        attribute(5, struct.pack("=H", 25)),
        counters,
        nested(9, allowed("10.77.0.1/32")),
        version,
    )
    device = attribute(1, struct.pack("=I", 7)) + attribute(2, b"pr0\0")
    one = device + attribute(3, SECRET) + attribute(4, bytes(32))
    one += attribute(6, struct.pack("=H", 51820)) + attribute(7, struct.pack("=I", 0x7072)) + nested(8, first)
    rest = [
        peer(KEYS[0], nested(9, allowed("fd77::1/128"))),
        peer(KEYS[1], attribute(2, SECRET), attribute(4, sockaddr(Endpoint("2001:db8::2", 51820)))),
        peer(
            KEYS[2],
            attribute(4, link_local + struct.pack("=I", 2)),
            attribute(6, struct.pack("=qq", 0, 0)),
            nested(9, allowed("10.77.0.3/32")),
        ),
    ]
    return [one, device + nested(8, *rest)]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [lambda: client.parse(DUMP), lambda: uapi.parse(ANSWER), lambda: netlink.parse(kernel_messages())],
    ids=["wg", "wireguard-go", "kernel"],
)
def test_the_three_forms_say_the_same(read: Callable[[], Interface]) -> None:
    interface = read()
    assert interface == STATE
    for secret in ("PRIVATE", "SECRET", SECRET.hex(), base64.b64encode(SECRET).decode()):
        assert secret not in repr(interface)


@pytest.mark.parametrize("text", ["", "a\tb\tc\td\n", "a\tb\t1\toff\nk\n", DUMP.replace("1700000000", "soon")])
def test_what_is_no_dump_is_said_without_its_text(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        client.parse(text)
    assert "PRIVATE" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["x", "allowed_ip=10.0.0.1/32\n", "public_key=xy\n", ANSWER.replace("=92", "=many"), ANSWER + "endpoint=x\n"],
)
def test_what_wireguard_go_does_not_say_is_refused_without_its_text(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        uapi.parse(text)
    assert SECRET.hex() not in str(caught.value)


@given(st.data())
def test_a_damaged_answer_of_the_kernel_is_refused_or_read(data: st.DataObject) -> None:
    message = bytearray(kernel_messages()[0])
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(message[: data.draw(st.integers(0, len(message)))])
    try:
        netlink.parse([cut])
    except Malformed as error:
        assert str(SECRET) not in str(error)


# --- asking -----------------------------------------------------------------------------------------------------------


class Conversation:
    """A socket whose other side is the test."""

    def __init__(self, *answers: bytes):
        self.answers = list(answers)
        self.asked: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.asked.append(data)

    send = sendall

    def recv(self, _size: int) -> bytes:
        return self.answers.pop(0)

    def close(self) -> None:
        pass


def userspace(*answers: bytes) -> tuple[uapi.Userspace, Conversation]:
    made, talk = object.__new__(uapi.Userspace), Conversation(*answers)
    made._socket = talk
    return made, talk


def test_wireguard_go_answers_in_pieces() -> None:
    text = f"{ANSWER}errno=0\n\n".encode()
    direct, talk = userspace(text[:100], text[100:-1], text[-1:])
    assert direct.show() == STATE
    assert talk.asked == [b"get=1\n\n"]


def test_wireguard_go_is_told_an_endpoint() -> None:
    direct, talk = userspace(b"errno=0\n\n", b"errno=-22\n\n", b"")
    direct.set_endpoint(FIRST, Endpoint("2001:db8::1", 9))
    assert talk.asked == [f"set=1\npublic_key={KEYS[0].hex()}\nupdate_only=true\nendpoint=[2001:db8::1]:9\n\n".encode()]
    with pytest.raises(OSError, match="errno=-22"):
        direct.set_endpoint(FIRST, Endpoint("192.0.2.1", 9))
    with pytest.raises(OSError, match="closed"):
        direct.show()


def answering(folder: Path, monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> None:
    """A daemon that answers one question for each connection, as boringtun does."""
    monkeypatch.setattr(uapi, "_FOLDER", folder)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "pr0.sock"))
    listener.listen()

    def answer() -> None:
        with listener:
            for text in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(text)

    threading.Thread(target=answer, daemon=True).start()


def test_boringtun_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As boringtun-cli 0.7.1 answered `update_only`, which it does not know; `wg set` of a [Peer] made it panic."""
    answering(tmp_path, monkeypatch, *[b"errno=22\n\n"] * 3)
    wireguard = client.WireGuard("pr0")
    monkeypatch.setattr(wireguard, "_run", lambda *words, **_: pytest.fail(f"wg {words}"))
    for ask in (
        wireguard.show,
        lambda: wireguard.set_endpoint(FIRST, Endpoint("192.0.2.1", 9)),
        lambda: wireguard.renew(FIRST, Endpoint("192.0.2.1", 9)),
    ):
        with pytest.raises(Unchangeable, match="wireguard-go, or set peer_agent: false"):
            ask()


def netlink_message(kind: int, number: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 2, number, 1) + body + bytes(-len(body) % 4)


def kernel(*answers: bytes) -> tuple[netlink.Kernel, Conversation]:
    made, talk = object.__new__(netlink.Kernel), Conversation(*answers)
    made._socket, made._family, made._number, made._name = talk, 29, 0, attribute(2, b"pr0\0")
    return made, talk


def test_the_kernel_is_asked_for_all() -> None:
    stale = netlink_message(29, 0, b"\0\1\0\0" + attribute(6, b"xx"))
    one, two = (netlink_message(29, 1, b"\0\1\0\0" + message) for message in kernel_messages())
    direct, talk = kernel(stale, one, two + netlink_message(3, 1, bytes(4)))
    assert direct.show() == STATE
    # NLM_F_REQUEST | NLM_F_DUMP, WG_CMD_GET_DEVICE of version 1, WGDEVICE_A_IFNAME
    assert talk.asked == [struct.pack("=IHHII", 28, 29, 0x301, 1, 0) + b"\0\1\0\0" + b"\x08\0\2\0pr0\0"]


@pytest.mark.parametrize("kind", [2, 3])
def test_the_kernel_refuses(kind: int) -> None:
    direct, _ = kernel(netlink_message(kind, 1, struct.pack("=i", -errno.ENODEV)))
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        direct.show()


def test_the_kernel_is_told_an_endpoint() -> None:
    direct, talk = kernel(netlink_message(2, 1, bytes(4)))
    direct.set_endpoint(FIRST, Endpoint("192.0.2.1", 40000))
    inner = (
        attribute(1, KEYS[0])
        + attribute(3, struct.pack("=I", 4))
        + attribute(4, sockaddr(Endpoint("192.0.2.1", 40000)))
    )
    assert talk.asked[0][16:] == b"\1\1\0\0" + attribute(2, b"pr0\0") + nested(8, nested(0, inner))
    assert talk.asked[0][6:8] == struct.pack("=H", 0x5)


def test_netlink_forms() -> None:
    assert attribute(1, b"abc") == struct.pack("=HH", 7, 1) + b"abc\0"
    assert sockaddr(Endpoint("192.0.2.1", 40000)) == b"\x02\x00\x9c\x40\xc0\x00\x02\x01" + bytes(8)
    assert len(sockaddr(Endpoint("2001:db8::1", 40000))) == 28


class Direct:
    """WireGuard without `wg`, by a script: states, or errors."""

    def __init__(self, *script: object):
        self.script = list(script)

    def show(self) -> Interface:
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        pass


def test_an_interface_that_came_back_is_read_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Direct(STATE, ConnectionResetError()), Direct(STATE)]
    monkeypatch.setattr(client, "_connect", lambda name: found.pop(0))
    wireguard = client.WireGuard("pr0")
    assert wireguard.show() is STATE
    assert wireguard.show() is STATE
    assert not found


def test_a_form_that_nobody_knows_is_left_to_wg(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(client, "_connect", lambda name: Direct(Malformed("the kernel's answer")))
    wireguard = client.WireGuard("pr0")
    monkeypatch.setattr(wireguard, "_run", lambda *words: DUMP if words == ("show", "pr0", "dump") else "")
    assert wireguard.show() == wireguard.show() == STATE
    assert len(caplog.records) == 1


def test_wg_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(client, "_connect", lambda name: None)
    wireguard = client.WireGuard("pr0")
    assert "install wireguard-tools" in wireguard.problem()
    with pytest.raises(client.WireGuardError, match="install wireguard-tools"):
        wireguard.show()


def test_counters_follow_the_interface(tmp_path: Path) -> None:
    counters = client.Counters("lo")
    assert isinstance(counters.read(), int)
    counters._files = [tmp_path / "rx", tmp_path / "tx"]
    counters.close()
    assert counters.read() is None
    for file, text in zip(counters._files, ("3\n", "4\n"), strict=True):
        file.write_text(text)
    assert counters.read() == 7
    counters._files[0].write_text("gone\n")
    assert counters.read() is None
    counters._files[0].write_text("5\n")
    assert counters.read() == 9
    counters.close()


# --- datagrams --------------------------------------------------------------------------------------------------------


def test_checksum() -> None:
    # A datagram with its checksum in place sums up to nothing (RFC 768).
    source, target = ip_address("192.0.2.1").packed, ip_address("203.0.113.9").packed
    for payload in (b"", b"odd", b"even", bytes(range(256))):
        head = struct.pack(">HHH", 51820, 40000, 8 + len(payload))
        value = checksum(source, target, head + b"\0\0" + payload)
        assert checksum(source, target, head + struct.pack(">H", value) + payload) in (0, 0xFFFF)


def test_wg_adds_no_peer_that_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wireguard-go nor the kernel answers, and the helper still knows the key of a device that was revoked."""
    wireguard, done = client.WireGuard("pr0"), []
    monkeypatch.setattr(wireguard, "_directly", lambda _do: None)

    def run(*words: str) -> str:
        done.append(words)
        return DUMP if words == ("show", "pr0", "dump") else ""

    monkeypatch.setattr(wireguard, "_run", run)
    revoked = base64.b64encode(bytes([9]) * 32).decode()
    wireguard.set_endpoint(revoked, Endpoint("192.0.2.9", 9))
    assert done == [("show", "pr0", "dump")]
    wireguard.set_endpoint(FIRST, Endpoint("192.0.2.9", 9))
    assert done[-1] == ("set", "pr0", "peer", FIRST, "endpoint", "192.0.2.9:9")
