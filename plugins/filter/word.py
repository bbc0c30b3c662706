# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: word
short_description: One plain word, or an error
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Gives text back when it is one word that means nothing but itself in a unit of systemd, in a ruleset of nftables,
    in a sysctl file and to a shell. Fails otherwise.
options:
  _input:
    description: The text.
    type: raw
    required: true
seealso:
  - plugin: homelab.peer_relay.toml
    plugin_type: filter
"""

EXAMPLES = r"""
line: "After=wg-quick@{{ 'pr0' | homelab.peer_relay.word }}.service"
# => After=wg-quick@pr0.service
"""

RETURN = r"""
_value:
  description: The text.
  type: str
  sample: pr0
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.module_utils import written


def word(value):
    try:
        return written.word(value)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"word": word}
