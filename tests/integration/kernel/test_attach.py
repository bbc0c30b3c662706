# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the program is attached: tcx and clsact, beside programs of others, to interfaces that go and come."""

from __future__ import annotations

import os
import platform

import pytest
from harness.kernel import SIZE, V4, Talk, World, load, message, silent
from peer_relay.dataplane.kernel import attach, bpf

LET_IN = bytes.fromhex("b7000000000000009500000000000000")  # r0 = 0 (TC_ACT_OK); exit


with_tcx = pytest.mark.skipif(
    tuple(map(int, platform.release().split("-")[0].split(".")[:2])) < (6, 6), reason="this kernel has no tcx"
)


@pytest.fixture
def without_tcx(monkeypatch) -> None:
    monkeypatch.setattr(attach.Attachments, "methods", (attach.Filters,))


def filters(world: World) -> str:
    return world.relay.run("tc", "filter", "show", "dev", "in0", "ingress")


def qdiscs(world: World) -> str:
    return world.relay.run("tc", "qdisc", "show", "dev", "in0")


@pytest.mark.usefixtures("without_tcx")
def test_clsact(world: World) -> None:
    talk = Talk(world, V4)
    talk.put()
    assert set(world.table.how.values()) == {"clsact"}
    with load(talk, 60_000):
        assert world.attach() == {}
        world.table.close()
        world.open(SIZE * 2)
        assert world.attach() == {}
        assert filters(world).count("peer-relay") == 1
    assert silent(talk.relay), "all of it went the fast way"
    world.relay.run("tc", "qdisc", "del", "dev", "in0", "clsact")
    talk.passes_on(message(7))
    assert world.attach() == {}
    talk.passes()
    world.destroy()
    talk.passes_on(message(7))
    assert "clsact" not in qdiscs(world)
    assert not world.folder.exists()


@pytest.mark.usefixtures("without_tcx")
def test_filters_of_others_stay(world: World) -> None:
    talk = Talk(world, V4)
    talk.put()
    world.destroy()
    world.relay.run("tc", "qdisc", "add", "dev", "in0", "clsact")
    theirs = bpf.load_program("theirs", LET_IN)
    bpf.pin(theirs, world.pins / "theirs")
    world.relay.run(*f"tc filter add dev in0 ingress bpf da object-pinned {world.pins}/theirs".split())
    world.open()
    assert world.attach() == {}
    talk.put()
    assert filters(world).count("bpf") > filters(world).count("peer-relay") == 1
    talk.passes_on(message(7))  # theirs comes first, and lets everything in
    world.destroy()
    assert "theirs" in filters(world) and "peer-relay" not in filters(world)
    assert "clsact" in qdiscs(world)
    os.close(theirs)


@pytest.mark.usefixtures("without_tcx")
def test_a_place_that_is_taken(world: World) -> None:
    ours = filters(world)
    handle = ours.split("handle ")[1].split()[0]
    world.destroy()
    world.relay.run("tc", "qdisc", "add", "dev", "in0", "clsact")
    taken = (
        f"tc filter add dev in0 ingress prio 50000 handle {handle} bpf da object-pinned {world.folder}/program-ethernet"
    )
    world.open()
    world.relay.run(*taken.split())
    refused = world.attach()
    assert refused == {world.index("in0"): "a filter of somebody else's has our place"}
    assert list(world.table.how) == [world.index("out0")]


@with_tcx
def test_from_clsact_to_tcx_and_back(world: World, monkeypatch) -> None:
    """As after an upgrade of the host's kernel, except that this one restarts nothing."""
    talk = Talk(world, V4)
    talk.put()
    for methods, how in (((attach.Filters, attach.Links), "clsact"), ((attach.Links, attach.Filters), "tcx")):
        world.table.close()
        monkeypatch.setattr(attach.Attachments, "methods", methods)
        world.open()
        assert world.attach() == {}
        assert set(world.table.how.values()) == {how}
        assert (filters(world) == "") == (how == "tcx")
        talk.passes()


@with_tcx
def test_another_program_on_the_hook_stays(world: World, talk: Talk) -> None:
    """It came later and runs behind ours: what we forward is gone by then, what passes on reaches it."""
    other = bpf.load_program("other", LET_IN)
    with world.relay.inside():
        theirs = bpf.create_link(other, world.index("in0"))
    talk.passes()
    world.destroy()
    assert bpf.link_info(theirs).interface == world.index("in0")
    world.open()
    assert world.attach() == {}
    talk.put()
    # Theirs is first now and lets everything in: the socket gets it, nothing is lost.
    talk.passes_on(message(7))
    os.close(theirs)
    talk.passes()
    os.close(other)


@pytest.mark.parametrize(
    "methods", [pytest.param((attach.Links,), marks=with_tcx, id="tcx"), pytest.param((attach.Filters,), id="clsact")]
)
def test_an_interface_goes_and_comes(world: World, monkeypatch, methods: tuple) -> None:
    world.destroy()
    monkeypatch.setattr(attach.Attachments, "methods", methods)
    world.open()
    assert world.attach() == {}
    before = world.interfaces
    for interface in ("in0", "out0"):
        world.relay.ip(f"link del {interface}")
    with world.relay.inside():
        assert set(world.table.attach(before)) == set(before)
        assert world.table.how == {}
    world.links()
    assert set(before).isdisjoint(world.interfaces)
    assert world.attach() == {}
    talk = Talk(world, V4)
    talk.put()
    talk.passes()
    assert set(world.table.how) == set(world.interfaces)
    world.destroy()
    assert not world.folder.exists()
