# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's table: changes under load, restarts, and what goes wrong."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.kernel import PORT, SIZE, V4, Talk, World, load, message, packed, receive_all, silent
from peer_relay import addresses
from peer_relay.dataplane.kernel import bpf, layout
from peer_relay.dataplane.kernel import table as table_module
from peer_relay.dataplane.kernel.entry import Key, Target
from peer_relay.dataplane.kernel.needs import Unavailable
from peer_relay.dataplane.kernel.table import KernelTable


def test_entries_change_under_load(world: World, talk: Talk) -> None:
    """While packets flow, the target moves to and fro: each packet arrives once, at one of the two."""
    cat = world.socket(world.bob, V4.bob)
    targets = [talk.target, talk.to(cat)]
    total = 20_000
    pid = os.fork()
    if not pid:  # a process of its own, so that the changes come in between
        for number in range(total):
            talk.send(message(7, number))
            if number % 50 == 0:
                time.sleep(0.001)
        os._exit(0)
    moves = 0
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        moves += 1
        talk.put(targets[moves % 2])
    assert moves > 100
    bob, other = receive_all(talk.bob, cat)
    assert bob[7] + other[7] == total
    assert bob[7] and other[7]
    assert silent(talk.relay)


def test_removed_and_full(world: World, talk: Talk) -> None:
    talk.passes()
    assert world.table.remove([talk.key, talk.key._replace(receiver_index=1)]) == {
        talk.key: (1, 100, pytest.approx(time.monotonic_ns(), abs=10**9))
    }
    talk.passes_on(message(7))
    keys = [talk.key._replace(receiver_index=index) for index in range(SIZE + 20)]
    refused = world.table.put([(key, talk.target) for key in keys])
    assert set(refused) == set(keys[-len(refused) :]) and set(refused.values()) == {"the kernel's table is full"}
    assert len(world.table.read()) == len(keys) - len(refused) >= SIZE
    talk.passes()
    world.table.remove(keys)
    assert world.table.read() == {}


def test_what_the_kernel_cannot_forward(world: World, talk: Talk) -> None:
    six = addresses.pack("2001:db8:2::2", 1)
    local_six = addresses.pack("2001:db8:2::1", PORT)
    across = Target(six, local_six, 3, 1500)
    near = Key(addresses.pack("fe80::1%2", 1), local_six, 7)
    assert world.table.put([(talk.key, across), (near, across)]) == {
        talk.key: "it goes between IPv4 and IPv6",
        near: "it has a link-local address",
    }


def test_counts_go_on_when_the_target_moves(talk: Talk) -> None:
    talk.passes()
    talk.put(talk.target._replace(mtu=1300))
    assert talk.count()[:2] == (1, 100)
    talk.passes()
    assert talk.count()[:2] == (2, 200)


def test_forwarding_outlives_the_table_object(world: World, talk: Talk) -> None:
    talk.passes()
    world.table.close()
    talk.passes(1)
    world.open()
    assert talk.count()[:2] == (2, 200)
    assert set(world.table.how) == set(world.interfaces)
    talk.passes(2)
    world.destroy()
    talk.passes_on(message(7))
    assert not world.folder.exists()


_CHILD = """
import sys, time
from pathlib import Path
from peer_relay.dataplane.kernel.entry import Key, Target
from peer_relay.dataplane.kernel.table import KernelTable
folder, source, local, destination, way, interfaces = sys.argv[1:]
local = bytes.fromhex(local)
table = KernelTable.open(Path(folder), 1000)
assert table.attach(map(int, interfaces.split(","))) == {}
key = Key(bytes.fromhex(source), local, 7)
table.put([(key, Target(bytes.fromhex(destination), local, int(way), 1500))])
print("ready", flush=True)
time.sleep(60)
"""


def test_forwarding_outlives_a_killed_process(world: World) -> None:
    talk = Talk(world, V4)
    world.destroy()
    words = [str(world.folder), talk.key.source.hex(), talk.key.local.hex(), packed(talk.bob).hex()]
    words += [str(world.index("out0")), ",".join(map(str, world.interfaces))]
    path = str(Path(table_module.__file__).parents[3])
    with (
        world.relay.inside(),
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        ) as child,
    ):
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    talk.send(message(7))
    assert talk.bob.recv(2048) == message(7)
    world.open()
    assert talk.count().packets == 1


