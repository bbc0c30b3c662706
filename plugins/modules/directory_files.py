#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: directory_files
short_description: Put a directory of text files in place, all at once
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes a directory that holds the given files and nothing else, in one step instead of one for each file.
  - The new directory is made beside the old one and takes its place when it is complete, so nobody sees a mixture.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  path:
    description:
      - The directory. Whatever else it holds is removed.
      - It belongs to whom the module runs as, everybody may read it, and the directory above it must exist.
    type: path
    required: true
  files:
    description:
      - The names of the files, relative to O(path), and their content.
      - Names may have directories in front since version 1.2.0.
    type: dict
    required: true
seealso:
  - module: homelab.peer_relay.text_files
  - plugin: homelab.peer_relay.package_files
    plugin_type: lookup
  - module: ansible.builtin.copy
"""

EXAMPLES = r"""
- name: Install a Python package
  homelab.peer_relay.directory_files:
    path: /usr/local/lib/hello/hello
    files:
      __init__.py: ""
      __main__.py: |
        print("hello")

- name: Install the package that the role of a device installs
  homelab.peer_relay.directory_files:
    path: /usr/local/lib/peer-agent
    files: "{{ lookup('homelab.peer_relay.package_files', 'peer_agent', 'peer_common') }}"
"""

RETURN = r"""
changed_files:
  description: The names of the files that were written or removed.
  type: list
  elements: str
  returned: success
  sample:
    - __main__.py
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


def read(path: Path) -> str | None:
    """Return the content of a file as it should be; None for all else: a directory, another's file, another mode."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) != FILE_MODE or status.st_uid != os.geteuid():
        return None
    return path.read_text(encoding="utf-8", errors="replace")


def proper(directory: Path) -> bool:
    status = directory.lstat()
    return (
        stat.S_ISDIR(status.st_mode)
        and stat.S_IMODE(status.st_mode) == DIRECTORY_MODE
        and status.st_uid == os.geteuid()
    )


def read_all(directory: Path, parents: set[str], prefix: str = "") -> dict[str, str | None]:
    """Return what a directory holds, by relative name; of directories that are none of `parents` only the name."""
    found: dict[str, str | None] = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        name = prefix + path.name
        if name in parents and proper(path):
            found |= read_all(path, parents, f"{name}/")
        else:
            found[name] = read(path)
    return found


def write_all(directory: Path, files: dict[str, str]) -> None:
    new = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    old = Path(f"{new}.old")
    try:
        for name, content in files.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
            file.chmod(FILE_MODE)
        for made in (new, *(path for path in new.rglob("*") if path.is_dir())):
            made.chmod(DIRECTORY_MODE)
        if os.path.lexists(directory):
            directory.rename(old)
        new.rename(directory)
    finally:
        if old.exists() and not directory.exists():
            old.rename(directory)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    directory = Path(module.params["path"])
    wanted = {name: str(content) for name, content in module.params["files"].items()}
    for name in wanted:
        if any(part in ("", ".", "..") for part in name.split("/")):
            module.fail_json(
                msg=f"{name!r} in files is not the name of a file: give names relative to path, without .."
            )
    parents = {str(parent) for name in wanted for parent in PurePosixPath(name).parents} - {"."}
    for name in parents & wanted.keys():
        module.fail_json(msg=f"{name!r} in files is a file and a directory: give it one meaning")

    found = read_all(directory, parents)
    changed = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name) or name not in wanted)
    if changed and not module.check_mode:
        try:
            write_all(directory, wanted)
        except OSError as error:
            module.fail_json(msg=f"{error.filename}: {error.strerror}: the files of {directory} stay as they were")

    diff = [
        {
            "before_header": str(directory / name),
            "after_header": str(directory / name),
            "before": found.get(name) or "",
            "after": wanted.get(name, ""),
        }
        for name in changed
    ]
    module.exit_json(changed=bool(changed), changed_files=changed, diff=diff)


if __name__ == "__main__":
    main()
