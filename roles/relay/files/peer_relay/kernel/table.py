# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of the kernel data plane: which packets go where, and how many did. It outlives the process.

Addresses are those of `peer_relay.addresses`, with port. The program in roles/relay/files/bpf has the same structures.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from peer_relay import addresses
from peer_relay.kernel import bpf, netlink
from peer_relay.kernel.attach import Attachments
from peer_relay.kernel.entry import FULL, Count, Key, Target
from peer_relay.kernel.program import Program
from peer_relay.kernel.route import interfaces

_LAYOUT = "pr_entries_1"  # the map's name: another number for another layout
_KEY = struct.Struct("<16s16sI2s2s")
_TARGET = struct.Struct("=16s16s2s2sIIII4x")
_COUNT = struct.Struct("=QQQ")
_VALUE_SIZE = _TARGET.size + _COUNT.size
_MAPPED = bytes(10) + b"\xff\xff"
_V4_FAMILY, _V6_FAMILY = (addresses.pack(host, 0)[:2] for host in ("127.0.0.1", "::1"))
_LINK_LOCAL = 0xFE80 >> 6
_OLDEST_KERNEL = (5, 15)
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF = 12, 21, 39
_BPFFS = 0xCAFE4A11
_STATUS = Path("/proc/self/status")
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Why the kernel cannot forward, and what helps."""


def _host(address: bytes) -> bytes:
    host = addresses.host_bytes(address)
    return host if len(host) == 16 else _MAPPED + host


def _address(host: bytes, port: bytes) -> bytes:
    if host.startswith(_MAPPED):
        return _V4_FAMILY + port + host[12:]
    return _V6_FAMILY + port + bytes(4) + host + bytes(4)


def _change(after: bytes, before: bytes) -> int:
    """Return the difference of two sums of 32-bit words in ones' complement arithmetic."""
    return (int.from_bytes(after, sys.byteorder) - int.from_bytes(before, sys.byteorder)) % 0xFFFFFFFF


def encode(key: Key, target: Target) -> tuple[bytes, bytes]:
    """Return a key and a target as the program reads them."""
    before, after = _host(key.source) + _host(key.local), _host(target.destination) + _host(target.local)
    ports_before, ports_after = key.source[2:4] + key.local[2:4], target.destination[2:4] + target.local[2:4]
    changes = _change(after, before), _change(ports_after, ports_before)
    return (
        before + struct.pack("<I", key.index) + ports_before,
        after + ports_after + struct.pack("=IIII4x", target.interface, target.mtu, *changes),
    )


def decode_key(data: bytes) -> Key:
    """Return a key from what the program reads."""
    source, local, index, source_port, local_port = _KEY.unpack(data)
    return Key(_address(source, source_port), _address(local, local_port), index)


def decode_target(data: bytes) -> Target:
    """Return a target from what the program reads."""
    destination, local, destination_port, local_port, interface, mtu, _, _ = _TARGET.unpack_from(data)
    return Target(_address(destination, destination_port), _address(local, local_port), interface, mtu)


def obstacle(key: Key, target: Target) -> str:
    """Return why the kernel cannot forward this, "" if it can."""
    parts = key.source, key.local, target.destination, target.local
    if len({len(part) for part in parts}) > 1:
        return "it goes between IPv4 and IPv6"
    if len(key.source) == addresses.V6_SIZE and any(
        int.from_bytes(addresses.host_bytes(part)[:2], "big") >> 6 == _LINK_LOCAL for part in parts
    ):
        return "it has a link-local address"
    return ""


