# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the program is attached: tcx links, or filters of a clsact queueing discipline where the kernel has no tcx.

Links are pinned. A filter stays by itself, so a pin of the program remembers each, and one more each clsact of our own.
Programs of others on the same interface are left alone; they come first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from peer_relay.dataplane.kernel import bpf, netlink

_NEWQDISC, _DELQDISC, _NEWTFILTER, _DELTFILTER, _GETTFILTER = 36, 37, 44, 45, 46
_TC = struct.Struct("=BxHiIII")  # family, unused, interface, handle, parent, info
_CLSACT, _CLSACT_PARENT, _INGRESS, _EGRESS = 0xFFFF0000, 0xFFFFFFF1, 0xFFFFFFF2, 0xFFFFFFF3
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS, _BPF_ID, _DIRECT_ACTION = 6, 7, 8, 11, 1
_ALL_PROTOCOLS = 3
_PRIORITY = 50000 << 16 | socket.htons(_ALL_PROTOCOLS)  # behind what `tc` numbers by itself (49152 and less)
_NAME = b"peer-relay\0"


class Links:
    """Links to interfaces, pinned as `link-INDEX` (Linux 6.6)."""

    name = "tcx"

    def __init__(self, folder: Path):
        self._folder = folder

    def attached(self) -> Iterator[int]:
        """Return the interfaces that there are links for, even if they are gone."""
        return _numbers(self._folder, "link-")

    def attach(self, interface: int, program: int) -> None:
        """Attach the program, or put it in place of the one before. EINVAL: this kernel has no tcx."""
        path = self._folder / f"link-{interface}"
        link = bpf.pinned(path)
        if link is not None:
            with contextlib.closing(_Descriptor(link)):
                info = bpf.link_info(link)
                if info.interface == interface:
                    if info.program != bpf.program_info(program).id:
                        bpf.update_link(link, program)
                    return
            path.unlink()  # its interface is gone
        with contextlib.closing(_Descriptor(bpf.create_link(program, interface))) as made:
            bpf.pin(made.number, path)

    def detach(self, interface: int) -> None:
        """Detach the program."""
        path = self._folder / f"link-{interface}"
        # Removing the pin detaches, too, a little later: that is what a service without capabilities may do.
        with contextlib.suppress(OSError):
            link = bpf.pinned(path)
            if link is not None:
                with contextlib.closing(_Descriptor(link)):
                    bpf.detach_link(link)
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave everything attached."""


class Filters:
    """Filters of the queueing discipline clsact, remembered as `filter-INDEX` and `qdisc-INDEX`."""

    name = "clsact"

    def __init__(self, folder: Path):
        self._folder = folder
        self._handle = zlib.crc32(os.fsencode(folder)) or 1  # relays that share an interface do not share the filter
        self._opened: netlink.Connection | None = None

    @property
    def _netlink(self) -> netlink.Connection:
        """Opened when first used: a service that has never had a filter may not be allowed to."""
        if self._opened is None:
            self._opened = netlink.Connection()
        return self._opened

    def attached(self) -> Iterator[int]:
        """Return the interfaces that there are filters for, even if they are gone."""
        return _numbers(self._folder, "filter-")

    def attach(self, interface: int, program: int) -> None:
        """Attach the program, or put it in place of the one before."""
        present = self._filter(interface)
        if present:
            if present.get(_BPF_NAME) != _NAME:
                raise OSError(errno.EEXIST, "a filter of somebody else's has our place")
            if present.get(_BPF_ID) == struct.pack("=I", bpf.program_info(program).id):
                return
        else:
            self._add_qdisc(interface, program)
        bpf.pin(program, self._folder / f"filter-{interface}")
        options = netlink.nested(
            _OPTIONS,
            netlink.attribute(_BPF_FD, struct.pack("=I", program)),
            netlink.attribute(_BPF_NAME, _NAME),
            netlink.attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION)),
        )
        message = self._about_filter(interface) + netlink.attribute(_KIND, b"bpf\0") + options
        self._netlink.ask(_NEWTFILTER, netlink.CREATE, message)

    def _add_qdisc(self, interface: int, program: int) -> None:
        message = _TC.pack(0, 0, interface, _CLSACT, _CLSACT_PARENT, 0) + netlink.attribute(_KIND, b"clsact\0")
        try:
            self._netlink.ask(_NEWQDISC, netlink.CREATE | netlink.EXCLUSIVE, message)
        except FileExistsError:
            return  # somebody else's, which serves us as well
        bpf.pin(program, self._folder / f"qdisc-{interface}")

    def detach(self, interface: int) -> None:
        """Remove our filter, and clsact if we added it and nobody else uses it."""
        with contextlib.suppress(OSError):  # what is gone already
            if self._filter(interface).get(_BPF_NAME) == _NAME:
                self._netlink.ask(_DELTFILTER, 0, self._about_filter(interface) + netlink.attribute(_KIND, b"bpf\0"))
            ours = self._folder / f"qdisc-{interface}"
            if ours.exists():
                ours.unlink()
                if not any(self._filters(interface, parent) for parent in (_INGRESS, _EGRESS)):
                    self._netlink.ask(_DELQDISC, 0, _TC.pack(0, 0, interface, _CLSACT, _CLSACT_PARENT, 0))
        (self._folder / f"filter-{interface}").unlink()

    def _about_filter(self, interface: int) -> bytes:
        return _TC.pack(0, 0, interface, self._handle, _INGRESS, _PRIORITY)

    def _filter(self, interface: int) -> dict[int, bytes]:
        """Return the attributes of the filter in our place, {} when there is none."""
        try:
            answer = self._netlink.ask(
                _GETTFILTER, 0, self._about_filter(interface) + netlink.attribute(_KIND, b"bpf\0")
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                return {}
            raise
        return netlink.attributes(netlink.attributes(answer[0][_TC.size :]).get(_OPTIONS, b"")) if answer else {}

    def _filters(self, interface: int, parent: int) -> list[bytes]:
        return self._netlink.ask(_GETTFILTER, netlink.DUMP, _TC.pack(0, 0, interface, 0, parent, 0))

    def close(self) -> None:
        """Leave everything attached."""
        if self._opened:
            self._opened.close()


class Attachments:
    """All interfaces that the program is attached to. `methods` are tried in this order."""

    methods = (Links, Filters)

    def __init__(self, folder: Path):
        self._methods = [method(folder) for method in self.methods]
        self.how = {interface: method.name for method in self._methods for interface in method.attached()}

    def attach(self, wanted: dict[int, int]) -> dict[int, str]:
        """Attach to exactly these interfaces the program given for each; return why it is not to some."""
        refused: dict[int, str] = {}
        self.how = {}
        for method in self._methods:
            for interface in set(method.attached()) - set(wanted):
                method.detach(interface)
        for interface, program in wanted.items():
            for method in self._methods:
                try:
                    method.attach(interface, program)
                except OSError as error:
                    refused[interface] = error.strerror or str(error)
                    if error.errno == errno.EINVAL:
                        continue  # this kernel does not have it
                else:
                    refused.pop(interface, None)
                    self.how[interface] = method.name
                    self._detach_others(interface, method)
                break
        return refused

    def _detach_others(self, interface: int, chosen: Links | Filters) -> None:
        """After a change of kernels or methods, nothing must be attached twice."""
        for method in self._methods:
            if method is not chosen and interface in set(method.attached()):
                method.detach(interface)

    def close(self) -> None:
        """Leave everything attached."""
        for method in self._methods:
            method.close()


class _Descriptor:
    """Closes a file descriptor."""

    def __init__(self, number: int):
        self.number = number

    def close(self) -> None:
        os.close(self.number)


def _numbers(folder: Path, prefix: str) -> Iterator[int]:
    names = (path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}*"))
    return (int(name) for name in names if name.isdigit())
