# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Choose a host's firewall and bring it to what is requested, without ever locking out SSH."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import NamedTuple

from . import firewalld, nft, nft_plan, ssh_ports, ufw
from .plan import CommandError, FirewallError, Plan, Port, Run, apply_plan

# How each backend is recognized, turned on, and named to a person.
PROGRAMS = {
    "nftables": ("nft", "iptables-nft", "iptables-legacy"),
    "ufw": ("ufw",),
    "firewalld": ("firewall-offline-cmd",),
}
TURN_ON = {
    "ufw": [["ufw", "--force", "enable"]],
    "firewalld": [["systemctl", "enable", "--now", "firewalld.service"]],
    "nftables": [],  # its own chain is what turns it on
}


class Request(NamedTuple):
    backend: str
    ports: list[Port]
    present: bool
    enable: bool
    zone: str
    ssh_ports: list[int]
    connection_port: int | None
    dry_run: bool


@dataclass
class Decision:
    backend: str = "none"
    reason: str = ""
    active: bool = False
    changed: bool = False
    own_chain: bool = False
    message: str = ""
    before: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    ssh_ports: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, plan: Plan) -> None:
        self.before += plan.before
        self.rules += plan.after
        self.found += plan.found
        self.commands += plan.lines
        self.changed = self.changed or plan.changed


