# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of the kernel data plane: which packets go where, and how many did. It outlives the process.

Addresses are those of `peer_relay.addresses`, with port.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

from peer_relay.dataplane.kernel import bpf, layout, needs, netlink
from peer_relay.dataplane.kernel.attach import Attachments
from peer_relay.dataplane.kernel.entry import FULL, Count, Key, Target
from peer_relay.dataplane.kernel.needs import Unavailable
from peer_relay.dataplane.kernel.program import Program
from peer_relay.dataplane.kernel.route import interfaces


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
            undo.callback(self._close_programs)
            self._program("ethernet")
            self.attach(self._attachments.how)
            self._resources = undo.pop_all()

    @classmethod
    def open(cls, folder: Path, size: int) -> KernelTable:
        """Take over what is pinned in a folder, or begin; what is attached goes on forwarding meanwhile.

        When that fails, nothing forwards any more: nobody would look after it.
        """
        needs.check(folder)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            return cls(folder, size)
        except OSError as error:
            with contextlib.suppress(OSError):
                cls.destroy_pinned(folder)
            raise Unavailable(needs.cause(error)) from error

    def _open_map(self) -> bpf.Map:
        """Return the pinned map if it fits, or else a new one with the entries of that."""
        path = self.folder / "entries"
        fd = bpf.pinned(path)
        before = None
        if fd is not None:
            info = bpf.map_info(fd)
            if (info.name, info.key_size, info.value_size) == (layout.NAME, layout.KEY_SIZE, layout.VALUE_SIZE):
                before = bpf.Map(fd, layout.KEY_SIZE, layout.VALUE_SIZE)
                if info.size == self.size:
                    return before
            else:
                os.close(fd)
        made = bpf.create_map(layout.NAME, layout.KEY_SIZE, layout.VALUE_SIZE, self.size)
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
            reason = layout.obstacle(key, target)
            if not reason:
                try:
                    self._put(layout.encode_key(key), layout.encode_target(key, target))
                except OSError as error:
                    reason = FULL if error.errno == errno.E2BIG else str(error)
            if reason:
                refused[key] = reason
        return refused

    def _put(self, key: bytes, target: bytes) -> None:
        known = self._map.get(key)
        if known is None:
            self._map.set(key, target.ljust(layout.VALUE_SIZE, b"\0"))
        elif not known.startswith(target):
            self._map.set(key, target + known[layout.TARGET_SIZE :])

    def remove(self, keys: Iterable[Key]) -> dict[Key, Count]:
        """Remove entries; return what they have counted."""
        values = ((key, self._map.pop(layout.encode_key(key))) for key in keys)
        return {key: layout.decode_count(value) for key, value in values if value}

    def read(self, since: int = 0) -> dict[Key, tuple[Target, Count]]:
        """Return all entries, or those that have forwarded after a moment (time.monotonic_ns)."""
        found = {}
        for keys, values in self._map.batches():
            for number, (last,) in enumerate(layout.LAST.iter_unpack(values)):
                if last >= since:
                    key = keys[number * layout.KEY_SIZE : (number + 1) * layout.KEY_SIZE]
                    value = values[number * layout.VALUE_SIZE : (number + 1) * layout.VALUE_SIZE]
                    found[layout.decode_key(key)] = layout.decode_target(value), layout.decode_count(value)
        return found

    def _close_programs(self) -> None:
        for fd in self._programs.values():
            os.close(fd)

    def close(self) -> None:
        """Let go of everything; forwarding goes on."""
        self._resources.close()

    def destroy(self) -> None:
        """End forwarding and leave nothing behind."""
        self.close()
        self.destroy_pinned(self.folder)

    @staticmethod
    def destroy_pinned(folder: Path) -> None:
        """End what is pinned in a folder, and leave nothing behind; fine when there is nothing.

        Root does this in a directory of the service's: OSError for a symbolic link in the folder's place, which may
        lead anywhere, and nothing is removed but by the folder that was opened.
        """
        with contextlib.ExitStack() as opened:
            try:
                number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return
            opened.callback(os.close, number)
            attachments = Attachments(folder)
            attachments.attach({})
            attachments.close()
            for name in os.listdir(number):  # noqa: PTH208 -- a Path has no descriptor
                os.unlink(name, dir_fd=number)
        folder.rmdir()
