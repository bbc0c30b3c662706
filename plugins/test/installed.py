# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: installed
short_description: Whether a collection is installed
version_added: 1.1.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Whether Ansible finds a collection on the control node, so that a role can name a missing one before it includes
    tasks that need it.
options:
  _input:
    description: The collection's name.
    type: str
    required: true
seealso:
  - plugin: homelab.peer_relay.port_forward
    plugin_type: role
"""

EXAMPLES = r"""
- name: Check that the collection is installed
  ansible.builtin.assert:
    that: "'community.routeros' is homelab.peer_relay.installed"
    fail_msg: "Install it: ansible-galaxy collection install community.routeros"

- name: Name the collections that are missing
  ansible.builtin.debug:
    msg: "{{ ['amazon.aws', 'hetzner.hcloud'] | reject('homelab.peer_relay.installed') }}"
"""

RETURN = r"""
_value:
  description: Whether the collection is installed.
  type: bool
  sample: true
"""

from importlib.util import find_spec

from ansible.errors import AnsibleFilterError
from ansible.utils.collection_loader import AnsibleCollectionRef


def installed(name):
    if not AnsibleCollectionRef.is_valid_collection_name(name):
        raise AnsibleFilterError(f"{name!r} is not a collection's name, such as ansible.posix")
    try:
        return find_spec(f"ansible_collections.{name}") is not None
    except ModuleNotFoundError:  # not even the namespace is there
        return False


class TestModule:
    def tests(self):
        return {"installed": installed}
