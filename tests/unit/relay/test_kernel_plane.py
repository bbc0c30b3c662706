# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel plane beside the service, with a table and a network that are not there."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from peer_relay.dataplane.kernel import plane as module
from peer_relay.dataplane.kernel.entry import FULL, Count, Key, NextHop, Target
from peer_relay.dataplane.kernel.needs import Unavailable
from peer_relay.dataplane.kernel.plane import KernelPlane
from peer_relay.dataplane.kernel.route import NoRoute
from relay_world import StockDevice, World, at

PORT = 40000


class Table:
    """Holds what it is given; says no where told."""

    def __init__(self) -> None:
        self.size = module.TABLE_SIZE
        self.entries: dict[Key, tuple[Target, Count]] = {}
        self.attached: list[set[int]] = []
        self.refused: dict[int, str] = {}
        self.room = 100
        self.error: OSError | None = None
        self.closed = 0
        self.puts = 0

    @property
    def how(self) -> dict[int, str]:
        return dict.fromkeys(self.attached[-1] - self.refused.keys(), "tcx")

    def attach(self, interfaces: set[int]) -> dict[int, str]:
        self.attached.append(set(interfaces))
        return {index: why for index, why in self.refused.items() if index in interfaces}

    def put(self, entries: list[tuple[Key, Target]]) -> dict[Key, str]:
        if self.error:
            raise self.error
        full = {}
        for key, target in entries:
            self.puts += 1
            if key in self.entries or len(self.entries) < self.room:
                self.entries[key] = target, self.entries.get(key, (None, Count()))[1]
            else:
                full[key] = FULL
        return full

    def remove(self, keys: list[Key]) -> dict[Key, Count]:
        return {key: self.entries.pop(key)[1] for key in keys if key in self.entries}

    def read(self, since: int = 0) -> dict[Key, tuple[Target, Count]]:
        return {key: entry for key, entry in self.entries.items() if entry[1].last_ns >= since}

    def close(self) -> None:
        self.closed += 1


class Network:
    def __init__(self) -> None:
        self.ways: dict[bytes, NextHop | str] = {}
        self.news = False
        self.too_big: set[bytes] = set()
        self.asked = 0

    def fileno(self) -> int:
        return 99

    def close(self) -> None:
        pass

    def changed(self) -> bool:
        news, self.news = self.news, False
        return news

    def narrowed(self) -> set[bytes]:
        told, self.too_big = self.too_big, set()
        return told

    def interfaces(self) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(ifindex=1, name="lo", refused="it is the loopback"),
            SimpleNamespace(ifindex=2, name="eth0", refused=""),
            SimpleNamespace(ifindex=3, name="ppp0", refused="it is no Ethernet (type 512)"),
        ]

    def next_hop(self, destination: bytes, _local: bytes) -> NextHop:
        self.asked += 1
        way = self.ways.get(destination, NextHop(2, 1500))
        if isinstance(way, str):
            raise NoRoute(way)
        return way


class Bench:
    """A world with a kernel plane."""

    def __init__(self, world: World, folder: Path):
        self.world = world
        self.folder = folder
        self.table, self.network = Table(), Network()
        self.unavailable = ""
        self.opened = 0
        self.start()

    def start(self) -> None:
        self.plane = KernelPlane(self.world.switchboard, self.open, lambda: self.network)

    def open(self, _folder: Path, _size: int) -> Table:
        self.opened += 1
        if self.unavailable:
            raise Unavailable(self.unavailable)
        return self.table

    def configure(self, mode: str = "auto", port: int = PORT) -> None:
        self.plane.configure(mode, self.folder, port, self.world.now)

    def turn(self) -> float:
        return self.plane.turn(self.world.now)


@pytest.fixture
def bench(world: World, tmp_path: Path) -> Bench:
    made = Bench(world, tmp_path)
    made.configure()
    return made


@pytest.fixture
def joined(bench: Bench, pair: tuple[StockDevice, StockDevice]) -> tuple[StockDevice, StockDevice]:
    bench.turn()
    return pair


Pair = tuple[StockDevice, StockDevice]


