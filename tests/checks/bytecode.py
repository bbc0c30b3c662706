# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the bytecode of the kernel data plane from its source: python tests/checks/bytecode.py [--check]

The file has one instruction a line, in hexadecimal. Those that refer to the map carry BPF_PSEUDO_MAP_FD, and the loader
puts the file descriptor there. Another version of clang makes other instructions, so it has to be this one.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

CLANG = "clang-14"
ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "services/peer_relay/dataplane/kernel/forward.c"
PACKAGE = ROOT / "services/peer_relay/dataplane/kernel"
# Bytes before the IP header, by program.
PROGRAMS = {"ethernet": 14, "ip": 0}

_SECTION = b"tc"
_ELF_HEADER = struct.Struct("<40xQ10xHHH")  # where the table of sections is, size of an entry, entries, which has names
_SECTION_HEADER = struct.Struct("<II16xQQ24x")  # name, kind, offset, size
_RELOCATION = struct.Struct("<QQ")
_R_BPF_64_64 = 1
_INSTRUCTION = 8
_LOAD_64, _PSEUDO_MAP_FD = 0x18, 1


def compile_source(link: int) -> bytes:
    """Return the object file that clang makes of the source."""
    machine = subprocess.run([CLANG, "-print-multiarch"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.NamedTemporaryFile(suffix=".o") as made:
        # v2: with the narrower registers of v3, clang writes halves of words to the stack, which Linux 6.1 refuses.
        options = ["-target", "bpfel", "-mcpu=v2", "-O2", "-Wall", "-Wextra", "-Werror", f"-DLINK={link}"]
        options += [f"-I/usr/include/{machine}", "-c", str(SOURCE), "-o", made.name]
        subprocess.run([CLANG, *options], check=True)
        return Path(made.name).read_bytes()


def instructions(elf: bytes) -> bytes:
    """Return the program of an object file, its references to the map marked as such."""
    table, size, count, naming = _ELF_HEADER.unpack_from(elf)
    headers = [_SECTION_HEADER.unpack_from(elf, table + number * size) for number in range(count)]
    names = elf[headers[naming][2] :]
    sections = {names[name : names.index(b"\0", name)]: elf[at : at + length] for name, _, at, length in headers}
    code = bytearray(sections[_SECTION])
    for place, info in _RELOCATION.iter_unpack(sections.get(b".rel" + _SECTION, b"")):
        if info & 0xFFFFFFFF != _R_BPF_64_64 or code[place] != _LOAD_64:
            sys.exit(f"bytecode: instruction {place // _INSTRUCTION} refers to something else than the map")
        code[place + 1] = code[place + 1] & 0x0F | _PSEUDO_MAP_FD << 4
    return bytes(code)


def main() -> None:
    check = "--check" in sys.argv[1:]
    if not shutil.which(CLANG):
        print(f"bytecode: {CLANG} is missing: tests/lab/setup installs it. NOTHING HAS BEEN COMPARED.", file=sys.stderr)
        # A distribution without it can still check everything else; the project's own run has to compare.
        sys.exit(0 if check and not os.environ.get("CI") else 1)
    for name, link in PROGRAMS.items():
        code = instructions(compile_source(link))
        text = "".join(f"{code[at : at + _INSTRUCTION].hex()}\n" for at in range(0, len(code), _INSTRUCTION))
        path = PACKAGE / f"{name}.bpf"
        if not check:
            path.write_text(text, encoding="ascii")
        elif not path.exists() or path.read_text(encoding="ascii") != text:
            sys.exit(f"bytecode: {path} is not what {CLANG} makes of {SOURCE}: run tests/checks/bytecode.py")
        print(f"bytecode: {path.name}, {len(code) // _INSTRUCTION} instructions, as {CLANG} makes it")


if __name__ == "__main__":
    main()
