#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: device_profile
short_description: Make the WireGuard profiles of a device that Ansible does not reach
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Writes files that the WireGuard app of a phone or computer imports unchanged, and the same as QR codes to scan.
  - It makes the device's private key once. That is in these files alone, which only their owner may read, neither in
    what Ansible prints nor in facts. The public key is kept beside them.
  - It works on the control node, whatever the host of the task is.
  - A profile with more bytes than a QR code takes is written without one.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    description: Shows the profiles without the private key.
    support: full
  idempotent:
    support: full
options:
  name:
    description: The device's name.
    type: str
    required: true
  path:
    description:
      - The folder of the files. It is made where it is missing.
      - When it is in a git repository that does not ignore it, a warning says so.
    type: path
    required: true
  state:
    description: V(absent) removes the device's files, its key included.
    type: str
    choices: [present, absent]
    default: present
  profiles:
    description:
      - The profiles without the private key, as P(homelab.peer_relay.overlay_profiles#filter) makes them.
      - With none, the key is made, where there is none yet, and nothing else is written.
    type: list
    elements: dict
    default: []
    suboptions:
      tunnel:
        description: The name of the tunnel, and of the file without its ending.
        type: str
        required: true
      text:
        description: The profile.
        type: str
        required: true
  public_key:
    description:
      - The public key of a device that has made its key itself. The profile has a placeholder for the private one then,
        and no QR code.
    type: str
    default: ""
  refresh:
    description:
      - Whether a profile that is there is written anew when it has changed. RV(stale) tells what has changed otherwise.
    type: bool
    default: true
  vault:
    description:
      - Whether the files are encrypted with the vault password of the run. There are no pictures then, O(show) makes
        the QR code.
    type: bool
    default: false
  show:
    description: Whether the QR codes are shown in the terminal.
    type: bool
    default: false
  forget:
    description: Whether profiles that have been shown are removed. The public key stays.
    type: bool
    default: false
requirements:
  - segno (Python library, on the control node, for QR codes)
seealso:
  - plugin: homelab.peer_relay.overlay_profiles
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Make the key of a phone
  homelab.peer_relay.device_profile:
    name: phone
    path: profiles
  register: profile

- name: Write its profile and show it
  homelab.peer_relay.device_profile:
    name: phone
    path: profiles
    profiles: "{{ groups['peers'] | homelab.peer_relay.overlay_profiles(hostvars, overlay_networks, 'phone', relays) }}"
    show: true

- name: Take away a phone that is lost
  homelab.peer_relay.device_profile:
    name: phone
    path: profiles
    state: absent
"""

RETURN = r"""
public_key:
  description: The device's public key. Empty in check mode, when the key is yet to be made.
  type: str
  returned: when O(state=present)
  sample: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
files:
  description: The files of the profiles.
  type: list
  elements: str
  returned: when O(state=present)
  sample: [profiles/phone.conf, profiles/phone.png, profiles/phone.svg]
stale:
  description: What has changed since the profiles were written, when O(refresh=false).
  type: list
  elements: str
  returned: when O(state=present)
  sample: ["phone: nas is new"]
forgotten:
  description: Whether the private key is on the device alone, and was made here.
  type: bool
  returned: when O(state=present)
  sample: false
"""
