# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's containers, with pipelining: one call for a task, where containers.podman.podman makes six."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: lab
short_description: Run tasks in a container of the lab
description:
  - Run tasks in a container of the lab, with pipelining.
author: The homelab.peer_relay contributors
extends_documentation_fragment: connection_pipelining
options:
  remote_addr:
    description: Name of the container.
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
"""


ENTER = Path(__file__).resolve().parents[3] / "tests/lab/enter"


class Connection(ConnectionBase):
    transport = "lab"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        container = self.get_option("remote_addr")
        command = [ENTER, container, "/bin/sh", "-c", cmd]
        result = subprocess.run(command, input=in_data or b"", capture_output=True, check=False)
        if result.returncode == 125:  # not the command's own failure
            raise AnsibleConnectionFailure(f"{container}: {result.stderr.decode(errors='replace').strip()}")
        return result.returncode, result.stdout, result.stderr

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        self._copy(f"cat >{shlex.quote(out_path)}", Path(in_path).read_bytes())

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        Path(out_path).write_bytes(self._copy(f"cat {shlex.quote(in_path)}"))

    def _copy(self, command, content=b""):
        code, output, error = self.exec_command(command, content)
        if code != 0:
            raise AnsibleError(f"{self.get_option('remote_addr')}: {command}: {error.decode(errors='replace').strip()}")
        return output

    def close(self):
        self._connected = False
