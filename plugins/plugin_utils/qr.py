# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""QR codes of profiles: as PNG and SVG, and for a terminal. The library segno makes the code itself."""

from __future__ import annotations

import io
from importlib import import_module
from typing import Any


def _library() -> Any:
    try:
        return import_module("segno")
    except ImportError:
        return None


segno = _library()
MISSING = "QR codes need the Python library segno on the control node: apt install python3-segno, or pip install segno"
MAX_BYTES = 2953  # ISO/IEC 18004: version 40, error correction L, bytes
_MARGIN = 4  # modules that the standard wants empty around the code
# Black on white in numbers of the palette of 256, which themes leave alone: scannable on light and dark terminals.
_COLOURS = "\033[38;5;16;48;5;231m"
_PLAIN = "\033[0m"


def fits(text: str) -> bool:
    return len(text.encode()) <= MAX_BYTES


def encode(text: str):
    """The code of a text that fits, with the least error correction: a screen has no stains."""
    return segno.make(text.encode(), error="l", boost_error=False, micro=False)


def png(code) -> bytes:
    image = io.BytesIO()
    code.save(image, kind="png", scale=6, border=_MARGIN)
    return image.getvalue()


def svg(code) -> bytes:
    image = io.BytesIO()
    code.save(image, kind="svg", scale=6, border=_MARGIN, light="white")
    return image.getvalue()


def terminal(code) -> str:
    """Two rows of the code in each line, as half blocks."""
    rows = [list(row) for row in code.matrix_iter(border=_MARGIN)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    blocks = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
    pairs = zip(rows[::2], rows[1::2], strict=True)
    lines = ("".join(blocks[bool(upper), bool(lower)] for upper, lower in zip(*pair, strict=True)) for pair in pairs)
    return "\n".join(f"{_COLOURS}{line}{_PLAIN}" for line in lines)
