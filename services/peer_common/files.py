# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a service's own, in folders where others may put something in their place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def read(file: Path, max_size: int) -> bytes:
    """Return the content of a regular file of at most `max_size` bytes; raise OSError, or ValueError where it is none.

    Root reads files in a service's folder too: a link leads nowhere, and a pipe or a device keeps nobody waiting.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a file")
        content = stream.read(max_size + 1)
    if len(content) > max_size:
        raise ValueError(f"more than {max_size} bytes")
    return content


def replace(file: Path, pieces: Iterable[str], mode: int) -> None:
    """Put a text in the file's place in one step: a crash leaves the old one or the new one. Raise OSError."""
    new = file.with_name(f"{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, mode)  # whatever the umask, and an earlier file, had in mind
        stream.writelines(pieces)
    new.replace(file)
