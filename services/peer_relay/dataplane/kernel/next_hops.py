# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How devices are reached: asked of the kernel once, and again when it may have changed, a few at a time."""

from __future__ import annotations

from collections.abc import Container

from peer_relay import addresses
from peer_relay.core.device import Binding
from peer_relay.dataplane.kernel.entry import NextHop, Refusal
from peer_relay.dataplane.kernel.route import Network, NoRoute

_AT_ONCE = 200  # questions between two looks at the sockets: 10 ms
_UNKNOWN_LOCAL = Refusal("no_way", "the system does not tell which of the relay's addresses it writes to")


class NextHops:
    """The next hops to all bound devices, and the interfaces at which their packets arrive."""

    def __init__(self, network: Network):
        self._network = network
        self._known: dict[Binding, NextHop | Refusal] = {}
        self._stale: list[Binding] = []  # to be asked for again
        self._refused: dict[int, str] = {}  # interfaces that the program cannot be attached to
        self.interfaces: set[int] = set()
        self._look_at_interfaces()

    def __call__(self, binding: Binding) -> NextHop | Refusal:
        """Return how a device is reached, or why not by the kernel alone."""
        hop = self._known.get(binding)
        if hop is None:
            hop = self._known[binding] = self._ask(binding)
            if isinstance(hop, NextHop) and not hop.unattached:
                self.interfaces.add(hop.interface)
        return hop

    def _ask(self, binding: Binding) -> NextHop | Refusal:
        if not binding.local:
            return _UNKNOWN_LOCAL
        try:
            found = self._network.next_hop(binding.address, addresses.join(binding.local, 0))
        except NoRoute as error:
            return Refusal("no_way", str(error))
        refused = self._refused.get(found.interface)
        return NextHop(found.interface, found.mtu, Refusal("interface", refused) if refused else None)

    def _look_at_interfaces(self) -> None:
        self._refused = {
            interface.ifindex: f"interface {interface.name}: {interface.refused}"
            for interface in self._network.interfaces()
            if interface.refused
        }

    def renew(self) -> None:
        """Ask for all of them again, step by step."""
        self._look_at_interfaces()
        self._stale = list(self._known)

    def refuse(self, reasons: dict[int, str]) -> list[Binding]:
        """Note interfaces that the program could not be attached to; return who is reached there."""
        names = {interface.ifindex: interface.name for interface in self._network.interfaces()}
        self._refused |= {index: f"interface {names.get(index, index)}: {why}" for index, why in reasons.items()}
        self.interfaces -= reasons.keys()
        hops = [(binding, hop) for binding, hop in self._known.items() if isinstance(hop, NextHop)]
        changed = [binding for binding, hop in hops if hop.interface in reasons]
        for binding in changed:
            self._known[binding] = self._ask(binding)
        return changed

    def __len__(self) -> int:
        return len(self._known)

    @property
    def busy(self) -> bool:
        """Tell whether there is a step to do."""
        return bool(self._stale)

    def look(self, binding: Binding) -> list[Binding]:
        """Ask for one again, if it was asked for at all; return those that have changed."""
        if binding not in self._known or (hop := self._ask(binding)) == self._known[binding]:
            return []
        self._known[binding] = hop
        return [binding]

    def step(self, in_use: Container[Binding]) -> list[Binding]:
        """Ask for some of them again, and forget those that are not in use; return those that have changed."""
        changed = []
        for binding in self._stale[-_AT_ONCE:]:
            if binding in in_use:
                changed += self.look(binding)
            else:
                del self._known[binding]
        del self._stale[-_AT_ONCE:]
        if not self._stale:
            hops = [hop for hop in self._known.values() if isinstance(hop, NextHop)]
            self.interfaces = {hop.interface for hop in hops if not hop.unattached}
        return changed