def test_another_size_and_another_program_under_load(world: World, talk: Talk, monkeypatch) -> None:
    with load(talk):
        for size in (SIZE * 2, SIZE // 2):
            world.table.close()
            world.open(size)
            assert world.table.size == size
            assert set(world.table.read()) == {talk.key}
        before = program(world)
        world.table.close()
        # Nothing but another name: a newer release's.
        monkeypatch.setattr(table_module, "Program", lambda kind: renamed(original(kind)))
        world.open(SIZE // 2)
        assert program(world) != before
        assert world.attach() == {}
    assert silent(talk.relay), "all of it went the fast way"


original = table_module.Program


def renamed(loaded: table_module.Program) -> table_module.Program:
    loaded.name = "pr_newer"
    return loaded


def program(world: World) -> tuple[int, set[int]]:
    """Return the id of the pinned program, and those of the programs that are attached."""
    with contextlib.ExitStack() as stack:

        def opened(path: Path) -> int:
            fd = bpf.pinned(path)
            stack.callback(os.close, fd)
            return fd

        folder = world.folder
        attached = {bpf.link_info(opened(path)).program for path in folder.glob("link-*")}
        found = bpf.program_info(opened(folder / "program-ethernet")).id
        assert attached <= {found}
        return found, attached


def test_another_layout_begins_anew(world: World, talk: Talk, monkeypatch) -> None:
    with load(talk):
        world.table.close()
        monkeypatch.setattr(layout, "NAME", "pr_entries_2")
        world.open()
        assert world.table.read() == {}
    talk.put()
    talk.passes()


def test_no_bpf_file_system(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="is in no bpf file system: mount -t bpf"):
        KernelTable.open(tmp_path / "table", SIZE)
    with pytest.raises(Unavailable, match="is in no bpf file system: mount -t bpf"):
        KernelTable.open(tmp_path / "missing" / "table", SIZE)


def test_the_verifier_refuses(world: World, talk: Talk, monkeypatch) -> None:
    """Its words are told, and nothing forwards unattended."""
    world.table.close()

    def broken(kind: str) -> table_module.Program:
        made = original(kind)
        made.name, made.instructions = "pr_broken", bytes.fromhex("bf010000000000009500000000000000")
        return made

    monkeypatch.setattr(table_module, "Program", broken)
    with pytest.raises(Unavailable, match=r"verifier refuses the program .*R0 !read_ok"):
        world.open()
    world.table = None
    talk.passes_on(message(7))
    assert not world.folder.exists()


@pytest.mark.parametrize(
    ("granted", "lacks"),
    [
        ("+bpf,+net_admin,+net_raw", ""),
        ("+net_admin", "the service lacks CAP_BPF: "),
        ("+bpf", "the service lacks CAP_NET_ADMIN: "),
        ("+bpf,+net_admin", "the service lacks CAP_NET_RAW: "),
        ("-bpf", "the service lacks CAP_BPF: "),
    ],
)
def test_capabilities(world: World, granted: str, lacks: str) -> None:
    """Nobody's own folder, and these capabilities, are all that it needs."""
    world.destroy()
    os.chown(world.pins, 65534, 65534)
    program = (
        "import sys; from pathlib import Path; from peer_relay.dataplane.kernel.table import KernelTable\n"
        "from peer_relay.dataplane.kernel.needs import Unavailable\n"
        "try:\n"
        "    table = KernelTable.open(Path(f'/proc/self/fd/{sys.argv[1]}/table'), 1000)\n"
        "    print(table.attach(map(int, sys.argv[2:])))\n"
        "    table.destroy()\n"
        "except Unavailable as error:\n"
        "    print(error)\n"
    )
    # Nobody may not enter the folders of the test and of the checkout: both are handed on, open.
    pins = os.open(world.pins, os.O_RDONLY)
    package = os.open(Path(table_module.__file__).parents[3], os.O_RDONLY)
    sets = [f"--{kind}-caps=-all,{granted}" for kind in ("inh", "ambient")]
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *sets, f"--bounding-set=-all,{granted}"]
    words += ["/usr/bin/python3", "-c", program, str(pins), *map(str, world.interfaces)]
    with world.relay.inside():
        done = subprocess.run(
            words,
            pass_fds=(pins, package),
            env={"PYTHONPATH": f"/proc/self/fd/{package}", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
        )
    os.close(pins)
    os.close(package)
    assert done.stdout.startswith(lacks or "{}\n"), done.stdout + done.stderr
    assert not world.folder.exists()
