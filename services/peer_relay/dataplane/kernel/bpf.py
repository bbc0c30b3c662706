# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bpf() system call: maps, programs, links, and their pins in a bpffs. Errors are OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# System call numbers; all machines that came later share one list.
_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "armv7l": 386,
    "armv6l": 386,
    "i686": 357,
}
_NUMBER = _NUMBERS.get(platform.machine())
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _PROGRAM_LOAD, _PIN, _GET, _INFO = 0, 1, 2, 3, 5, 6, 7, 15
_LOOKUP_AND_DELETE, _LOOKUP_BATCH, _LINK_CREATE, _LINK_UPDATE, _LINK_DETACH = 21, 24, 28, 29, 34
_HASH, _NO_PREALLOC = 1, 1
_SCHED_CLS, _TCX_INGRESS = 3, 46
_BATCH = 4096
_LOG_SIZE = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def _call(command: int, attributes: ctypes.Array) -> int:
    if _NUMBER is None:
        raise OSError(errno.ENOSYS, f"the number of bpf() on {platform.machine()} is not known")
    result = _libc.syscall(_NUMBER, command, attributes, ctypes.sizeof(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _attributes(form: str, *values: object) -> ctypes.Array:
    return ctypes.create_string_buffer(packed := struct.pack("=" + form, *values), len(packed))


def _name(name: str) -> bytes:
    return name.encode()[:15]


class Map:
    """A hash table of the kernel's, by file descriptor."""

    def __init__(self, fd: int, key_size: int, value_size: int):
        self.fd = fd
        self._key, self._value = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(value_size)
        self._sizes = key_size, value_size
        pointers = ctypes.addressof(self._key), ctypes.addressof(self._value)
        self._element = _attributes("I4xQQQ", fd, *pointers, 0)

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        return self._fetch(_LOOKUP, key)

    def pop(self, key: bytes) -> bytes | None:
        """Remove a key and return its value."""
        return self._fetch(_LOOKUP_AND_DELETE, key)

    def _fetch(self, command: int, key: bytes) -> bytes | None:
        self._key.raw = key
        try:
            _call(command, self._element)
        except FileNotFoundError:
            return None
        return self._value.raw

    def set(self, key: bytes, value: bytes) -> None:
        """Add a key, or replace its value as a whole. E2BIG when the table is full."""
        self._key.raw, self._value.raw = key, value
        _call(_UPDATE, self._element)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Return all keys and values."""
        key_size, value_size = self._sizes
        for keys, values in self.batches():
            for number in range(len(keys) // key_size):
                yield (
                    keys[number * key_size : (number + 1) * key_size],
                    values[number * value_size : (number + 1) * value_size],
                )

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Return keys and values, many at a time; what changes meanwhile may be missing or come twice."""
        key_size, value_size = self._sizes
        room, begun, more = _BATCH, False, True
        place = ctypes.create_string_buffer(max(4, key_size)), ctypes.create_string_buffer(max(4, key_size))
        while more:
            keys, values = ctypes.create_string_buffer(room * key_size), ctypes.create_string_buffer(room * value_size)
            pointers = map(ctypes.addressof, (place[1], keys, values))
            start = ctypes.addressof(place[0]) if begun else 0
            attributes = _attributes("QQQQIIQQ", start, *pointers, room, self.fd, 0, 0)
            try:
                _call(_LOOKUP_BATCH, attributes)
            except FileNotFoundError:
                more = False  # that was the last batch
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                room *= 2  # less than what shares one bucket
                continue
            count = struct.unpack_from("=I", attributes, 32)[0]
            yield ctypes.string_at(keys, count * key_size), ctypes.string_at(values, count * value_size)
            begun = True
            place = place[1], place[0]


def create_map(name: str, key_size: int, value_size: int, size: int) -> Map:
    """Create a hash table whose memory grows with its entries."""
    attributes = _attributes("7I16s", _HASH, key_size, value_size, size, _NO_PREALLOC, 0, 0, _name(name))
    return Map(_call(_MAP_CREATE, attributes), key_size, value_size)


class Refused(OSError):
    """The verifier's refusal; the text is the end of what it says."""


def load_program(name: str, instructions: bytes) -> int:
    """Load a program for traffic control and return its file descriptor. Raise Refused with the verifier's words."""
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")

    def load(level: int, log: ctypes.Array | None) -> int:
        pointers = ctypes.addressof(code), ctypes.addressof(licence)
        room = (level, ctypes.sizeof(log), ctypes.addressof(log)) if log else (0, 0, 0)
        head = _SCHED_CLS, len(instructions) // 8, *pointers, *room, 0, 0, _name(name)
        return _call(_PROGRAM_LOAD, _attributes("IIQQIIQII16s", *head))

    try:
        return load(0, None)
    except OSError as refusal:
        log = ctypes.create_string_buffer(_LOG_SIZE)
        try:
            return load(1, log)
        except OSError:
            # The last but one line tells why; what follows are statistics.
            lines = log.value.decode(errors="replace").strip().splitlines()
            lines = [line.strip() for line in lines if not line.startswith("processed ")]
            if not lines:
                raise refusal from None
            raise Refused(refusal.errno, " / ".join(lines[-3:])) from None


def create_link(program: int, interface: int) -> int:
    """Attach a program to the ingress of an interface, behind those that are there; return the link (Linux 6.6)."""
    return _call(_LINK_CREATE, _attributes("IIIIIIQ", program, interface, _TCX_INGRESS, 0, 0, 0, 0))


def update_link(link: int, program: int) -> None:
    """Replace the program of a link in one step."""
    _call(_LINK_UPDATE, _attributes("IIII", link, program, 0, 0))


def detach_link(link: int) -> None:
    """Detach the program of a link at once."""
    _call(_LINK_DETACH, _attributes("I", link))


def pin(fd: int, path: Path) -> None:
    """Let an object live on under a path in a bpffs, in place of what was pinned there."""
    fresh = path.with_name(f"{path.name}-new")
    fresh.unlink(missing_ok=True)
    name = ctypes.create_string_buffer(os.fsencode(fresh))
    _call(_PIN, _attributes("QII", ctypes.addressof(name), fd, 0))
    fresh.rename(path)


def pinned(path: Path) -> int | None:
    """Return a file descriptor of what is pinned at a path."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    try:
        return _call(_GET, _attributes("QII", ctypes.addressof(name), 0, 0))
    except FileNotFoundError:
        return None


class MapInfo(NamedTuple):
    """What the kernel says of a map."""

    kind: int
    id: int
    key_size: int
    value_size: int
    size: int
    flags: int
    name: str


class ProgramInfo(NamedTuple):
    """What the kernel says of a program that uses at most one map (0: none)."""

    id: int
    name: str
    map: int


class LinkInfo(NamedTuple):
    """What the kernel says of a link; its interface is 0 once that is gone."""

    program: int
    interface: int


def _info(fd: int, buffer: ctypes.Array) -> bytes:
    _call(_INFO, _attributes("IIQ", fd, ctypes.sizeof(buffer), ctypes.addressof(buffer)))
    return buffer.raw


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="replace")


def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    answer = struct.unpack_from("=6I16s", _info(fd, ctypes.create_string_buffer(80)))
    kind, number, key_size, value_size, size, flags, name = answer
    return MapInfo(kind, number, key_size, value_size, size, flags, _text(name))


def program_info(fd: int) -> ProgramInfo:
    """Describe a program."""
    used = ctypes.c_uint32()
    ask = struct.pack("=52xIQ16s", 1, ctypes.addressof(used), b"")
    answer = _info(fd, ctypes.create_string_buffer(ask, len(ask)))
    return ProgramInfo(struct.unpack_from("=I", answer, 4)[0], _text(answer[64:80]), used.value)


def link_info(fd: int) -> LinkInfo:
    """Describe a link to an interface."""
    answer = _info(fd, ctypes.create_string_buffer(32))
    return LinkInfo(struct.unpack_from("=I", answer, 8)[0], struct.unpack_from("=I", answer, 16)[0])
