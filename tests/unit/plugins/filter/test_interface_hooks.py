# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import shutil
import subprocess

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.interface_hooks import interface_hooks

TABLE = "/etc/wireguard/pr0.nft"
UNSET = "echo The name servers of peer_dns are not set. >&2"
RULE = "FORWARD {} %i -m comment --comment 'homelab.peer_relay: %i' -j ACCEPT"


def test_a_device_that_needs_nothing_has_none():
    assert interface_hooks("") == {"post_up": [], "pre_down": []}


def test_the_guard_is_stopped_before_what_it_would_put_back_goes():
    hooks = interface_hooks(TABLE, ["10.77.0.9"], "resolved")
    assert hooks["pre_down"][0] == "systemctl stop peer-guard@%i.service || true"
    assert hooks["post_up"][:2] == ["systemctl --no-block start peer-guard@%i.service || true", f"nft --file {TABLE}"]
    assert hooks["pre_down"][1:] == ["nft delete table inet %i || true", "resolvectl revert %i || true"]


def test_name_servers_by_resolved():
    assert interface_hooks("", ["10.77.0.9", "fd77::9"], "resolved") == {
        "post_up": [f"resolvectl dns %i 10.77.0.9 fd77::9 && resolvectl domain %i '~.' || {UNSET}"],
        "pre_down": ["resolvectl revert %i || true"],
    }


def test_name_servers_by_openresolv():
    assert interface_hooks("", ["10.77.0.9", "fd77::9"], "openresolv") == {
        "post_up": [f"(echo nameserver 10.77.0.9; echo nameserver fd77::9) | resolvconf -a %i -m 0 -x || {UNSET}"],
        "pre_down": ["resolvconf -f -d %i || true"],
    }


def test_name_servers_that_nobody_can_set_are_refused():
    with pytest.raises(AnsibleFilterError, match="name_servers is 'none': give resolved or openresolv"):
        interface_hooks("", ["10.77.0.9"], "none")
    assert interface_hooks("", [], "none")["post_up"] == []


def test_rules_of_iptables_are_there_once():
    hooks = interface_hooks("", iptables=["iptables-nft"])
    incoming, outgoing = RULE.format("-i"), RULE.format("-o")
    assert hooks["post_up"] == [
        f"iptables-nft -w -D {rule} 2>/dev/null || true; iptables-nft -w -I {rule}" for rule in (incoming, outgoing)
    ]
    assert hooks["pre_down"] == [f"iptables-nft -w -D {rule} || true" for rule in (incoming, outgoing)]


@pytest.mark.parametrize("nft", ["", TABLE])
@pytest.mark.parametrize("keeper", ["resolved", "openresolv"])
def test_a_shell_can_read_every_line(nft, keeper):
    hooks = interface_hooks(nft, ["10.77.0.9", "fd77::9"], keeper, ["iptables-legacy", "ip6tables-nft"])
    for line in hooks["post_up"] + hooks["pre_down"]:
        subprocess.run([shutil.which("sh"), "-nc", line], check=True)


@pytest.mark.parametrize("text", ["10.77.0.9; id", "10.77.0.9\nPostUp = id", "$(id)", ""])
def test_what_is_no_word_is_refused(text):
    servers = {"nft": TABLE, "dns": [text], "name_servers": "resolved"}
    for options in (servers, {"nft": TABLE, "iptables": [text]}, {"nft": text or " "}):
        with pytest.raises(AnsibleFilterError, match="is not one word"):
            interface_hooks(**options)
