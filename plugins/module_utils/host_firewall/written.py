# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last look at text before it becomes part of a configuration file: what that file would take for more than text.

Whoever calls has judged its values already; a writer refuses all the same what would end a line, a string or a word.
"""

from __future__ import annotations

import re
from typing import Any

# Plain in whatever we write: units of systemd, nft, sysctl, wg-quick and sh. No quotes, blanks, '%', '$' or '\'.
_WORD = re.compile(r"[A-Za-z0-9_./:@+][A-Za-z0-9_./:@+-]*")
_SHOWN = 80


class WrittenError(ValueError):
    """A value that must not be written; the message shows it."""


def shown(value: Any) -> str:
    """A value for a message, in plain ASCII and of bounded length."""
    return f"{str(value)[:_SHOWN]!a}{'...' if len(str(value)) > _SHOWN else ''}"


def one_line(value: Any) -> str:
    """Text that stays on its line: no control character, no separator of lines, no half of a surrogate pair."""
    text = str(value)
    if not text.isprintable():
        raise WrittenError(f"{shown(text)} has characters that are no text: write it in one line, without them")
    return text


def word(value: Any) -> str:
    """Text that is one plain word."""
    text = str(value)
    if not _WORD.fullmatch(text):
        raise WrittenError(f"{shown(text)} is not one word: use letters of ASCII, digits and _./:@+-")
    return text
