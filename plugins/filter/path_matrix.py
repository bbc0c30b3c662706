# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: path_matrix
short_description: The paths of many devices at one look
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes lines of text from the paths that P(homelab.peer_relay.path_rows#filter) returns. Each device has a line, and
    whatever is reached a column.
options:
  _input:
    description: The paths.
    type: list
    elements: dict
    required: true
seealso:
  - plugin: homelab.peer_relay.path_rows
    plugin_type: filter
  - plugin: homelab.peer_relay.path_table
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Show the paths
  ansible.builtin.debug:
    msg: "{{ groups['peers'] | homelab.peer_relay.path_rows(hostvars, 'result') | homelab.peer_relay.path_matrix }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
  sample:
    - 'L lan, D direct, R relay, F fallback, x no answer; 1 is oslo'
    - '           1  2  3'
    - '2  laptop  R     L'
    - '3  nas     R  L'
"""

from ansible_collections.homelab.peer_relay.plugins.plugin_utils.table import table

LETTERS = {"lan": "L", "direct": "D", "relay": "R", "fallback": "F", "none": "x"}
LEGEND = ", ".join(f"{letter} {name}" for name, letter in LETTERS.items() if name != "none") + ", x no answer"


def path_matrix(paths):
    sources = list(dict.fromkeys(path["from"] for path in paths))
    others = dict.fromkeys(path["to"] for path in paths if path["to"] not in (*sources, "anybody"))
    numbers = {name: str(number) for number, name in enumerate([*others, *sources], 1)}
    cells = {(path["from"], path["to"]): LETTERS[path["path"]] if path["ok"] else "x" for path in paths}
    rows = [
        [
            numbers[source],
            source,
            *(
                cells.get((source, name), cells.get((source, "anybody"), "") if name != source else "")
                for name in numbers
            ),
        ]
        for source in sources
    ]
    named = "; " + ", ".join(f"{numbers[name]} is {name}" for name in others) if others else ""
    # An empty cell is no dash here: the two do not know each other.
    return [LEGEND + named, *table(["", "", *numbers.values()], rows, empty=" ")]


class FilterModule:
    def filters(self):
        return {"path_matrix": path_matrix}
