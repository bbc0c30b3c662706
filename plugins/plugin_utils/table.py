# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of text, as the playbooks show them."""

from __future__ import annotations


def table(head, rows, empty="-") -> list[str]:
    """The lines of a table with aligned columns; what is missing or empty is a dash, or what is given for it.

    Ansible's output in YAML breaks long lines at single spaces, so cells far to the right have none.
    """
    cells = [head, *([str(cell or empty) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def listed(names, most=5) -> str:
    """The names, or how many they are beyond the first."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def milliseconds(value) -> str:
    return "" if value is None else f"{value:.1f}ms"


def duration(seconds) -> str:
    if seconds is None:
        return ""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
