#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: text_files
short_description: Put several text files in place, in one call
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Writes files of known content, one after the other. A file is replaced as a whole, so nobody reads half of it.
  - It does what a loop over M(ansible.builtin.copy) does, with one call to the host instead of several for each file.
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
  files:
    description:
      - The files, in the order in which they are to be written. They belong to whom the module runs as.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Where the file is to be. Directories that are missing are made, for everybody to read.
        type: path
        required: true
      content:
        description:
          - What is to be in it.
        type: str
        required: true
      mode:
        description:
          - Its permissions, as an octal number.
        type: str
        default: "0644"
      validate:
        description:
          - A command that has to succeed before the file takes its place, when its content is another one.
          - V(%s) stands for the new file. It is run without a shell.
        type: str
        default: ""
seealso:
  - module: homelab.peer_relay.directory_files
  - module: ansible.builtin.copy
  - module: ansible.builtin.template
"""

EXAMPLES = r"""
- name: Install a program and its settings
  homelab.peer_relay.text_files:
    files:
      - path: /usr/local/bin/hello
        content: |
          #!/bin/sh
          echo "hello"
        mode: "0755"
      - path: /etc/hello/hello.conf
        content: "{{ lookup('ansible.builtin.template', 'hello.conf.j2') }}"
        validate: /usr/local/bin/hello check %s

- name: Write a secret that only root reads, without a line of it in the output
  homelab.peer_relay.text_files:
    files:
      - path: /etc/hello/token
        content: "{{ hello_token }}"
        mode: "0600"
  no_log: true
"""

RETURN = r"""
changed_files:
  description: The paths of the files that were written, or whose permissions were set.
  type: list
  elements: str
  returned: success
  sample:
    - /etc/hello/hello.conf
"""

import contextlib
import os
import shlex
import stat
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


class Refused(Exception):
    """A file cannot be put in place; the message names it and says why."""


def read(path: Path) -> tuple[str | None, int | None]:
    """Return content and permissions of a file; None for what is no file of ours, such as a link."""
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            return path.read_text(encoding="utf-8", errors="replace"), stat.S_IMODE(status.st_mode)
    except FileNotFoundError:
        pass
    return None, None


def write(module: AnsibleModule, path: Path, content: str, mode: int, validate: str) -> None:
    """Replace a file; raise Refused when it does not validate, and OSError."""
    for parent in reversed([parent for parent in path.parents if not parent.exists()]):
        parent.mkdir()
        parent.chmod(0o755)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(content)
        if validate:
            code, out, err = module.run_command([word.replace("%s", name) for word in shlex.split(validate)])
            if code:
                said = (err.strip() or out.strip() or f"exit code {code}").replace(name, str(path))
                raise Refused(f"{path} does not validate and stays as it was: {said}")
        Path(name).chmod(mode)
        Path(name).replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def put(module: AnsibleModule, path: Path, content: str, mode: int, validate: str) -> dict | None:
    """Put one file in place; return the difference, or None where there is none."""
    before, before_mode = read(path)
    if before == content and before_mode == mode:
        return None
    if not module.check_mode:
        if before == content:
            path.chmod(mode)
        else:
            write(module, path, content, mode, validate)
    header = f"{path}" if before_mode in (mode, None) else f"{path} ({before_mode:04o})"
    return {
        "before_header": header,
        "after_header": f"{path}" if before_mode in (mode, None) else f"{path} ({mode:04o})",
        "before": before or "",
        "after": content,
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "validate": {"type": "str", "default": ""},
                },
            },
        },
        supports_check_mode=True,
    )
    changed, diff = [], []
    for file in module.params["files"]:
        path = Path(file["path"])
        try:
            mode = int(file["mode"], 8)
        except ValueError:
            module.fail_json(msg=f"mode of {path} is {file['mode']!r}: give an octal number, such as 0644")
        if not path.is_absolute():
            module.fail_json(msg=f"path is {str(path)!r}: give it from the root, such as /etc/{path}")
        try:
            difference = put(module, path, file["content"], mode, file["validate"])
        except Refused as refusal:
            module.fail_json(msg=str(refusal), changed_files=changed)
        except OSError as error:
            module.fail_json(msg=f"{error.filename}: {error.strerror}: {path} stays as it was", changed_files=changed)
        if difference:
            changed.append(str(path))
            diff.append(difference)
    module.exit_json(changed=bool(changed), changed_files=changed, diff=diff)


if __name__ == "__main__":
    main()
