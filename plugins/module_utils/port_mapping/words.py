# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stranger's words, fit to be shown to people."""

from __future__ import annotations


def printable(words: str, most: int = 100) -> str:
    """Return one line without control characters, terminal escapes and lone surrogates, and not too long."""
    clean = words[: 4 * most]  # a little more than is shown: much of it may be blanks
    if not clean.isprintable():
        clean = "".join(letter if letter.isprintable() else " " for letter in clean)
    clean = clean.strip()
    return clean if len(clean) <= most else clean[: most - 1] + "…"
