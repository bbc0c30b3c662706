# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import contextlib
import re

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.homelab.peer_relay.plugins.module_utils.forwards import OPTIONS
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.openwrt import (
    OpenwrtError,
    Section,
    external_address,
    make_plan,
    own_sections,
    read_sections,
    refuse_what_does_not_fit,
    wanted_sections,
)

# What the firewall says of a section that it leaves out, and of a ruleset that it could not load.
_COMPLAINT = re.compile(r"\bpeer_relay_|\bError: ")


class ActionModule(ActionBase):
    """Plain commands over the connection, as the module ansible.builtin.raw runs them: the router has no Python."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        options = self.validate_argument_spec(
            argument_spec={
                **OPTIONS,
                "wan": {"type": "str", "default": "wan"},
                "lan": {"type": "str", "default": "lan"},
            }
        )[1]
        try:
            result.update(self._reconcile(options))
        except OpenwrtError as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _reconcile(self, options):
        present = options["state"] == "present"
        wanted = self._wanted(options) if present else {}
        there = self._read()
        address = ""
        if present:
            refuse_what_does_not_fit(there, wanted, options["wan"], options["lan"])
            address = external_address(there, self._command("ubus call network.interface dump"), options["wan"])
        plan = make_plan(there, wanted)
        if plan.commands and not self._task.check_mode:
            self._apply(there, wanted)
        return {
            "changed": bool(plan.commands),
            "diff": {
                "before": "".join(f"{line}\n" for line in plan.before),
                "after": "".join(f"{line}\n" for line in plan.after),
            },
            "external_address": address,
            "commands": plan.commands,
        }

    def _wanted(self, options) -> dict[str, Section]:
        forwards = [{**item, "external_port": item["external_port"] or item["port"]} for item in options["forwards"]]
        keys = ("address", "address6", "wan", "lan", "hairpin")
        return wanted_sections(forwards, *(options[key] for key in keys))

    def _read(self) -> dict[str, Section]:
        pending = self._command("uci changes firewall")
        if pending:
            raise OpenwrtError(
                "somebody has changed the router's firewall without committing it: run 'uci commit firewall' or "
                f"'uci revert firewall' there. Uncommitted: {'; '.join(pending.splitlines())}"
            )
        return read_sections(self._command("uci show firewall"))

    def _apply(self, there, wanted) -> None:
        self._change(wanted)
        try:
            self._load()
        except OpenwrtError:
            # Or else the settings would have what the firewall has not, and the next run would find nothing to do.
            self._change(own_sections(there))
            with contextlib.suppress(OpenwrtError):
                self._load()
            raise

    def _change(self, wanted) -> None:
        commands = " && ".join([*make_plan(self._read(), wanted).commands, "uci commit firewall"])
        # All or nothing: what a failed command leaves staged, the next commit of anybody would bring in.
        self._command(f"{commands} || {{ uci revert firewall; exit 1; }}")
        left = make_plan(self._read(), wanted).commands
        if left:
            raise OpenwrtError(f"uci took the changes, but does not have them: {'; '.join(left)}")

    def _load(self) -> None:
        said = self._command("/etc/init.d/firewall reload 2>&1")
        complaints = [line for line in said.splitlines() if _COMPLAINT.search(line)]
        if complaints:
            raise OpenwrtError(f"the router's firewall does not take the forwards: {' '.join(complaints)}")

    def _command(self, command: str) -> str:
        # Not sudoable: who logs in to OpenWrt is root, and a play's become would look for sudo in vain.
        done = self._low_level_execute_command(command, sudoable=False)
        if done["rc"] != 0:
            said = " ".join((done["stderr"] or done["stdout"]).split())
            raise OpenwrtError(f"on the router, '{command}' failed ({done['rc']}): {said}")
        return done["stdout"]
