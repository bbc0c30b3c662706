# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Forwards on OpenWrt: against the stand-in of uci, which does what the real one was recorded to do."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.homelab.peer_relay.plugins.action.openwrt_forwards import ActionModule
from ansible_collections.homelab.peer_relay.plugins.plugin_utils import openwrt

HERE = Path(__file__).parent
STANDIN = HERE.parents[3] / "molecule/port_forward_nftables/openwrt"
RELAY = {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 51820, "families": ["ipv4", "ipv6"]}
INTERFACES = {
    "interface": [
        {"interface": "lan", "up": True, "ipv4-address": [{"address": "192.168.2.1", "mask": 24}]},
        {"interface": "wan6", "up": True, "ipv6-address": [{"address": "2001:db8::1", "mask": 64}]},
        {"interface": "wan", "up": True, "ipv4-address": [{"address": "198.51.100.22", "mask": 24}]},
    ]
}


class Router:
    """Runs commands as the router's shell would, on settings of its own, and notes them."""

    def __init__(self, folder: Path):
        self.settings = folder / "config/firewall"
        self.settings.parent.mkdir()
        self.settings.write_text((STANDIN / "firewall.config").read_text(encoding="utf-8"), encoding="utf-8")
        self.interfaces: Any = INTERFACES
        self.reload = "exit 0"
        self.commands: list[str] = []
        self.environment = {
            **os.environ,
            "PATH": f"{STANDIN}:{os.environ['PATH']}",
            "UCI_CONFIG": str(folder / "config"),
            "UCI_SAVE": str(folder / "save"),
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if command.startswith("ubus "):
            command = f"echo {shlex.quote(json.dumps(self.interfaces))}"
        command = command.replace("/etc/init.d/firewall reload", f"({self.reload})")
        return subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True, env=self.environment)

    def forward(self, check_mode: bool = False, **options: Any) -> dict[str, Any]:
        given = {"forwards": [RELAY], "address": "192.168.2.10", "address6": "2001:db8:2::10", **options}
        task = SimpleNamespace(args=given, check_mode=check_mode, async_val=0, action="openwrt_forwards")
        action = ActionModule(task, None, None, None, None, None)

        def execute(command: str, sudoable: bool) -> dict[str, Any]:
            done = self.run(command)
            return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

        action._low_level_execute_command = execute
        action._connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None))
        return action.run(None, {})


@pytest.fixture
def router(tmp_path: Path) -> Router:
    return Router(tmp_path)


def test_the_stand_in_does_as_the_real_uci(router: Router) -> None:
    done = ""
    recorded = (HERE / "uci_session.txt").read_text(encoding="utf-8")
    for line in recorded.splitlines():
        if line.startswith("$ uci "):
            result = router.run(line.removeprefix("$ "))
            done += f"{line}\n{result.stdout}{result.stderr}"
            done += f"[exit code {result.returncode}]\n" if result.returncode else ""
    assert f"{done}$ cat firewall\n{router.settings.read_text(encoding='utf-8')}" == recorded


def test_forwards_come_once_and_go_without_a_trace(router: Router) -> None:
    before = router.settings.read_text(encoding="utf-8")
    first = router.forward()
    assert (first["changed"], first["external_address"]) == (True, "198.51.100.22")
    assert "/etc/init.d/firewall reload 2>&1" in router.commands
    settings = router.settings.read_text(encoding="utf-8")
    assert settings.startswith(before.rstrip("\n"))
    assert "config redirect 'peer_relay_redirect_relay'" in settings
    assert "option src_dport '51820'" in settings
    router.commands.clear()
    again = router.forward()
    assert not again["changed"]
    assert not any("set" in command or "reload" in command for command in router.commands)
    gone = router.forward(state="absent")
    assert gone["changed"]
    assert gone["diff"]["before"] == first["diff"]["after"]
    assert router.settings.read_text(encoding="utf-8") == before


def test_check_mode_changes_nothing(router: Router) -> None:
    before = router.settings.read_text(encoding="utf-8")
    preview = router.forward(check_mode=True)
    assert preview["changed"]
    assert "firewall.peer_relay_redirect_relay.reflection='1'" in preview["diff"]["after"]
    assert router.settings.read_text(encoding="utf-8") == before
    assert not router.run("uci changes firewall").stdout


