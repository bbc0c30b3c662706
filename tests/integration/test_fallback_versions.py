# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fallback with each version of the WebSocket library from Ubuntu 22.04's to the newest, on both ends."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import fallback_flood
from harness.fallback import Blocked
from harness.netns import Namespace
from harness.service import ADDRESSES, Relay
from harness.topology import RELAY_V4, STRANGER_V4, Lab
from harness.traffic import Stream

Figure = Callable[..., None]
_ROOT = Path(__file__).parents[2]
# Of Ubuntu 22.04, of Debian 12, the last of each generation since, of Debian 13, and the newest.
VERSIONS = ("9.1", "10.4", "11.0.3", "13.1", "15.0.1", "16.1.1", "17.4")
_WORST = ("a header line without end", "pings, answers not read")
_MAX_GROWTH = 24 * 2**20  # bytes


def library(version: str) -> Path:
    """Return a folder with this version, fetched once."""
    folder = _ROOT / "build" / "websockets" / version
    if not (folder / f"websockets-{version}.dist-info").exists():
        words = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", *words, f"websockets=={version}"], check=True, timeout=120)
    return folder


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Blocked]:
    lab = Lab(tmp_path_factory.mktemp("versions"))
    relay = Relay(lab.relay_host, lab.folder)
    try:
        made = Blocked(lab, relay)
        made.block()
        yield made
    finally:
        relay.remove()
        lab.remove()


@pytest.fixture(scope="module")
def stranger(blocked: Blocked) -> Namespace:
    return blocked.lab.stranger()


@contextlib.contextmanager
def _carried(blocked: Blocked, bridge: str, device: str) -> Iterator[Stream]:
    """Traffic over the bridge with one version and the device's end with another."""
    blocked.bridge.library = library(bridge)
    blocked.bridge.start()
    carrier = blocked.carry(library=library(device))
    try:
        carrier.wait_said("up 127.0.0.1:")
        # The relay asks who comes from a new address, once that has sent as much as the question costs.
        blocked.ann.host.run("ping", "-c", "5", "-i", "0.2", ADDRESSES[0])
        with Stream(blocked.ann, blocked.bob) as stream:
            stream.wait_flowing(15)
            yield stream
        assert carrier.text().count("up 127.0.0.1:") == 1
        blocked.bridge.stop()
        carrier.wait_said("ended: closed by the other side: 1001 the relay's fallback stops")
    finally:
        carrier.stop()
        blocked.bridge.stop()


@pytest.mark.parametrize("version", VERSIONS)
def test_traffic_and_the_worst_floods(blocked: Blocked, stranger: Namespace, figure: Figure, version: str) -> None:
    with _carried(blocked, version, version) as stream:
        before = most = blocked.bridge.memory()
        for kind in _WORST:
            words = [sys.executable, str(Path(fallback_flood.__file__)), kind, RELAY_V4[0], "1.5", *[STRANGER_V4] * 8]
            flood = blocked.lab.start(stranger.spawn(*words, log="flood"))
            while flood.running:
                most = max(most, blocked.bridge.memory())
            assert flood.wait() == 0, flood.text()
        stream.wait_flowing(15)
    figure(f"fallback, websockets {version}: RSS", f"{before / 2**20:.1f}, flooded {most / 2**20:.1f} MiB", "< 24 more")
    assert most - before < _MAX_GROWTH
    assert stream.lost() / stream.sent() < 0.1


@pytest.mark.parametrize(("bridge", "device"), [(VERSIONS[0], VERSIONS[-1]), (VERSIONS[-1], VERSIONS[0])])
def test_the_ends_need_not_have_the_same(blocked: Blocked, bridge: str, device: str) -> None:
    with _carried(blocked, bridge, device) as stream:
        pass
    assert stream.lost() == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_unit_tests(version: str) -> None:
    """What is said of limits and reasons there is true with each."""
    words = [sys.executable, "-m", "pytest", "-q", "tests/unit/fallback/test_pipe.py"]
    environment = {**os.environ, "PYTHONPATH": str(library(version))}
    done = subprocess.run(words, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
