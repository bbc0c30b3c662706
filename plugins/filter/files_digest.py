# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: files_digest
short_description: One number for the files that a role writes
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - The SHA-256 of paths, permissions and content of all of them, as C(roles/peer/files/probe.sh) computes it on a host.
  - Where both are the same, the host has these files already, and no module has to look at them.
options:
  _input:
    description: Files as M(homelab.peer_relay.text_files) takes them.
    type: list
    elements: dict
    required: true
  directories:
    description: The content of files by their names, as M(homelab.peer_relay.directory_files) takes it, by directory.
    type: dict
    default: {}
seealso:
  - module: homelab.peer_relay.text_files
  - module: homelab.peer_relay.directory_files
"""

EXAMPLES = r"""
same: >-
  {{ [{'path': '/etc/hello.conf', 'content': 'hello'}]
     | homelab.peer_relay.files_digest({'/usr/local/lib/hello': {'__main__.py': ''}}) == seen.stdout }}
"""

RETURN = r"""
_value:
  description: The digest in hexadecimal.
  type: str
  sample: 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824
"""

import hashlib


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def files_digest(files, directories=None):
    wanted = {file["path"]: (file["content"], int(file.get("mode", "0644"), 8)) for file in files}
    for directory, contents in (directories or {}).items():
        wanted |= {f"{directory}/{name}": (content, 0o644) for name, content in contents.items()}
    lines = [f"{mode:o} {path}\n" for path, (_content, mode) in wanted.items()]
    lines += [f"{digest(content)}  {path}\n" for path, (content, _mode) in wanted.items()]
    return digest("".join(sorted(lines)))


class FilterModule:
    def filters(self):
        return {"files_digest": files_digest}
