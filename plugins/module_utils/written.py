# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last look at text before it is written; the code is where start-up on the target gets it installed as well."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.written import (
    WrittenError,
    one_line,
    shown,
    word,
)

__all__ = ["WrittenError", "one_line", "shown", "toml", "word"]


def toml(value: Any) -> str:
    """A string, number, truth value or list as TOML has it."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value, allow_nan=False)
    if not isinstance(value, str):
        raise WrittenError(f"{shown(value)} is a {type(value).__name__}: give text, a number or a list")
    # Without surrogates and control characters, a JSON string is a TOML one.
    return json.dumps(one_line(value), ensure_ascii=False)
