#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_key
short_description: Make a WireGuard private key on the device that uses it
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes a private key with C(wg genkey) in a file that only root can read, and returns the public key that goes with
    it.
  - The private key never leaves the device. It is neither returned nor logged.
  - A key that is there is never overwritten. A file that holds no key is an error.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  path:
    description: The file of the private key.
    type: path
    required: true
  state:
    description:
      - V(present) makes a key when there is none, and sees to it that only root can read it.
      - V(absent) removes the file. The device then needs a new key, and all others its new public key.
    type: str
    choices:
      - present
      - absent
    default: present
  interface_file:
    description:
      - The C(wg-quick) file of the interface that uses the key. The peers in it are returned, since this device has
        their keys already.
    type: path
    version_added: 1.3.0
requirements:
  - wireguard-tools
seealso:
  - module: homelab.peer_relay.wireguard_interface
"""

EXAMPLES = r"""
- name: Make the device's key
  homelab.peer_relay.wireguard_key:
    path: /etc/wireguard/pr0.key
  register: key

- name: Show its public key
  ansible.builtin.debug:
    var: key.public_key

- name: Throw the key away when the device leaves
  homelab.peer_relay.wireguard_key:
    path: /etc/wireguard/pr0.key
    state: absent
"""

RETURN = r"""
public_key:
  description:
    - The public key.
    - Empty when there is none yet, that is in check mode on a device without a key or without C(wg).
  type: str
  returned: when O(state=present)
  sample: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
peers:
  description: The peers in O(interface_file), if there is one. Nothing else of the file.
  type: list
  elements: dict
  returned: when O(state=present)
  version_added: 1.3.0
  contains:
    name:
      description: The name that the file gives it, or empty.
      type: str
      sample: nas
    public_key:
      description: Its public key.
      type: str
      sample: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
    allowed_ips:
      description: The networks behind it.
      type: list
      elements: str
      sample: [10.77.56.78/32]
  sample:
    - name: nas
      public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
      allowed_ips: [10.77.56.78/32]
"""

import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import is_key
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import read_back

MODE = 0o600


def public_key(module: AnsibleModule, wg: str, private_key: str) -> str:
    code, out, error = module.run_command([wg, "pubkey"], data=private_key)
    if code:
        module.fail_json(msg=f"wg pubkey failed on the key that is to be in {module.params['path']}: {error.strip()}")
    return out.strip()


def make_key(module: AnsibleModule, wg: str, path: Path) -> str:
    code, out, error = module.run_command([wg, "genkey"])
    private_key = out.strip()
    if code or not is_key(private_key):
        module.fail_json(msg=f"wg genkey failed: {error.strip() or 'it printed no key'}")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Never a file with half a key, never one that others can read, and never over a key that another run has just made.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(private_key + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink()
    return public_key(module, wg, private_key)


def known_peers(file: str | None) -> list[dict]:
    try:
        written = read_back(Path(file).read_text(encoding="utf-8", errors="replace") if file else "")
    except FileNotFoundError:
        return []
    return [
        {"name": name, "public_key": key, "allowed_ips": sorted(written.allowed_ips.get(key, ()))}
        for key, name in written.names.items()
        if is_key(key)
    ]


def present(module: AnsibleModule, path: Path) -> None:
    peers = known_peers(module.params["interface_file"])
    wg = module.get_bin_path("wg")
    if not wg and not module.check_mode:
        module.fail_json(msg="wg is missing: install the package wireguard-tools")
    if not os.path.lexists(path):
        key = "" if module.check_mode else make_key(module, wg, path)
        module.exit_json(changed=True, public_key=key, peers=peers)
    if not path.is_file():
        module.fail_json(msg=f"{path} is not a regular file: move it away, or name another path")
    private_key = path.read_text(encoding="ascii", errors="replace").strip()
    if not is_key(private_key):
        module.fail_json(
            msg=f"{path} holds no WireGuard private key (32 bytes of base64): restore it from a backup, or remove the "
            "file to have a new key made; the device's public key then changes"
        )
    status = path.stat()
    changed = stat.S_IMODE(status.st_mode) != MODE or (status.st_uid, status.st_gid) != (0, 0)
    if changed and not module.check_mode:
        path.chmod(MODE)
        os.chown(path, 0, 0)
    module.exit_json(changed=changed, public_key=public_key(module, wg, private_key) if wg else "", peers=peers)


def absent(module: AnsibleModule, path: Path) -> None:
    changed = os.path.lexists(path)
    if changed and not module.check_mode:
        path.unlink()
    module.exit_json(changed=changed)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "interface_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        {"present": present, "absent": absent}[module.params["state"]](module, Path(module.params["path"]))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}: run as root, with become: true")


if __name__ == "__main__":
    main()
