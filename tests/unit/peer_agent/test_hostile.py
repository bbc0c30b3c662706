# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Well-formed input that means harm: refused, counted and named, with bounds on what it makes the agent do."""

from __future__ import annotations

import json
import logging
import socket
import struct
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_net import Packet
from agent_run import NAS, Run
from agent_world import behind_nats
from hypothesis import given
from hypothesis import strategies as st
from peer_agent import settings
from peer_agent.core import limits
from peer_agent.core.limits import BATCH, Bucket, Limits
from peer_agent.core.refusals import Refusals
from peer_agent.endpoints import Endpoint, read_address, usable
from peer_agent.host import addresses
from peer_agent.host.overlay_socket import OverlaySocket
from peer_agent.host.probe_socket import Datagram, ProbeSocket
from peer_agent.wire import control
from peer_agent.wire.control import MAX_CANDIDATES, Message
from peer_agent.wire.probes import PING, Key, Probe
from peer_agent.wireguard import client, netlink, uapi
from peer_agent.wireguard.interface import Malformed
from peer_agent.wireguard.netlink import attribute
from peer_common.toml_table import SettingsError

SECRET = bytes(range(32))
VICTIMS = [f"192.0.2.{number}" for number in range(1, 255)]
_PROBE = 60  # bytes with headers

ODD_HOSTS = [
    "2001:db8::1%a\0b",
    "2001:db8::1%\ud800",
    "2001:db8::1%eth0",
    "2001:db8::1%x\n[Interface]\nPreUp = id",
    "fe80::1%2",
    "::ffff:192.0.2.1",
    "::ffff:127.0.0.1",
    "2001:0db8::1",
    "2001:DB8::1",
]
NO_HOSTS = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "169.254.1.1"]
NO_HOSTS += ["::", "::1", "ff02::1", "fe80::1", "::192.0.2.1"]


def message(**content: object) -> bytes:
    return json.dumps({"v": 1, "key": b64encode(SECRET).decode(), **content}).encode()


# --- text of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ODD_HOSTS)
def test_an_address_in_another_form_is_no_candidate(host: str) -> None:
    odd = f"[{host}]:51820" if ":" in host else f"{host}:51820"
    assert control.decode(message(candidates=[odd, "192.0.2.1:5"])).candidates == (Endpoint("192.0.2.1", 5),)


@pytest.mark.parametrize("host", [host for host in ODD_HOSTS if "%" in host])
def test_a_scope_is_read_nowhere(host: str) -> None:
    with pytest.raises(ValueError, match="scope"):
        Endpoint.of(host, 1)


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_not_one_other_host_is_not_probed(host: str) -> None:
    assert not usable(Endpoint.of(host, 51820), [])


@pytest.mark.parametrize(
    "datagram",
    [
        b"[" * 1000,
        b'{"a":' * 190,
        b'{"v":1' + b"0" * 990 + b"}",
        b'{"v":NaN}',
        b'{"v":Infinity}',
        b'{"v":1,"key":"\\ud800"}',
        b'\xff\xfe{"v":1}',
        b"",
        b"\xff" * 1000,
    ],
)
def test_json_of_the_odd_kind_is_refused(datagram: bytes) -> None:
    with pytest.raises(control.MessageError):
        control.decode(datagram)


def test_numbers_and_names_of_the_odd_kind_are_left_out() -> None:
    relays = '{"a":NaN,"b":Infinity,"c":-Infinity,"d":1e400,"e":' + "9" * 400 + ',"f":-0.0,"\\ud800":0.5}'
    read = control.decode(b'{"v":1,"key":"' + b64encode(SECRET) + b'","relays":' + relays.encode() + b"}")
    assert read.relays == {"f": -0.0, "\ud800": 0.5}


HOSTILE_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(ODD_HOSTS + NO_HOSTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
CANDIDATES = st.lists(
    st.builds("[{}]:{}".format, st.sampled_from(ODD_HOSTS + NO_HOSTS) | st.ip_addresses(v=6).map(str), st.integers())
    | st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(0, 70000))
    | HOSTILE_JSON,
    max_size=14,
)


@given(st.fixed_dictionaries({}, optional={"candidates": CANDIDATES | HOSTILE_JSON, "relays": HOSTILE_JSON}))
def test_a_hostile_message_is_read_or_refused(content: dict) -> None:
    try:
        read = control.decode(message(**content))
    except control.MessageError:
        return
    for candidate in read.candidates:
        assert str(candidate).isprintable()
        assert Endpoint.parse(str(candidate)) == candidate
        assert "%" not in candidate.host
    assert control.decode(control.encode(read)).candidates == read.candidates


