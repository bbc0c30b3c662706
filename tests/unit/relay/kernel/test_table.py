# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries as the kernel's program reads them, and what failed system calls mean."""

from __future__ import annotations

import errno
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_relay import addresses
from peer_relay.dataplane.kernel import bpf, layout, needs, table
from peer_relay.dataplane.kernel.entry import Key, Target

PORTS = st.integers(0, 65535)
WORDS = st.integers(0, 2**32 - 1)


@st.composite
def entries(draw: st.DrawFn, version: int) -> tuple[Key, Target]:
    # An IPv4 address in IPv6's clothes never is on the wire, and no socket of the relay's tells of one.
    hosts = st.ip_addresses(v=version).filter(lambda host: version == 4 or host.ipv4_mapped is None)

    def address() -> bytes:
        return addresses.pack(str(draw(hosts)), draw(PORTS))

    return Key(address(), address(), draw(WORDS)), Target(address(), address(), draw(WORDS), draw(WORDS))


def checksum(data: bytes) -> int:
    """RFC 1071, word by word in network order."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def wire(source: bytes, destination: bytes) -> bytes:
    """What the checksum of a datagram covers of its addresses and ports."""
    return b"".join(addresses.host_bytes(each) + each[2:4] for each in (source, destination))


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data())
def test_there_and_back(version: int, data: st.DataObject) -> None:
    key, target = data.draw(entries(version))
    code, content = layout.encode_key(key), layout.encode_target(key, target)
    assert len(code) == 40 and len(content) == 56
    assert layout.decode_key(code) == key
    assert layout.decode_target(content) == target


@pytest.mark.parametrize("version", [4, 6])
@given(data=st.data(), payload=st.binary(min_size=32, max_size=64).filter(lambda body: len(body) % 2 == 0))
def test_the_changes_correct_a_checksum(version: int, data: st.DataObject, payload: bytes) -> None:
    """As RFC 1624 does it: the complement of the sum of the old one's complement and the changes."""
    key, target = data.draw(entries(version))
    changes = struct.unpack_from("=II", layout.encode_target(key, target), 44)
    before = checksum(wire(key.source, key.local) + payload)
    total = (~before & 0xFFFF) + sum(
        word for change in changes for word in struct.unpack(">HH", change.to_bytes(4, sys.byteorder))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    after = checksum(wire(target.local, target.destination) + payload)
    # Zero has two forms in this arithmetic.
    assert (~total & 0xFFFF) % 0xFFFF == after % 0xFFFF


@pytest.mark.parametrize("parts", [("192.0.2.1", "2001:db8::1"), ("2001:db8::1", "192.0.2.1")])
def test_not_between_families(parts: tuple[str, str]) -> None:
    one, other = (addresses.pack(part, 1) for part in parts)
    assert layout.obstacle(Key(one, one, 1), Target(other, other, 1, 1500)) == "it goes between IPv4 and IPv6"


@given(st.ip_addresses(v=6))
def test_no_link_local_addresses(host: object) -> None:
    other, local = addresses.pack("2001:db8::1", 1), addresses.pack(str(host), 1)
    expected = "it has a link-local address" if host.is_link_local else ""
    assert layout.obstacle(Key(local, other, 1), Target(other, other, 1, 1500)) == expected
    assert layout.obstacle(Key(other, other, 1), Target(other, local, 1, 1500)) == expected


def failing(error: OSError):
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("release", ["5.10.0-30-amd64", "6.18.1"])
@pytest.mark.parametrize(
    ("error", "says", "helps"),
    [
        (OSError(errno.ENOSYS, "Function not implemented"), "this kernel has no bpf", "CONFIG_BPF_SYSCALL"),
        (
            bpf.Refused(errno.EACCES, "R1 invalid: scalar"),
            "verifier refuses the program (R1 invalid: scalar)",
            "report",
        ),
        (OSError(errno.EINVAL, "Invalid argument"), "bpf() failed (Invalid argument)", "dmesg"),
        (OSError(errno.EPERM, "Operation not permitted"), "the kernel does not permit bpf()", "privileged"),
    ],
)
def test_causes(monkeypatch, tmp_path: Path, error: OSError, says: str, helps: str, release: str) -> None:
    monkeypatch.setattr(needs, "check", lambda folder: None)
    monkeypatch.setattr(needs.platform, "release", lambda: release)
    monkeypatch.setattr(bpf, "create_map", failing(error))
    monkeypatch.setattr(bpf, "pinned", lambda path: None)
    with pytest.raises(table.Unavailable) as caught:
        table.KernelTable.open(tmp_path / "table", 10)
    why, _, fix = str(caught.value).rpartition(": ")
    assert says in why
    old = release.startswith("5") and error.errno != errno.EPERM
    assert ("Linux 5.15 or newer is needed, this is 5.10" if old else helps) in fix
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("granted", "says"),
    [
        (0, "the service lacks CAP_BPF: "),
        (1 << 12, "the service lacks CAP_BPF: "),
        (1 << 39, "the service lacks CAP_NET_ADMIN: "),
        (1 << 12 | 1 << 39, "the service lacks CAP_NET_RAW: "),
        (1 << 12 | 1 << 13 | 1 << 39, "is in no bpf file system: mount -t bpf bpf /"),
        (1 << 13 | 1 << 21, "is in no bpf file system: mount -t bpf bpf /"),
    ],
)
def test_what_the_service_may_not(monkeypatch, tmp_path: Path, granted: int, says: str) -> None:
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython3\nCapEff:\t{granted:016x}\nCapBnd:\t0\n")
    monkeypatch.setattr(needs, "_STATUS", status)
    with pytest.raises(table.Unavailable, match=says):
        table.KernelTable.open(tmp_path / "table", 10)


def test_big_endian(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(needs.sys, "byteorder", "big")
    with pytest.raises(table.Unavailable, match="little-endian"):
        table.KernelTable.open(tmp_path / "table", 10)


def test_an_unknown_machine(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bpf, "_NUMBER", None)
    monkeypatch.setattr(needs, "check", lambda folder: None)
    with pytest.raises(table.Unavailable, match="no bpf"):
        table.KernelTable.open(tmp_path / "table", 10)


def test_nothing_to_destroy(tmp_path: Path) -> None:
    table.KernelTable.destroy_pinned(tmp_path / "table")


def test_root_removes_nothing_of_others_by_a_link_of_the_services(tmp_path: Path) -> None:
    """The directory is the service's own: whoever has taken it over makes a link of the table's folder."""
    others = tmp_path / "others"
    others.mkdir()
    (others / "link-7").touch()
    (tmp_path / "table").symlink_to(others)
    with pytest.raises(NotADirectoryError):
        table.KernelTable.destroy_pinned(tmp_path / "table")
    assert [path.name for path in others.iterdir()] == ["link-7"]
