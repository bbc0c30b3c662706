# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A device boots while the DNS does not answer: a relay's name keeps nothing from coming up that is known."""

from __future__ import annotations

import runpy
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.agent import Agent
from harness.dns import NameServer
from harness.paths import SECOND_RELAY, Figure, Paths, endpoints
from harness.processes import wait_until
from harness.service import PORT
from harness.topology import RELAY_V4, STRANGER_V4, Lab
from harness.wireguard import KEEPALIVE, MTU

runpy.run_path(str(Path(__file__).parents[2] / "unit/conftest.py"))  # makes the collection importable

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import Interface, render

_NAME = "relay.example"
_UP = 5.0  # seconds


class Booted:
    """Ann's interface as `wg-quick` brings it up from the role's file; one of her two relays has a name."""

    def __init__(self, paths: Paths, names: NameServer, named: int, known: bool):
        """`known`: an address of the name is in the file, of a run when it could be looked up."""
        self._ann = ann = paths.ann
        self.folder = paths.lab.folder
        self.relay = paths.relays[named]
        self.at = f"{(RELAY_V4[0], SECOND_RELAY)[named]}:{PORT}"
        names.addresses[_NAME] = self.at.split(":")[0]
        (self.folder / "ann.key").write_text(ann.private_key)
        where = [f"{RELAY_V4[0]}:{PORT}", f"{SECOND_RELAY}:{PORT}"]
        where[named] = f"{_NAME}:{PORT}"
        rows = [
            (relay.name, relay.public_key, place, relay.addresses, KEEPALIVE)
            for relay, place in zip(paths.relays, where, strict=True)
        ]
        # Whoever has no agent reaches others by the first relay.
        rows.append(("bob", paths.bob.public_key, where[0], [each.split("/")[0] for each in paths.bob.addresses], 0))
        peers = [
            {"name": name, "public_key": key, "endpoint": place, "inner_endpoint": "", "persistent_keepalive": alive}
            | {"allowed_ips": [f"{each}/{128 if ':' in each else 32}" for each in addresses]}
            for name, key, place, addresses, alive in rows
        ]
        options = {"name": ann.interface, "mtu": MTU, "private_key_file": str(self.folder / "ann.key"), "peers": peers}
        options |= {"addresses": ["10.77.1.1/16", "fd77:7065:6572::1:1/64"], "listen_port": 0, "keep_endpoints": False}
        interface = Interface.from_options(options | {"post_up": [], "pre_down": [], "offered_only": False})
        if known:
            interface = interface.with_literals({f"{_NAME}:{PORT}": self.at})
        self.file = self.folder / f"{ann.interface}.conf"
        self.file.write_text(render(interface))
        self.file.chmod(0o600)
        self.resolvers = self.folder / "resolv.conf"
        self.resolvers.write_text(f"nameserver {STRANGER_V4}\n")
        table = paths.tables[named] | {"endpoints": [f"{_NAME}:{PORT}"]}
        self.relays = [table if place is paths.tables[named] else place for place in paths.tables]

    def up(self) -> float:
        """Return the seconds that it takes."""
        self._ann.process.stop()
        start = time.monotonic()
        self._wg_quick("up")
        return time.monotonic() - start

    def _wg_quick(self, verb: str) -> None:
        script = f"mount --bind {self.resolvers} /etc/resolv.conf; exec wg-quick {verb} {self.file}"
        words = ("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=wireguard-go", "sh", "-ec", script)
        self._ann.host.run(*words, timeout=60)

    def is_at_the_named(self) -> object:
        key = self.relay.public_key
        return endpoints(self._ann)[key] == self.at and self._ann.handshakes()[key]

    def down(self) -> None:
        if self._ann.interface in self._ann.host.run("wg", "show", "interfaces"):
            self._wg_quick("down")


@pytest.fixture
def names(lab: Lab) -> Iterator[NameServer]:
    server = NameServer(lab.stranger(), STRANGER_V4)
    yield server
    server.close()


@pytest.mark.parametrize(
    ("agent", "named", "known"),
    [(True, 0, False), (False, 1, False), (False, 0, True)],
    ids=["agent, first relay's name", "no agent, second relay's name", "no agent, address known"],
)
def test_a_name_that_nobody_answers_keeps_no_interface_down(
    paths: Paths, names: NameServer, figure: Figure, agent: bool, named: int, known: bool
) -> None:
    paths.up(agents=False)
    what = f"boot, a relay's name dead{', agent' if agent else ''}"
    site, other = paths.sites
    booted = Booted(paths, names, named, known)
    site.partition_from(other.wan_v4, STRANGER_V4)
    try:
        took = booted.up()
        if agent:
            begin(paths.agents[0], booted)
            paths.agents[1].start()
        wait_until("the pair talks", lambda: reaches(paths), 20)
        assert not names.asked, "nobody has answered"
        if not known:
            assert endpoints(paths.ann)[booted.relay.public_key] == "(none)"
            if agent:
                wait_until("it is told", lambda: _NAME in str(paths.agents[0].status()["problems"]), 20)
            site.partition_from(other.wan_v4)
            answered = time.monotonic()
        wait_until("the relay with the name is reached", booted.is_at_the_named, 45)
        if not known:
            back = time.monotonic() - answered
            figure(f"{what}: at that relay after the answer", f"{back:.1f} s", "< 45 s")
        figure(f"{what}: wg-quick up", f"{took:.1f} s", f"< {_UP:g} s")
        assert took < _UP
        if agent:
            wait_until("all is well", lambda: not paths.agents[0].status()["problems"], 20)
    finally:
        booted.down()


def begin(agent: Agent, booted: Booted) -> None:
    agent.resolvers = booted.resolvers
    agent.relays = booted.relays
    agent.start()


def reaches(paths: Paths) -> bool:
    try:
        paths.ann.host.run("ping", "-n", "-q", "-c", "1", "-W", "1", paths.bob.address.split("/")[0])
    except RuntimeError:
        return False
    return True
