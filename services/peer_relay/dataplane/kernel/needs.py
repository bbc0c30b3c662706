# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel plane needs of the host, and what is missing: each reason ends in ": " and what helps."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path

from peer_relay.dataplane.kernel import bpf

_OLDEST_KERNEL = (5, 15)
_SYS_ADMIN = 1 << 21
_CAPABILITIES = {"BPF": 1 << 39 | _SYS_ADMIN, "NET_ADMIN": 1 << 12 | _SYS_ADMIN, "NET_RAW": 1 << 13}  # any of the bits
_BPFFS = 0xCAFE4A11
_STATUS = Path("/proc/self/status")
_libc = ctypes.CDLL(None, use_errno=True)


class Unavailable(Exception):
    """Why the kernel cannot forward, and what helps."""


def check(folder: Path) -> None:
    """Raise Unavailable for what can be told without trying; `folder` is where the table will be pinned."""
    if sys.byteorder != "little":
        raise Unavailable("the program is built for little-endian machines only: use the data plane userspace")
    granted = int(_STATUS.read_text().split("CapEff:")[1].split()[0], 16)
    for name, enough in _CAPABILITIES.items():
        if not granted & enough:
            raise Unavailable(
                f"the service lacks CAP_{name}: the role grants it unless relay_data_plane is userspace; a container"
                f" has it from its host (--cap-add {name})"
            )
    if not _in_bpffs(folder.parent):
        raise Unavailable(f"{folder.parent} is in no bpf file system: mount -t bpf bpf {folder.parent}")


def _in_bpffs(folder: Path) -> bool:
    answer = ctypes.create_string_buffer(256)
    return _libc.statfs(os.fsencode(folder), answer) == 0 and struct.unpack_from("@L", answer)[0] == _BPFFS


def cause(error: OSError) -> str:
    """Return what a failed system call means, and what helps."""
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    newer = f"Linux 5.15 or newer is needed, this is {release}"
    if isinstance(error, bpf.Refused):
        why = f"the kernel's verifier refuses the program ({error.strerror})"
        return (
            f"{why}: {newer if numbers < _OLDEST_KERNEL else f'report it with these words and the kernel, {release}'}"
        )
    if error.errno == errno.ENOSYS:
        return f"this kernel has no bpf() system call: {newer}, with CONFIG_BPF_SYSCALL"
    if error.errno == errno.EPERM:
        return (
            "the kernel does not permit bpf() here: let the container do it (its seccomp profile), or run it privileged"
        )
    why = f"{error.filename or 'bpf()'} failed ({error.strerror})"
    return f"{why}: {newer if numbers < _OLDEST_KERNEL else 'look at what the kernel says (dmesg)'}"
