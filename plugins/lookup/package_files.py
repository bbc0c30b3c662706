# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: package_files
short_description: The files of the collection's Python packages
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Reads what the roles install on hosts, for M(homelab.peer_relay.directory_files).
  - A package has the same name there as here.
options:
  _terms:
    description:
      - Names of packages of the folders C(services) and C(plugins/module_utils).
    type: list
    elements: str
    required: true
  flat:
    description:
      - Whether names are relative to the package, of which there is one.
      - Otherwise they are relative to the directory that holds the packages.
    type: bool
    default: false
seealso:
  - module: homelab.peer_relay.directory_files
"""

EXAMPLES = r"""
- name: Install a service and what it shares with others
  homelab.peer_relay.directory_files:
    path: /usr/local/lib/peer-agent
    files: "{{ lookup('homelab.peer_relay.package_files', 'peer_agent', 'peer_common') }}"

- name: Install one package alone, with names relative to it
  homelab.peer_relay.directory_files:
    path: /usr/local/lib/peer-relay/peer_common
    files: "{{ lookup('homelab.peer_relay.package_files', 'peer_common', flat=true) }}"
"""

RETURN = r"""
_raw:
  description: The content of each file, by its name.
  type: list
  elements: dict
  sample:
    - peer_common/__init__.py: ""
"""

from pathlib import Path

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("services", "plugins/module_utils")
SUFFIXES = (".py", ".bpf")


def package(name: str) -> Path:
    for folder in FOLDERS:
        if (ROOT / folder / name / "__init__.py").is_file():
            return ROOT / folder / name
    raise AnsibleLookupError(f"{name!r} is no package of {' or '.join(FOLDERS)}: give the name of one")


def read(names: list[str], flat: bool) -> dict[str, str]:
    """The packages' files; with names relative to each package itself when `flat`."""
    files = {}
    for folder in map(package, names):
        above = folder if flat else folder.parent
        for path in sorted(folder.rglob("*")):
            if path.suffix in SUFFIXES:
                files[path.relative_to(above).as_posix()] = path.read_text(encoding="utf-8")
    return files


class LookupModule(LookupBase):
    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        return [read(terms, self.get_option("flat"))]
