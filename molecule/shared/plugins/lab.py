# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's containers, entered as they are: `podman exec` takes 60 times as long (290 ms of processor; this 5 ms)."""

from __future__ import annotations

import re
import shlex
import shutil
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


PIDS = Path("/run/peer-relay-lab")  # create.yml has podman write here, and the cell makes the directory


def enter(container: str) -> tuple[list[str], dict[str, str]]:
    """What runs a command in the container, with the environment and the capabilities that it gives to its own."""
    pid = (PIDS / f"{container}.pid").read_text().strip()
    process = Path("/proc", pid)
    variables = dict(item.split("=", 1) for item in (process / "environ").read_text().split("\0") if "=" in item)
    held = int(re.search(r"^CapBnd:\s*(\S+)", (process / "status").read_text(), re.MULTILINE)[1], 16)
    capabilities = ",".join(f"+cap_{number}" for number in range(held.bit_length()) if held >> number & 1)
    limit = [shutil.which("setpriv"), f"--bounding-set=-all,{capabilities}"]
    return [*limit, shutil.which("nsenter"), f"--target={pid}", "--all", "--"], variables


class Connection(ConnectionBase):
    transport = "lab"
    has_pipelining = True

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        container = self.get_option("remote_addr")
        try:
            way, variables = enter(container)
        except OSError as error:
            raise AnsibleConnectionFailure(f"{container}: {error.filename}: {error.strerror}: is it running?") from error
        command = [*way, "/bin/sh", "-c", cmd]
        result = subprocess.run(command, input=in_data or b"", capture_output=True, check=False, env=variables)
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