class KernelTable:
    """The map, the programs, and the interfaces that they are attached to. Made by `open`."""

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        self._attachments = Attachments(folder)
        self._programs: dict[str, int] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self._attachments.close)
            self._netlink = undo.enter_context(contextlib.closing(netlink.Connection()))
            self._map = self._open_map()
            undo.callback(os.close, self._map.fd)
            undo.callback(lambda: [os.close(fd) for fd in self._programs.values()])
            self._program("ethernet")
            self.attach(self._attachments.how)
            self._open = undo.pop_all()

    @classmethod
    def open(cls, folder: Path, size: int) -> KernelTable:
        """Take over what is pinned in a folder, or begin; what is attached goes on forwarding meanwhile.

        When that fails, nothing forwards any more: nobody would look after it.
        """
        if sys.byteorder != "little":
            raise Unavailable("the program is built for little-endian machines only")
        if not _in_bpffs(folder.parent):
            raise Unavailable(f"{folder.parent} is in no bpf file system: mount -t bpf bpf /sys/fs/bpf")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            return cls(folder, size)
        except OSError as error:
            with contextlib.suppress(OSError):
                cls.destroy_pinned(folder)
            raise Unavailable(cause(error)) from error

    def _open_map(self) -> bpf.Map:
        """Return the pinned map if it fits, or else a new one with the entries of that."""
        path = self.folder / "entries"
        fd = bpf.pinned(path)
        before = None
        if fd is not None:
            info = bpf.map_info(fd)
            if (info.name, info.key_size, info.value_size) == (_LAYOUT, _KEY.size, _VALUE_SIZE):
                before = bpf.Map(fd, _KEY.size, _VALUE_SIZE)
                if info.size == self.size:
                    return before
            else:
                os.close(fd)
        made = bpf.create_map(_LAYOUT, _KEY.size, _VALUE_SIZE, self.size)
        if before:
            with contextlib.suppress(OSError):  # full
                for key, value in before.items():
                    made.set(key, value)
            os.close(before.fd)
        bpf.pin(made.fd, path)
        return made

    def _program(self, kind: str) -> int:
        """Return the pinned program if it is the one that we have, or else that one."""
        if kind in self._programs:
            return self._programs[kind]
        path, program = self.folder / f"program-{kind}", Program(kind)
        fd = bpf.pinned(path)
        if fd is not None:
            info = bpf.program_info(fd)
            if info.name != program.name or info.map != bpf.map_info(self._map.fd).id:
                os.close(fd)
                fd = None
        if fd is None:
            fd = program.load(self._map.fd)
            bpf.pin(fd, path)
        self._programs[kind] = fd
        return fd

    @property
    def how(self) -> dict[int, str]:
        """How the program is attached to each interface."""
        return dict(self._attachments.how)

    def attach(self, wanted: Iterable[int]) -> dict[int, str]:
        """Attach to exactly these interfaces; return why not to some. Call it after each change of the network."""
        present = interfaces(self._netlink)
        programs, refused = {}, {}
        for index in wanted:
            found = present.get(index)
            if found is None:
                refused[index] = "it is gone"
            elif found.refused:
                refused[index] = found.refused
            else:
                programs[index] = self._program(found.program)
        return refused | self._attachments.attach(programs)

    def put(self, entries: Iterable[tuple[Key, Target]]) -> dict[Key, str]:
        """Add or change entries, whose counts go on; return why some cannot be."""
        refused = {}
        for key, target in entries:
            reason = obstacle(key, target)
            if not reason:
                code, content = encode(key, target)
                known = self._map.get(code) or bytes(_VALUE_SIZE)
                if known.startswith(content):
                    continue
                try:
                    self._map.set(code, content + known[_TARGET.size :])
                except OSError as error:
                    reason = FULL if error.errno == errno.E2BIG else str(error)
            if reason:
                refused[key] = reason
        return refused

    def remove(self, keys: Iterable[Key]) -> dict[Key, Count]:
        """Remove entries; return what they have counted."""
        counts = {}
        for key in keys:
            value = self._map.take(encode(key, Target(key.source, key.local, 0, 0))[0])
            if value:
                counts[key] = Count(*_COUNT.unpack_from(value, _TARGET.size))
        return counts

    def read(self, since: int = 0) -> dict[Key, tuple[Target, Count]]:
        """Return all entries, or those that have forwarded after a moment (time.monotonic_ns)."""
        found = {}
        for key, value in self._map.items():
            count = Count(*_COUNT.unpack_from(value, _TARGET.size))
            if count.last_ns >= since:
                found[decode_key(key)] = decode_target(value), count
        return found

    def close(self) -> None:
        """Let go of everything; forwarding goes on."""
        self._open.close()

    def destroy(self) -> None:
        """End forwarding and leave nothing behind."""
        self.close()
        self.destroy_pinned(self.folder)

    @staticmethod
    def destroy_pinned(folder: Path) -> None:
        """End what is pinned in a folder, and leave nothing behind; fine when there is nothing."""
        if not folder.is_dir():
            return
        attachments = Attachments(folder)
        attachments.attach({})
        attachments.close()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def _in_bpffs(folder: Path) -> bool:
    answer = ctypes.create_string_buffer(256)
    return _libc.statfs(os.fsencode(folder), answer) == 0 and struct.unpack_from("@L", answer)[0] == _BPFFS


def _age() -> str:
    """Return a hint if the kernel is older than what the program needs."""
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    return "" if numbers >= _OLDEST_KERNEL else f" (Linux 5.15 or newer is needed, this is {release})"


def cause(error: OSError) -> str:
    """Return what a failed system call means, and what helps."""
    if isinstance(error, bpf.Refused):
        return f"the kernel's verifier refuses the program: {error.strerror}{_age()}"
    if error.errno == errno.ENOSYS:
        return f"this kernel has no bpf() system call{_age()}"
    if error.errno == errno.EPERM:
        status = _STATUS.read_text()
        granted = int(status.split("CapEff:")[1].split()[0], 16)
        has = {number for number in (_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_BPF) if granted >> number & 1}
        if not has & {_CAP_SYS_ADMIN, _CAP_BPF}:
            return "the service lacks CAP_BPF"
        if not has & {_CAP_SYS_ADMIN, _CAP_NET_ADMIN}:
            return "the service lacks CAP_NET_ADMIN"
        return "the kernel does not permit bpf() here, as in a container without privileges"
    return f"{error.filename or 'bpf()'}: {error.strerror}{_age()}"