@pytest.mark.parametrize(
    "line",
    [
        "control_port = 0x" + "f" * 5000,
        "interface = 0x" + "f" * 5000,
        'status_file = "/"',
        'status_file = "/a\\u0007b"',
        'networks = ["fe80::1%eth0/128"]',
        'addresses = ["fe80::1%eth0"]',
    ],
)
def test_settings_of_the_odd_kind_are_refused_at_reload(tmp_path: Path, line: str) -> None:
    file = tmp_path / "pr0.toml"
    given = {"addresses": '["10.77.1.1"]', "networks": '["10.77.0.0/16"]'}
    given.pop(line.split()[0], None)
    file.write_text("[agent]\n" + "".join(f"{key} = {value}\n" for key, value in given.items()) + line + "\n")
    with pytest.raises(SettingsError, match=str(file)):
        settings.load(file)


# --- what WireGuard and the kernel say, some of which is for the other device to choose -------------------------------


@pytest.mark.parametrize("place", ["192.0.2.1:0", "[2001:db8::1]:0", "[fe80::1%3]:0"])
def test_a_device_that_sends_from_port_0_harms_nobody_elses_path(place: str) -> None:
    """WireGuard goes where its packets come from, and tells of it."""
    key = bytes(32)
    text = b64encode(key).decode()
    dump = f"A\tB\t51820\toff\n{text}\t(none)\t{place}\t10.77.1.2/32\t0\t0\t0\toff\n"
    answer = f"listen_port=51820\npublic_key={key.hex()}\nendpoint={place}\n"
    packed = socket.inet_pton(socket.AF_INET, "192.0.2.1")
    address = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s", 0, packed) + bytes(8)
    peers = attribute(8, attribute(0, attribute(1, key) + attribute(4, address)))
    for interface in (client.parse(dump), uapi.parse(answer), netlink.parse([peers])):
        assert interface.peers[text].endpoint is None


@pytest.mark.parametrize("numbers", ["listen_port=70000\n", "fwmark=4294967296\n", "listen_port=-1\n"])
def test_numbers_that_no_interface_has_are_refused(numbers: str) -> None:
    with pytest.raises(Malformed):
        uapi.parse(numbers)


@given(st.binary(max_size=80))
def test_an_address_in_any_form_is_read_or_left_out(body: bytes) -> None:
    list(addresses._read(body, 1))


@pytest.mark.parametrize("answer", [b"", bytes(16), bytes(3), struct.pack("=IHHII", 20, 2, 0, 1, 0) + bytes(4)])
def test_an_answer_of_netlink_that_is_none_ends(answer: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        if answer:
            theirs.send(answer)
        theirs.close()
        ours.settimeout(2)
        with pytest.raises(OSError, match=r".+"):
            list(addresses._dump(ours))


# --- one socket at a time ---------------------------------------------------------------------------------------------


class _Endless:
    """A socket that is never empty."""

    family = socket.AF_INET

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[str, int]]:
        return b"x", ("10.77.1.2", 7078)

    def recv(self, _size: int) -> bytes:
        return b"x"


def _raw(handled: list) -> None:
    port = ProbeSocket.__new__(ProbeSocket)
    port._families = {4: type("Family", (), {"receive": lambda _: Datagram(b"x", Endpoint("192.0.2.1", 1), "")})()}
    port.receive(_Endless(), handled.append)


def _tunnel(handled: list) -> None:
    tunnel = OverlaySocket.__new__(OverlaySocket)
    tunnel.moved = 0
    tunnel.receive(_Endless(), lambda *datagram: handled.append(datagram))


@pytest.mark.parametrize("receive", [_raw, _tunnel])
def test_a_flood_gets_one_batch_at_a_time(receive: Callable[[list], None]) -> None:
    handled: list = []
    receive(handled)
    assert len(handled) == BATCH


def test_a_flood_of_changes_of_the_network_gets_one_batch_at_a_time() -> None:
    changes = addresses.Changes.__new__(addresses.Changes)
    changes.socket = _Endless()
    changes.drain()


