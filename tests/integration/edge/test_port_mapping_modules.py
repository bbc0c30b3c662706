# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules port_mapping and port_mapping_info with the real miniupnpd."""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from harness.miniupnpd import GATEWAY, INSIDE, INSIDE_V6, NEIGHBOR, WAN_ADDRESS, Home
from harness.netns import Namespace

runpy.run_path(str(Path(__file__).parents[2] / "unit/conftest.py"))  # makes the collection importable

from ansible_collections.homelab.peer_relay.plugins.modules import port_mapping, port_mapping_info

Run = Callable[..., dict[str, Any]]
TARGET = (INSIDE, 40000)


@pytest.fixture
def run(home: Home, capsys: pytest.CaptureFixture, tmp_path: Path) -> Run:
    """Run a module on a host as Ansible does: options in, one line of JSON out."""

    def made(module: Any, host: Namespace | None = None, check: bool = False, **options: Any) -> dict[str, Any]:
        if module is port_mapping:
            options = {"internal_port": 40000, "lease_file": str(tmp_path / "leases.json")} | options
        capsys.readouterr()
        arguments = options | {"_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), (host or home.inside).inside(), pytest.raises(SystemExit) as end:
            module.main()
        result = json.loads(capsys.readouterr().out)
        assert bool(end.value.code) is result.get("failed", False)
        return result

    return made


@pytest.mark.parametrize("method", ["pcp", "nat-pmp", "upnp"])
def test_from_nothing_to_nothing(home: Home, run: Run, method: str) -> None:
    home.start()
    wanted = {"method": method, "external_port": 4430}
    planned = run(port_mapping, check=True, **wanted)
    assert (planned["changed"], home.mappings()) == (True, {})

    done = run(port_mapping, **wanted)
    assert (done["changed"], done["diff"], home.mappings()) == (True, planned["diff"], {("udp", 4430): TARGET})
    assert (done["gateway"], done["external_address"], done["nat"]) == (GATEWAY, WAN_ADDRESS, "public")
    for check in (True, False):
        assert not run(port_mapping, check=check, **wanted)["changed"]

    moved = wanted | {"external_port": 4431}
    assert run(port_mapping, **moved)["changed"]
    assert home.mappings() == {("udp", 4431): TARGET}

    home.stop()
    home.forget()
    time.sleep(2.5)  # starts are numbered by the second, and an epoch is taken to be off by as much
    home.start()
    assert run(port_mapping, **moved)["changed"], "lost by the router"
    assert home.mappings() == {("udp", 4431): TARGET}

    assert run(port_mapping, check=True, state="absent")["changed"]
    gone = run(port_mapping, state="absent")  # by the method that it was made by, and at the port where it is
    assert (gone["changed"], gone["method"], home.mappings()) == (True, method, {})
    assert not run(port_mapping, state="absent")["changed"]


@pytest.mark.parametrize("method", ["pcp", "upnp"])
def test_a_pinhole(home: Home, run: Run, method: str) -> None:
    home.start()
    wanted = {"method": method, "family": 6}
    done = run(port_mapping, **wanted)
    assert (done["changed"], done["external_address"], done["nat"]) == (True, INSIDE_V6, "public")
    assert home.pinholes() == 1
    assert run(port_mapping, state="absent", **wanted)["changed"]
    assert home.pinholes() == 0


def test_the_router_of_most_homes_has_a_link_local_address(home: Home, run: Run) -> None:
    home.start()
    (lan,) = json.loads(home.router.run("ip", "-json", "-6", "addr", "show", "lan0"))
    router = next(entry["local"] for entry in lan["addr_info"] if entry["scope"] == "link")
    home.inside.run("ip", "-6", "route", "replace", "default", "via", router, "dev", "eth0")
    for method in ("pcp", "upnp"):
        done = run(port_mapping, method=method, family=6)
        assert (done["gateway"], done["external_address"]) == (f"{router}%eth0", INSIDE_V6)
        run(port_mapping, method=method, family=6, state="absent")
    assert home.pinholes() == 0


def test_a_port_of_somebody_else(home: Home, run: Run, tmp_path: Path) -> None:
    home.start("enable_natpmp=yes", "secure_mode=no")
    theirs = str(tmp_path / "theirs.json")
    run(port_mapping, home.neighbor, method="upnp", lease_file=theirs)
    before = home.mappings()
    refused = run(port_mapping, method="upnp")
    assert f"{NEIGHBOR}:40000" in refused["msg"] and "overwrite: true" in refused["msg"]
    assert "somebody else has it" in run(port_mapping)["msg"]
    assert not run(port_mapping, state="absent", method="upnp")["changed"]
    assert home.mappings() == before
    assert run(port_mapping, method="upnp", overwrite=True)["changed"]
    assert home.mappings() == {("udp", 40000): TARGET}


def test_what_the_router_offers(home: Home, run: Run) -> None:
    home.start()
    run(port_mapping, method="upnp")
    result = run(port_mapping_info)
    assert (result["found"], result["method"], result["gateway"]) == (True, "pcp", GATEWAY)
    assert (result["external_address"], result["nat"]) == (WAN_ADDRESS, "public")
    assert [(entry["external_port"], entry["own"]) for entry in result["mappings"]] == [(40000, True)]
    assert [entry["own"] for entry in run(port_mapping_info, home.neighbor)["mappings"]] == [False]


def test_a_router_without_a_public_address(home: Home, run: Run) -> None:
    home.move("100.64.0.5")
    home.start()
    result = run(port_mapping_info)
    assert (result["found"], result["nat"]) == (True, "no_address")
    for method in ("pcp", "nat-pmp", "upnp"):
        assert "carrier-grade NAT" in run(port_mapping, method=method)["msg"]


def test_a_router_that_offers_nothing(home: Home, run: Run) -> None:
    result = run(port_mapping_info)
    assert (result["found"], result["changed"]) == (False, False)
    assert "turn on UPnP or NAT-PMP/PCP" in result["problem"]
    assert result["problem"] == run(port_mapping)["msg"]