def test_entries_come_and_go_with_the_switchboard(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    assert {key.source for key in bench.table.entries} == {ann.address, bob.address}
    assert bench.table.attached[-1] == {2}
    assert bench.plane.name == "kernel"
    assert bench.plane.refusal(ann.record, bob.record) == ""
    assert bench.plane.document() == {
        "entries": 2,
        "size": module.TABLE_SIZE,
        "interfaces": {"eth0": "tcx"},
        "refusals": {},
    }
    bench.world.remove(bob)
    bench.turn()
    assert not bench.table.entries


def test_an_idle_turn_asks_nothing(bench: Bench, joined: Pair) -> None:
    puts, asked, attached = bench.table.puts, bench.network.asked, len(bench.table.attached)
    for _ in range(5):
        assert bench.turn() > bench.world.now
    assert (bench.table.puts, bench.network.asked, len(bench.table.attached)) == (puts, asked, attached)


def test_counts_are_told_each_second(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    pair = ann.record.pairs[bob.record]
    before = pair.packets
    (key,) = [key for key in bench.table.entries if key.source == ann.address]
    bench.table.entries[key] = bench.table.entries[key][0], Count(7, 700, 10**18)
    bench.turn()
    assert pair.packets == before
    bench.world.now += 1
    bench.turn()
    assert (pair.packets - before, pair.kernel_packets) == (7, 7)
    bench.table.entries[key] = bench.table.entries[key][0], Count(9, 900, 10**18)
    bench.world.remove(bob)
    bench.turn()
    assert pair.kernel_packets == 9, "what it counted last is not lost with it"


def test_a_change_of_the_network_is_followed(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    bench.network.ways[bob.address] = "there is no route to it"
    bench.network.news = True
    bench.world.now += 1
    bench.plane.network_changed(bench.world.now)
    bench.turn()
    assert not bench.table.entries
    assert bench.plane.refusal(ann.record, bob.record) == "bob: there is no route to it"
    assert bench.plane.document()["refusals"] == {"no_way": 2}
    bench.network.ways[bob.address] = NextHop(3, 1400)
    bench.network.news = True
    bench.world.now += 1
    bench.plane.network_changed(bench.world.now)
    bench.turn()
    (target,) = [target for target, _ in bench.table.entries.values()]
    assert (target.destination, target.interface, target.mtu) == (bob.address, 3, 1400)
    assert bench.plane.refusal(bob.record, ann.record) == "bob: interface ppp0: it is no Ethernet (type 512)"


def test_learned_path_mtus_are_taken_over(bench: Bench, joined: Pair) -> None:
    _, bob = joined
    bench.network.ways[bob.address] = NextHop(2, 1300)
    bench.world.now += 31
    bench.turn()
    assert 1300 in [target.mtu for target, _ in bench.table.entries.values()]


def test_a_router_that_says_too_big_is_heard_at_once(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    bench.network.ways[bob.address] = NextHop(2, 1300)
    bench.network.too_big = {bob.address, at("203.0.113.9")}
    asked = bench.network.asked
    bench.plane.network_changed(bench.world.now)
    bench.turn()
    assert {key.source: target.mtu for key, (target, _) in bench.table.entries.items()} == {
        ann.address: 1300,
        bob.address: 1500,
    }
    assert bench.network.asked == asked + 1, "nobody else's way was looked at"


def test_forged_words_of_too_large_packets_cost_a_bounded_number_of_looks(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    asked = bench.network.asked
    for _ in range(1000):
        bench.network.too_big = {ann.address, at("203.0.113.9")}
        bench.plane.network_changed(bench.world.now)
        bench.turn()
        bench.world.now += 0.001
    assert bench.network.asked - asked < 10
    assert {target.mtu for target, _ in bench.table.entries.values()} == {1500}
    bench.network.ways[bob.address] = NextHop(2, 1300)
    bench.network.too_big = {ann.address, bob.address}
    bench.plane.network_changed(bench.world.now)
    bench.turn()
    assert 1300 in [target.mtu for target, _ in bench.table.entries.values()], "others are heard all the same"


def test_many_changes_of_the_network_do_not_keep_it_busy(bench: Bench, joined: Pair) -> None:
    bench.world.now += 1
    for _ in range(100):
        bench.network.news = True
        bench.plane.network_changed(bench.world.now)
        bench.turn()
        bench.world.now += 0.001
    assert bench.network.asked < 10


def test_an_interface_that_refuses_the_program(bench: Bench, pair: Pair) -> None:
    ann, bob = pair
    bench.table.refused = {2: "no such hook"}
    bench.turn()
    assert not bench.table.entries
    assert bench.plane.refusal(ann.record, bob.record) == "ann: interface eth0: no such hook"


def test_a_full_table_is_filled_up_again(bench: Bench, world: World, joined: Pair) -> None:
    ann, bob = joined
    bench.table.room = 2
    cid = world.add("cid", at("192.0.2.3")).connect()
    cid.shake_hands(bob)
    bench.turn()
    assert bench.plane.document()["refusals"] == {"table_full": 2}
    assert bench.plane.refusal(cid.record, bob.record) == FULL
    world.remove(ann)
    bench.turn()
    assert bench.plane.document()["refusals"] == {}
    assert bench.plane.refusal(cid.record, bob.record) == ""
    assert len(bench.table.entries) == 2


def test_a_table_that_fails_is_given_up_and_tried_again(bench: Bench, joined: Pair) -> None:
    ann, bob = joined
    bench.table.error = OSError(12, "Cannot allocate memory")
    bob.move(at("198.18.0.1"))
    bob.keepalive()
    retry = bench.turn()
    assert bench.plane.name == "userspace"
    assert "Cannot allocate memory" in bench.plane.reason
    assert bench.plane.refusal(ann.record, bob.record) == bench.plane.reason
    assert bench.plane.document() is None
    assert bench.plane.fileno() == -1
    assert bench.table.closed == 1
    assert ann.say(bob)
    bench.table, bench.world.now = Table(), retry
    bench.turn()
    assert (bench.plane.name, bench.plane.reason) == ("kernel", "")
    assert len(bench.table.entries) == 2


@pytest.mark.parametrize("part", ["put", "remove", "read", "next_hop", "changed"])
def test_a_fault_of_its_own_leaves_no_table_behind_that_nobody_keeps_true(
    bench: Bench, joined: Pair, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Whatever it is that is raised: what is pinned goes, the fault is told, and it is tried again."""
    ann, bob = joined

    def broken(*_: object) -> None:
        raise KeyError("a fault")

    ended: list[Path] = []
    monkeypatch.setattr(module.KernelTable, "destroy_pinned", ended.append)
    monkeypatch.setattr(bench.table if part in ("put", "remove", "read") else bench.network, part, broken)
    bob.move(at("198.18.0.1"))
    bob.keepalive()
    bench.world.now += 1
    with pytest.raises(KeyError):
        bench.plane.network_changed(bench.world.now) if part == "changed" else bench.turn()
    assert ended == [bench.folder / module.FOLDER]
    assert bench.plane.name == "userspace"
    assert "a fault" in bench.plane.reason
    assert ann.say(bob)
    monkeypatch.undo()
    bench.table = Table()
    bench.world.now = bench.turn()
    bench.turn()
    assert (bench.plane.name, bench.plane.reason) == ("kernel", "")


def test_a_fault_while_it_begins_leaves_no_table_behind(
    bench: Bench, joined: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.plane.close()
    bench.start()
    ended: list[Path] = []
    monkeypatch.setattr(module.KernelTable, "destroy_pinned", ended.append)
    bench.table.entries[next(iter(bench.table.entries))] = "nonsense"
    with pytest.raises(AttributeError):
        bench.configure()
    assert ended == [bench.folder / module.FOLDER]
    assert (bench.plane.name, bench.plane.mode) == ("userspace", "auto")
    bench.table = Table()
    bench.world.now = bench.turn()
    bench.turn()
    assert bench.plane.name == "kernel"


def test_what_is_not_available_is_asked_for_now_and_then(bench: Bench, world: World) -> None:
    bench.start()
    bench.unavailable = "the service lacks CAP_BPF"
    bench.configure()
    assert bench.plane.reason == "the service lacks CAP_BPF"
    opened = bench.opened
    for _ in range(59):
        world.now += 1
        bench.turn()
    assert bench.opened == opened
    world.now += 1
    bench.turn()
    assert bench.opened == opened + 1


def test_userspace_asks_for_nothing(bench: Bench, world: World, pair: Pair) -> None:
    bench.configure("userspace")
    assert bench.turn() == float("inf")
    assert not world.switchboard.moved
    assert not world.switchboard.rerouted
    assert bench.plane.name == "userspace"
    bench.configure("auto")
    assert len(bench.table.entries) == 2


def test_another_port(bench: Bench, joined: Pair) -> None:
    before = set(bench.table.entries)
    bench.configure(port=PORT + 1)
    assert len(bench.table.entries) == 2
    assert not before & bench.table.entries.keys()


def test_a_restart_takes_over_and_tidies_up(bench: Bench, world: World, joined: Pair) -> None:
    kept = dict(bench.table.entries)
    stranger = Key(at("203.0.113.1"), next(iter(kept)).local, 7)
    bench.table.entries[stranger] = next(iter(kept.values()))
    puts = bench.table.puts
    bench.plane.close()
    world.restart()
    bench.start()
    bench.configure()
    assert bench.table.entries == kept
    assert bench.table.puts == puts
    assert bench.table.attached[-1] == {2}