class Host:
    def __init__(self, run: Run, request: Request):
        self.run = run
        self.request = request
        self.ssh_ports = sorted(request.ssh_ports) or ssh_ports.find_ssh_ports(run, request.connection_port)

    def reconcile(self) -> Decision:
        decision = self._remove() if not self.request.present else self._open()
        decision.ssh_ports = self.ssh_ports
        return decision

    # -- choice

    def _choose(self) -> tuple[str, str]:
        if self.request.backend != "auto":
            return self.request.backend, "named by firewall_backend"
        if firewalld.is_running(self.run):
            return "firewalld", "firewalld is running"
        if self._installed("ufw") and ufw.read_ufw(self.run).active:
            return "ufw", "ufw is active"
        ruleset = nft_plan.read_ruleset(self.run)
        chains = nft_plan.blocking_chains(ruleset, self.request.ports)
        if chains:
            return "nftables", f"input chains that drop: {', '.join(map(str, chains))}"
        if nft_plan.has_own_chain(ruleset):
            return "nftables", "the chain that this role made is there"
        return "none", "no running firewalld, no active ufw, and no input chain of nftables or iptables that drops"

    def _installed(self, backend: str) -> bool:
        for program in PROGRAMS[backend]:
            try:
                self.run([program, "--version"])
            except CommandError:
                continue
            return True
        return False

    # -- opening

    def _open(self) -> Decision:
        backend, reason = self._choose()
        decision = Decision(backend=backend, reason=reason)
        if backend == "none":
            if self.request.enable:
                raise FirewallError(
                    "firewall_enable is true, but no firewall is on and none is named: "
                    "set firewall_backend to nftables, ufw or firewalld."
                )
            decision.message = f"Nothing to do for {_names(self.request.ports)}: {reason}."
            decision.warnings = self._unseen()
            if decision.warnings:
                decision.message = f"Cannot tell what becomes of {_names(self.request.ports)}: {decision.warnings[0]}"
            return decision
        if not self._installed(backend):
            return self._not_installed(decision)
        plan, active = self._plan(backend)
        turn_on = self.request.enable and not active
        if turn_on:
            self._require_ssh_port()
            plan, active = self._plan(backend, turn_on=True)
            decision.changed = True
        self._refuse_lockout(plan)
        decision.add(plan)
        decision.commands += [shlex.join(command) for command in TURN_ON[backend] if turn_on]
        decision.active = active or turn_on
        decision.own_chain = any(line.startswith(" ".join(nft.OWN_TABLE)) for line in plan.after)
        decision.warnings = self._other_obstacles(backend)
        if not self.request.dry_run:
            apply_plan(self.run, plan)
            for command in TURN_ON[backend] if turn_on else []:
                self.run(command)
            if decision.changed:
                self._verify(backend)
        decision.message = self._summary(decision)
        return decision

    def _plan(self, backend: str, turn_on: bool = False) -> tuple[Plan, bool]:
        """The plan, and whether the firewall is on."""
        ports = self.request.ports
        if backend == "ufw":
            state = ufw.read_ufw(self.run)
            return ufw.make_plan(state, ports, self.ssh_ports if turn_on else []), state.active
        if backend == "firewalld":
            found = firewalld.read_firewalld(self.run, self.request.zone)
            return firewalld.make_plan(found, ports, self.ssh_ports if turn_on else []), found.running
        ruleset = nft_plan.read_ruleset(self.run)
        chains = nft_plan.blocking_chains(ruleset, ports)
        for chain in chains:
            if nft_plan.owner(chain):
                raise FirewallError(
                    f"the {_kind(chain)} chain {chain} drops, and belongs to {nft_plan.owner(chain)}: "
                    f"set firewall_backend to {nft_plan.owner(chain)}, or to auto."
                )
        own = nft_plan.has_own_chain(ruleset)
        if own:
            self._require_ssh_port()
        ssh = [Port("tcp", number, "SSH") for number in self.ssh_ports] if own or turn_on else None
        return nft_plan.make_plan(ruleset, ports, ssh), own or bool(chains)

    def _not_installed(self, decision: Decision) -> Decision:
        if not (self.request.dry_run and self.request.enable):
            raise FirewallError(
                f"{decision.backend} is not installed on this host. Set firewall_backend to auto, "
                f"or firewall_enable to true to have {decision.backend} installed and turned on."
            )
        self._require_ssh_port()
        decision.changed = True
        decision.active = True
        decision.message = f"{decision.backend} would be installed, turned on, and let {_names(self.request.ports)} in."
        return decision

    def _verify(self, backend: str) -> None:
        plan, active = self._plan(backend)
        if plan.changed or (self.request.enable and not active):
            raise FirewallError(
                f"{backend} took the rules for {_names(self.request.ports)}, but does not have them in force. "
                f"Still missing: {'; '.join(plan.lines) or 'it is not on'}."
            )

    def _other_obstacles(self, backend: str) -> list[str]:
        """Drops that the chosen firewall has no say in."""
        closed = []
        if backend == "firewalld":
            closed = firewalld.closed_interfaces(
                firewalld.read_firewalld(self.run, self.request.zone), self.request.ports
            )
        ruleset = nft_plan.read_ruleset(self.run)
        chains = nft_plan.dropping_chains(ruleset, self.request.ports, "prerouting")
        if backend != "nftables":
            chains += [
                c for c in nft_plan.dropping_chains(ruleset, self.request.ports, "input") if not nft_plan.owner(c)
            ]
        return (
            closed
            + [
                f"the {_kind(chain)} chain {chain} may drop {_names(self.request.ports)} as well; it is left alone"
                for chain in chains
            ]
            + self._unseen()
        )

    def _unseen(self) -> list[str]:
        unseen = nft_plan.read_ruleset(self.run).unseen
        fix = "iptables" if all("legacy" in table for table in unseen) else "nftables"
        return (
            [
                f"the kernel has rules that no program here can read ({'; '.join(unseen)}), and they may drop it. "
                f"Install {fix} on this host, then run this again."
            ]
            if unseen
            else []
        )

    def _summary(self, decision: Decision) -> str:
        text = f"{decision.backend} ({decision.reason}): {_names(self.request.ports)}"
        if not decision.active:
            return f"{text} will be let in once it is on; it is off now, so nothing blocks."
        return f"{text} let in. {'; '.join(decision.found)}".rstrip()

    # -- removal

    def _remove(self) -> Decision:
        named = self.request.backend
        decision = Decision(backend=named if named in PROGRAMS else "none", reason="firewall_state is absent")
        plans = []
        for backend in PROGRAMS if named == "auto" else [named] if named in PROGRAMS else []:
            if self._installed(backend):
                plan = self._removal(backend)
                self._refuse_lockout(plan)
                decision.add(plan)
                plans.append(plan)
        if not self.request.dry_run:
            for plan in plans:
                apply_plan(self.run, plan)
        decision.message = f"Rules of homelab.peer_relay removed: {len(decision.before)}."
        return decision

    def _removal(self, backend: str) -> Plan:
        if backend == "ufw":
            return ufw.make_plan(ufw.read_ufw(self.run), [])
        if backend == "firewalld":
            return firewalld.make_plan(firewalld.read_firewalld(self.run, self.request.zone), [])
        return nft_plan.make_plan(nft_plan.read_ruleset(self.run), [], None)

    # -- SSH

    def _require_ssh_port(self) -> None:
        if not self.ssh_ports:
            raise FirewallError(
                "cannot tell which TCP port SSH uses on this host: no SSH server is found listening. "
                "Set firewall_ssh_ports, such as [22], so that it stays reachable once all else is dropped."
            )

    def _refuse_lockout(self, plan: Plan) -> None:
        ssh: list[int | None] = [*self.ssh_ports] or [22, self.request.connection_port]
        for port in plan.closed_ports:
            if port.protocol == "tcp" and port.port in ssh:
                raise FirewallError(
                    f"refusing to close {port}: it is the port of SSH, and no other rule lets it in. "
                    f"Allow SSH by a rule of your own, or keep {port} in firewall_ports."
                )


def _kind(chain: nft.Chain) -> str:
    return "iptables" if chain.program.endswith("legacy") else "nftables"


def _names(ports: list[Port]) -> str:
    return ", ".join(map(str, ports)) or "no ports"
