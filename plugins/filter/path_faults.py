# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: path_faults
short_description: What is wrong with the paths, a line for each cause
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Groups the paths that do not work by what they have in common, and says what to do.
  - Hosts that Ansible did not reach either have one line, and devices that are not managed, which may sleep, have one
    altogether.
positional: "off"
options:
  _input:
    description: The paths, as P(homelab.peer_relay.path_rows#filter) returns them.
    type: list
    elements: dict
    required: true
  "off":
    description: The names of relays that Ansible did not reach.
    type: list
    elements: str
    default: []
seealso:
  - plugin: homelab.peer_relay.path_rows
    plugin_type: filter
  - module: homelab.peer_relay.path_info
"""

EXAMPLES = r"""
- name: Say what to do
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.path_rows(hostvars, 'result') | homelab.peer_relay.path_faults }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - "Ansible did not reach dev03, dev09: is it on, and its ansible_host right?"
    - "dev01, dev02 and 21 more -> dev05: the last handshake was 240 s ago: is it still on?"
"""

import re
from collections import Counter

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.hosts import NOT_REACHED
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.table import listed


def path_faults(rows, off=()):
    bad = [row for row in rows if not row["ok"]]
    silent = [row for row in bad if row["to"] == "anybody"]
    off = [*off, *(row["from"] for row in silent if row["reason"] == NOT_REACHED)]
    rest = [row for row in bad if row["managed"] and row["to"] not in off and row["to"] != "anybody"]
    asleep = sorted({row["to"] for row in bad if not row["managed"]})
    lines = [_off(off, rows)] if off else []
    lines += _grouped([row for row in silent if row["from"] not in off], lambda row: ("from", row["reason"]))
    lines += _grouped(rest, _by_what_fails_most(rest))
    if asleep:
        lines.append(f"No answer from {listed(asleep)}: not managed, so it may be off or asleep, which is no fault.")
    return lines


def _off(names, rows) -> str:
    awake = sorted({row["to"] for row in rows if row["to"] in names and row["ok"]})
    still = f" In the overlay {listed(awake)} {'answers' if len(awake) == 1 else 'answer'}." if awake else ""
    return f"Ansible did not reach {listed(names)}: is it on, and its ansible_host right?{still}"


def _by_what_fails_most(rows):
    sources, targets = (Counter(row[end] for row in rows) for end in ("from", "to"))

    def key(row):
        end = "from" if sources[row["from"]] > targets[row["to"]] else "to"
        # Ages differ from row to row.
        return end, row[end], re.sub(r"\d+", "", row["reason"]) if end == "to" else ""

    return key


def _grouped(rows, key) -> list[str]:
    groups: dict = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return [_line(group) for group in groups.values()]


def _line(group) -> str:
    sources, targets = (listed(sorted({row[end] for row in group})) for end in ("from", "to"))
    first = group[0]
    return f"{sources} -> {targets}: {first['reason']}{': ' if first['cure'] else ''}{first['cure']}"


class FilterModule:
    def filters(self):
        return {"path_faults": path_faults}
