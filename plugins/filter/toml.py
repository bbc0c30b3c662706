# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: toml
short_description: A value as TOML has it
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Writes text, a number, a truth value or a list of them as a value of a TOML file.
  - Refuses text with control characters and whatever else is no text, so that nobody ends a string or a line by it.
options:
  _input:
    description: The value.
    type: raw
    required: true
seealso:
  - plugin: homelab.peer_relay.word
    plugin_type: filter
"""

EXAMPLES = r"""
addresses: "{{ ['10.77.0.1', 'fd77:7065:6572::1'] | homelab.peer_relay.toml }}"
# => '["10.77.0.1", "fd77:7065:6572::1"]'

enabled: "{{ true | homelab.peer_relay.toml }}"
# => 'true'
"""

RETURN = r"""
_value:
  description: The value's text in TOML.
  type: str
  sample: '["10.77.0.1"]'
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.module_utils import written


def toml(value):
    try:
        return written.toml(value)
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self):
        return {"toml": toml}