def test_only_what_differs_is_made_anew(router: Router) -> None:
    router.forward()
    result = router.forward(hairpin=False)
    assert result["commands"][0] == "uci delete firewall.peer_relay_redirect_relay"
    assert not any("peer_relay_rule_relay" in command for command in result["commands"])
    without_a_hole = router.forward(hairpin=False, forwards=[{**RELAY, "families": ["ipv4"]}])
    assert without_a_hole["commands"] == ["uci delete firewall.peer_relay_rule_relay"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"wan": "wwan"}, "no zone 'wwan', but lan, wan: set port_forward_openwrt_wan"),
        ({"lan": "dmz"}, "set port_forward_openwrt_lan"),
        ({"address": ""}, "'' is no ipv4 address"),
        ({"address6": "192.168.2.10"}, "is no ipv6 address"),
        (
            {"forwards": [{"name": "web", "protocol": "tcp", "port": 8080}]},
            "'Somebody's web server' already sends 8080",
        ),
    ],
)
def test_refusals(router: Router, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AnsibleActionFail, match=re.escape(words)):
        router.forward(**options)
    assert not any("uci set" in command for command in router.commands)


def test_what_somebody_left_uncommitted_is_not_committed(router: Router) -> None:
    router.run("uci set firewall.theirs=rule")
    with pytest.raises(AnsibleActionFail, match="without committing it"):
        router.forward()
    assert router.run("uci changes firewall").stdout == "firewall.theirs='rule'\n"


@pytest.mark.parametrize(
    ("reload", "words"),
    [
        ("echo The fw4 firewall does not appear to be loaded.; exit 1", "does not appear to be loaded"),
        ("echo '[!] Section peer_relay_redirect_relay (x) skipped due to invalid options' >&2", "invalid options"),
        ("echo '/dev/stdin:7:1-4: Error: syntax error' >&2", "syntax error"),
    ],
)
def test_what_the_firewall_does_not_take_is_taken_back(router: Router, reload: str, words: str) -> None:
    before = router.settings.read_text(encoding="utf-8")
    router.reload = reload
    with pytest.raises(AnsibleActionFail, match=words):
        router.forward()
    assert router.settings.read_text(encoding="utf-8") == before


def test_what_the_firewall_says_of_others_does_not_matter(router: Router) -> None:
    router.reload = "echo '[!] Section @rule[9] (theirs) is disabled, ignoring section' >&2"
    assert router.forward()["changed"]


def test_the_external_address_is_that_of_the_zone() -> None:
    sections = openwrt.read_sections(
        "firewall.@zone[0]=zone\nfirewall.@zone[0].name='o'\nfirewall.@zone[0].network='a' 'b'"
    )
    up = {"interface": "b", "up": True, "ipv4-address": [{"address": "192.0.2.1", "mask": 32}]}
    assert openwrt.external_address(sections, json.dumps({"interface": [up]}), "o") == "192.0.2.1"
    assert openwrt.external_address(sections, json.dumps({"interface": [{**up, "up": False}]}), "o") == ""
    for text in ("", "[]", '{"interface": [1]}', '{"interface": [{"up": true}]}'):
        with pytest.raises(openwrt.OpenwrtError):
            openwrt.external_address(sections, text, "o")


def test_a_port_of_somebody_else() -> None:
    def refused(**options: str) -> bool:
        lines = [f"firewall.x.{key}='{value}'" for key, value in {"src": "wan", "target": "DNAT", **options}.items()]
        zones = ["firewall.@zone[0]=zone", "firewall.@zone[0].name='wan'", "firewall.@zone[1]=zone"]
        there = openwrt.read_sections(
            "\n".join([*zones, "firewall.@zone[1].name='lan'", "firewall.x=redirect", *lines])
        )
        wanted = openwrt.wanted_sections([RELAY], "192.168.2.10", "2001:db8::1", "wan", "lan", True)
        try:
            openwrt.refuse_what_does_not_fit(there, wanted, "wan", "lan")
        except openwrt.OpenwrtError:
            return True
        return False

    assert refused(src_dport="51820", proto="udp")
    assert refused(src_dport="51000-52000")
    assert refused(src_dport="80 51820", proto="all")
    assert refused(proto="tcp udp")
    assert not refused(src_dport="51820", proto="tcp")
    assert not refused(src_dport="51821", proto="udp")
    assert not refused(src_dport="51820", src="lan")
    assert not refused(src_dport="51820", enabled="0")
    assert not refused(src_dport="51820", target="SNAT")
