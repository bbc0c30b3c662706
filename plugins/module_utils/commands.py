# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the target, as the firewall's code runs them from a module."""

from __future__ import annotations

import shlex

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import CommandError, Run


def runner(module: AnsibleModule) -> Run:
    def run(argv: list[str], stdin: str = "") -> str:
        program = module.get_bin_path(argv[0])
        if program is None:
            raise CommandError(f"{argv[0]} is not installed")
        code, out, err = module.run_command(
            [program, *argv[1:]], data=stdin or None, environ_update={"LC_ALL": "C", "LANGUAGE": "C"}
        )
        if code != 0:
            raise CommandError(f"'{shlex.join(argv)}' failed ({code}): {(err or out).strip()}")
        return out

    return run
