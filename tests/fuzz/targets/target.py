# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One parser that is fuzzed, and words that several of them know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[3]

JSON_WORDS = [b"null", b"{}", b"[]", b"[", b"}", b",", b":", b'""', b"-1", b"1e999", b"NaN", b"true", b"0", b'"ff"']

TOML_WORDS = [b"[", b"]", b'"', b"=", b"{}", b"0x" + b"f" * 40, b"1" * 5000, b"inf", b"nan", b"true", b"\\u0000", b"''"]


class Target(NamedTuple):
    """One parser."""

    run: Callable[[bytes], object]
    expected: tuple[type[Exception], ...]
    corpus: list[bytes]
    words: list[bytes] = []