# --- bounds -----------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_up_again() -> None:
    bucket = Bucket(0.0, (3, 0.5))
    assert [bucket.consume(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.consume(1.9)
    assert bucket.consume(2.1)
    bucket.credit(2.1, 100.0)
    assert [bucket.consume(2.1) for _ in range(4)] == [True, True, True, False]


class Attack:
    """Devices with many names that name others' addresses; all that the victim sends there is counted."""

    def __init__(self, devices: int = 1):
        self.world = behind_nats()
        self.world.run(10)
        self.victim = self.world.devices["a"]
        self.limits = self.victim.limits
        self.sent: dict[str, int] = {}
        self.came = 0
        self.names = [f"device{number}" for number in range(devices)]

    def shout(self, name: str, places: list[Endpoint]) -> None:
        """One device says where it would be; the agent would like to probe all of it, five times."""
        datagram = control.encode(Message(SECRET, tuple(places[:MAX_CANDIDATES]), punch=True))
        size = len(datagram) + 28 + 32
        now = self.world.now
        if self.limits.may_read(now, name, size):
            self.came += size
            for place in places * 5:
                if self.limits.may_send(now, name, place, heard=False):
                    self.sent[place.host] = self.sent.get(place.host, 0) + 1

    @property
    def all(self) -> int:
        return sum(self.sent.values())


def test_a_device_that_names_a_third_party_wins_no_bytes() -> None:
    """12 candidates a second for ten minutes, each time with other ports."""
    attack = Attack()
    attack.world.clock.now += 600  # every allowance is full
    for second in range(600):
        attack.shout("device0", [Endpoint("192.0.2.1", 1000 + 12 * second + number) for number in range(12)])
        attack.world.clock.now += 1
    assert attack.all <= limits._PREFIX[0] + 600 * limits._PREFIX[1]
    assert attack.all * _PROBE < attack.came


def test_devices_that_conspire_against_one_address_win_no_more() -> None:
    attack = Attack(devices=20)
    for second in range(30):
        for index, name in enumerate(attack.names):
            attack.shout(name, [Endpoint("192.0.2.1", 1 + 240 * second + 12 * index + number) for number in range(12)])
        attack.world.clock.now += 1
    assert attack.all <= limits._PREFIX[0] + 30 * limits._PREFIX[1] + 1


def test_a_whole_subnet_is_one_address_in_ipv6_and_many_share_one_bound() -> None:
    attack = Attack(devices=20)
    for second in range(20):
        for index, name in enumerate(attack.names):
            hosts = [f"2001:db8::{second:x}:{index:x}:{number:x}" for number in range(12)]
            attack.shout(name, [Endpoint.of(host, 1) for host in hosts])
        attack.world.clock.now += 1
    assert attack.all <= limits._PREFIX[0] + 20 * limits._PREFIX[1] + 1
    attack.sent.clear()
    attack.world.clock.now += 100
    for second in range(20):
        for index, name in enumerate(attack.names):
            attack.shout(name, [Endpoint(VICTIMS[(second * 20 + index + n * 7) % 254], 9) for n in range(12)])
        attack.world.clock.now += 1
    assert attack.all <= limits._ALL[0] + 20 * limits._ALL[1] + 1


def test_what_is_remembered_is_bounded() -> None:
    world = Limits(0.0)
    for number in range(limits._MAX_PREFIXES + 100):
        world.may_send(
            2.0 * number, "a", Endpoint.of(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 1), heard=False
        )
    assert len(world._prefixes) <= limits._MAX_PREFIXES


def test_large_probes_are_few_even_to_what_has_answered() -> None:
    """Whoever forges the pongs of an address that is not its own has large pings sent there."""
    world, sent = Limits(0.0), 0
    for tick in range(1000):
        world.may_answer(tick / 10, "a")
        sent += world.may_send(tick / 10, "a", Endpoint("192.0.2.1", 9), heard=True, full=True)
    assert sent <= limits._FULL_SIZE[0] + 100 * limits._FULL_SIZE[1] + 1


def test_nobody_starves_a_path_that_works() -> None:
    """Bob's address is named by others until nothing is left for it; bob, who answers, is probed all the same."""
    limits_, bob = Limits(0.0), Endpoint("198.51.100.2", 51820)
    for second in range(60):
        for name in range(50):
            for port in range(1, 13):
                limits_.may_send(float(second), f"device{name}", Endpoint(bob.host, port), heard=False)
        assert limits_.may_send(float(second), "bob", bob, heard=True)
        limits_.may_answer(float(second), "bob")


def test_a_forged_source_is_answered_once_and_gets_no_more_than_came_in() -> None:
    """The device itself, which has the key, pings from addresses that are not its own."""
    world = behind_nats()
    world.run(10)
    a = world.devices["a"]
    world.net.keep_log = True
    world.net.log.clear()
    key = Key(world.devices["b"].pair._signaling._secret, a.pair._signaling._secret, not a.pair._leader)
    came = 0
    for number in range(2000):
        source = Endpoint(VICTIMS[number % 200], 1000 + number)
        a.receive(Packet(source, Endpoint(a.host, 51820), key.seal(Probe(PING, 10**6 + number, False)), 60))
        came += 1
        world.run(0.01)
    reflected = [packet for _, packet in world.net.log if packet.target.host in VICTIMS]
    assert 0 < len(reflected) <= came + limits._PAIR[0]


def test_a_device_that_talks_without_end_is_read_at_a_bounded_rate(run: Run) -> None:
    run.advance(1)
    datagram = message(answer=True)
    run.sent()
    for _ in range(500):
        run.service._heard(run.now, datagram, read_address("10.77.1.2"), 7078)
    run.advance(0)
    assert len([1 for address, port in run.sent() if port == 7078 and address == "10.77.1.2"]) <= limits._MESSAGES[0]
    run.advance(11)
    assert run.status["refused"]["too_many_messages"] >= 400


def test_ways_to_relays_are_forgotten_when_there_are_many(run: Run) -> None:
    """Each fallback has a port of its own."""
    run.advance(1)
    pair = next(iter(run.service._attached.paths)).pair
    view = run.service._attached.relays.views()[0]
    for port in range(1024, 3024):
        pair.relay(run.now, view._replace(endpoint=Endpoint("127.0.0.1", port), fallback=True))
    assert len(pair._relay_endpoints) <= 20
    assert pair._relay_endpoints[Endpoint("127.0.0.1", 3023)] == view.name
    assert run.service._attached.relays.views()[1].endpoint in pair._relay_endpoints


def test_the_ways_to_targets_are_forgotten_when_there_are_many() -> None:
    port = ProbeSocket.__new__(ProbeSocket)
    port._own, port._avoided, port._sources = frozenset(), frozenset(), {}
    port._families = {4: type("Family", (), {"source": lambda _, target: "192.0.2.250"})()}
    for number in range(5000):
        port.source(Endpoint(f"10.{number >> 8 & 255}.{number & 255}.1", 1 + number))
    assert len(port._sources) <= 1024


# --- the last line ----------------------------------------------------------------------------------------------------


def test_a_fault_costs_one_datagram(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run.advance(1)
    run.service._refusals.strict = False

    def fail(*_: object) -> None:
        raise RuntimeError("no\nway \ud800")

    monkeypatch.setattr(control, "decode", fail)
    address = read_address("10.77.1.2")
    with caplog.at_level(logging.ERROR):
        for _ in range(20):
            run.service._told(run.now, b"x", address, 7078)
    said = [record.getMessage() for record in caplog.records if "fault" in record.getMessage()]
    assert len(said) == 1, "once a minute"
    assert "RuntimeError in fail" in said[0]
    assert "\n" not in said[0]
    run.advance(11)
    assert run.status["refused"]["fault"] == 20
    run.service._refusals.strict = True
    with pytest.raises(RuntimeError):
        run.service._told(run.now, b"x", address, 7078)


def test_a_pair_that_fails_at_every_tick_begins_anew(run: Run) -> None:
    run.advance(1)
    run.service._refusals.strict = False
    pairs = {told.peer.name: told.pair for told in run.service._attached.paths}

    def fail(_now: float) -> float:
        raise RuntimeError

    pairs["nas"].tick = fail
    run.advance(12)
    after = {told.peer.name: told.pair for told in run.service._attached.paths}
    assert after["nas"] is not pairs["nas"]
    assert after["tv"] is pairs["tv"]
    assert run.status["refused"]["fault"] == 1
    assert not [step for step in run.done() if step[:2] == ("renew", NAS)]


def test_refusals_are_strict_in_tests_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Refusals().strict
    monkeypatch.delenv("PEER_AGENT_STRICT")
    assert not Refusals().strict


def test_an_error_about_the_addresses_is_said_and_tried_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.advance(1)
    told = run.sockets.addresses

    def fail() -> list:
        raise TimeoutError("timed out")

    monkeypatch.setattr(run.sockets, "addresses", fail)
    run.service._look_around(run.now)
    run.advance(0.5)
    assert any("addresses" in problem for problem in run.status["problems"])
    monkeypatch.setattr(run.sockets, "addresses", told)
    run.advance(2)
    assert run.status["problems"] == []
