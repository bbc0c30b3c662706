# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
name: interface_hooks
short_description: What wg-quick runs when an interface comes and goes
version_added: 1.3.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Makes the lines C(PostUp) and C(PreDown) of a device's interface, for M(homelab.peer_relay.wireguard_interface).
  - What goes down leaves nothing behind, and may be gone already.
positional: dns, name_servers, iptables
options:
  _input:
    description: The file of the table for C(nft), which the guard puts back. Empty when there is none.
    type: str
    required: true
  dns:
    description: The name servers that are asked, and no others, while the interface is there. Empty leaves them alone.
    type: list
    elements: str
    default: []
  name_servers:
    description: Who keeps the host's name servers. It matters where there are some in O(dns).
    type: str
    choices: [resolved, openresolv]
  iptables:
    description: The iptables programs whose chain C(FORWARD) has to accept the interface's packets.
    type: list
    elements: str
    default: []
seealso:
  - module: homelab.peer_relay.wireguard_interface
  - module: homelab.peer_relay.forwarding_info
  - plugin: homelab.peer_relay.peer
    plugin_type: role
"""

EXAMPLES = r"""
pre_down: "{{ ('/etc/wireguard/pr0.nft' | homelab.peer_relay.interface_hooks).pre_down }}"
# => ['systemctl stop peer-guard@%i.service || true', 'nft delete table inet %i || true']

of_name_servers: "{{ ('' | homelab.peer_relay.interface_hooks(['10.77.0.9'], 'openresolv')).pre_down }}"
# => ['resolvconf -f -d %i || true']
"""

RETURN = r"""
_value:
  description: The lines, in their order, as C(post_up) and C(pre_down). C(%i) is the interface.
  type: dict
  sample:
    post_up: ["nft --file /etc/wireguard/pr0.nft"]
    pre_down: ["nft delete table inet %i || true"]
"""

from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import word


def interface_hooks(nft, dns=(), name_servers=None, iptables=()):
    try:
        hooks = [*_table(nft), *_name_servers(dns, name_servers), *_accepted(iptables)]
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error
    return {"post_up": [up for up, _down in hooks], "pre_down": [down for _up, down in hooks]}


def _table(nft):
    if nft:
        # First, so that nothing is put back which is about to go.
        yield "systemctl --no-block start peer-guard@%i.service || true", "systemctl stop peer-guard@%i.service || true"
        yield f"nft --file {word(nft)}", "nft delete table inet %i || true"


def _name_servers(servers, keeper):
    """Nothing but these is asked while the interface is there, and none of another link.

    Where they cannot be set, the interface comes up all the same: wg-quick would take it down.
    """
    if not servers:
        return
    servers = [word(server) for server in servers]
    if keeper == "resolved":
        up, down = f"resolvectl dns %i {' '.join(servers)} && resolvectl domain %i '~.'", "resolvectl revert %i"
    elif keeper == "openresolv":
        lines = "; ".join(f"echo nameserver {server}" for server in servers)
        up, down = f"({lines}) | resolvconf -a %i -m 0 -x", "resolvconf -f -d %i"
    else:
        raise ValueError(f"name_servers is {keeper!r}: give resolved or openresolv, which can set those of dns")
    yield f"{up} || echo The name servers of peer_dns are not set. >&2", f"{down} || true"


def _accepted(programs):
    """What iptables accepts here, the nft table still restricts. An interface that died left its rules behind."""
    for program in map(word, programs):
        for direction in ("-i", "-o"):
            rule = f"FORWARD {direction} %i -m comment --comment 'homelab.peer_relay: %i' -j ACCEPT"
            delete = f"{program} -w -D {rule}"
            yield f"{delete} 2>/dev/null || true; {program} -w -I {rule}", f"{delete} || true"


class FilterModule:
    def filters(self):
        return {"interface_hooks": interface_hooks}
