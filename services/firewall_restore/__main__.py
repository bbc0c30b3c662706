# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put the relay's ports or forwards back into the nftables ruleset: python3 DIRECTORY SETTINGS"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from host_firewall import nft_forwards
from host_firewall.nft import Ruleset, RulesetError
from host_firewall.nft_plan import make_plan, read_ruleset
from host_firewall.plan import CommandError, Plan, Port, apply_plan


def run(argv: list[str], stdin: str = "") -> str:
    try:
        result = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True)  # noqa: S603
    except FileNotFoundError as error:
        raise CommandError(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise CommandError(f"'{' '.join(argv)}' failed ({error.returncode}): {error.stderr.strip()}") from error
    return result.stdout


def plan_for(settings: dict, ruleset: Ruleset) -> Plan:
    if "forwards" in settings:
        return nft_forwards.make_plan(ruleset, nft_forwards.make_request(settings))
    ports = [
        Port(item.get("protocol", "udp"), int(item["port"]), item.get("comment", "relay")) for item in settings["ports"]
    ]
    ssh_ports = settings["own_chain_ssh_ports"]
    own_chain = None if ssh_ports is None else [Port("tcp", number, "SSH") for number in ssh_ports]
    return make_plan(ruleset, ports, own_chain)


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        ruleset = read_ruleset(run)
        plan = plan_for(settings, ruleset)
        if plan.changed:
            (nft_forwards.bring_in if "forwards" in settings else apply_plan)(run, plan)
    except (CommandError, RulesetError, OSError, ValueError) as error:
        sys.exit(str(error))
    print("\n".join(plan.lines) or "Nothing is missing.", flush=True)
    if ruleset.unseen:
        sys.exit(f"There are rules that no program here can read, and they may drop it: {'; '.join(ruleset.unseen)}")


if __name__ == "__main__":
    main()
