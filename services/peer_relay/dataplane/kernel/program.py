# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shipped bytecode (built from forward.c), and how it gets into the kernel."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from peer_relay.dataplane.kernel import bpf

_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1


class Program:
    """Instructions, and a name that no other version of them has."""

    def __init__(self, kind: str):
        # One instruction a line, in hexadecimal.
        self.instructions = bytes.fromhex(Path(__file__).with_name(f"{kind}.bpf").read_text(encoding="ascii"))
        self.name = f"pr_{hashlib.sha256(self.instructions).hexdigest()[:12]}"

    def load(self, entries: int) -> int:
        """Load it for a map, given by file descriptor; return the program's."""
        code = bytearray(self.instructions)
        offset = 0
        while offset < len(code):
            if code[offset] == _LOAD_64:
                if code[offset + 1] >> 4 == _PSEUDO_MAP_FD:
                    struct.pack_into("=i", code, offset + 4, entries)
                offset += 8  # it takes two places
            offset += 8
        return bpf.load_program(self.name, bytes(code))
