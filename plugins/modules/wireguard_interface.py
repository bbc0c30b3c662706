#!/usr/bin/python
# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: wireguard_interface
short_description: Bring a WireGuard interface to a wanted state without dropping its tunnels
version_added: 1.0.0
author:
  - The homelab.peer_relay contributors (@homelab)
description:
  - Writes the interface's C(wg-quick) file and brings the running interface to it by the steps that are needed and no
    more. A peer that is right already keeps its session, and a peer whose session is alive keeps the endpoint that the
    session has found, unless O(peers[].endpoint) itself changed.
  - An interface that does not run is started by the unit C(wg-quick@NAME), and so is one that runs but not by the unit,
    which is the only restart there is. RV(restarted) says so.
  - Overlay addresses are reached by the connected route of O(addresses). Every other network of O(peers[].allowed_ips)
    gets a route in the main table with a metric so large that the same network on a local link wins.
  - A default route, C(0.0.0.0/0) or C(::/0), makes the peer the exit node. It goes to a routing table of its own,
    with rules before the main table's that keep local networks, and WireGuard's own packets, off it. Without
    the interface, and in a family that the overlay has not, that table leads nowhere. One of the rules is there twice.
  - Routes of others over the interface are left alone.
extends_documentation_fragment:
  - homelab.peer_relay.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  name:
    description: The name of the interface.
    type: str
    required: true
  state:
    description:
      - V(present) writes the file and has the interface run, now and after a boot.
      - V(absent) stops and disables the unit and removes the file. The private key stays.
    type: str
    choices:
      - present
      - absent
    default: present
  addresses:
    description: The interface's overlay addresses, each with the prefix length of its network.
    type: list
    elements: str
    default: []
  mtu:
    description: The largest packet inside the tunnel, in bytes.
    type: int
    default: 1420
  listen_port:
    description: The UDP port of the interface. V(0) is for any that is free.
    type: int
    default: 0
    version_added: 1.2.0
  keep_endpoints:
    description:
      - Whether something else chooses the endpoints of running peers, such as the path agent of the role
        P(homelab.peer_relay.peer#role). Then O(peers[].endpoint) is for peers that have none yet.
      - When it no longer does, every running peer gets its O(peers[].endpoint) again.
    type: bool
    default: false
    version_added: 1.2.0
  private_key_file:
    description:
      - The file of the private key, see M(homelab.peer_relay.wireguard_key).
      - Default is C(/etc/wireguard/NAME.key).
    type: path
  peers:
    description: All peers of the interface. A peer that is not here is removed.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: A name for people.
        type: str
        required: true
      public_key:
        description: The peer's public key.
        type: str
        required: true
      endpoint:
        description:
          - The C(host:port) where packets for the peer go. An IPv6 address is in brackets.
          - A name is looked up on this host. Without an address it keeps nothing from coming up; it is looked up again
            until it has one, and at every start.
        type: str
        required: true
      inner_endpoint:
        description:
          - Another address and port where the peer is reached, from its own network. A running peer may have either.
          - The address is a literal one.
        type: str
        default: ""
        version_added: 1.1.0
      allowed_ips:
        description: The networks that are behind the peer.
        type: list
        elements: str
        required: true
      persistent_keepalive:
        description: The seconds between two keepalive packets. V(0) is for none.
        type: int
        default: 0
  offered_only:
    description:
      - Whether what comes from the interface is forwarded only with the mark C(0x7073), which a packet filter then
        gives to what it lets pass, in both directions, with C(net.ipv4.conf.all.src_valid_mark) set. Without the
        filter, nothing is forwarded.
    type: bool
    default: false
    version_added: 1.3.0
  post_up:
    description:
      - Commands to run when the interface has come up. C(%i) is its name.
      - A new one is run at once.
    type: list
    elements: str
    default: []
  pre_down:
    description:
      - Commands to run before the interface goes down, which undo those of O(post_up).
      - One that is no longer here is run at once, and then never again.
    type: list
    elements: str
    default: []
requirements:
  - wireguard-tools
  - iproute2
  - systemd
notes:
  - C(systemctl reload wg-quick@NAME) and C(wg syncconf) would take the private key away, since it is not in the file.
    Run this module, or restart the unit.
seealso:
  - module: homelab.peer_relay.wireguard_key
  - plugin: homelab.peer_relay.overlay_interface
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Run the overlay interface
  homelab.peer_relay.wireguard_interface:
    name: pr0
    addresses:
      - 10.77.12.34/16
    peers:
      - name: relay
        public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
        endpoint: 192.0.2.1:40000
        allowed_ips: [10.77.0.1/32]
        persistent_keepalive: 25
      - name: nas
        public_key: pLo2h1vSkWDbeC7k0H6Vq1dDyXkLxPXVbxTJYWVqfWQ=
        endpoint: 192.0.2.1:40000
        allowed_ips: [10.77.56.78/32, 192.168.1.0/24]

- name: Send everything through an exit node
  homelab.peer_relay.wireguard_interface:
    name: pr0
    addresses: [10.77.12.34/16]
    peers:
      - name: relay
        public_key: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
        endpoint: 192.0.2.1:40000
        allowed_ips: [10.77.0.1/32]
        persistent_keepalive: 25
      - name: home
        public_key: pLo2h1vSkWDbeC7k0H6Vq1dDyXkLxPXVbxTJYWVqfWQ=
        endpoint: 192.0.2.1:40000
        allowed_ips: [10.77.56.78/32, 0.0.0.0/0]

- name: Take the interface away
  homelab.peer_relay.wireguard_interface:
    name: pr0
    state: absent
"""

RETURN = r"""
changes:
  description: What was done to the running interface, or would be done, for people to read.
  type: list
  elements: str
  returned: always
  sample:
    - "peer nas added: endpoint 192.0.2.1:40000, allowed IPs +10.77.56.78/32"
restarted:
  description: Why a running interface had to be restarted. Empty when it was not.
  type: str
  returned: always
  sample: ""
public_key:
  description: The public key of the interface. Empty when it has none yet, in check mode.
  type: str
  returned: when O(state=present)
  sample: 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
"""

import fcntl
import functools
import json
import os
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.steps import literals, plan, running_from
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import WireGuardError, parse_dump
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import (
    EXIT_TABLE,
    NOWHERE,
    Interface,
    read_back,
    render,
    without_keys,
)

FOLDER = Path("/etc/wireguard")
JOURNAL_LINES = 15
IPV6_OFF = Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6")


class Device:
    """The interface on this host: its file, its unit, and what runs."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.name = module.params["name"]
        self.file = FOLDER / f"{self.name}.conf"
        self.unit = f"wg-quick@{self.name}.service"
        self.changes: list = []
        self.restarted = ""

    def run(self, *command: str) -> str:
        code, out, error = self.module.run_command(list(command))
        if code:
            self.fail(f"{' '.join(command)} failed: {error.strip() or out.strip() or f'exit code {code}'}")
        return out

    def succeeds(self, *command: str) -> bool:
        return self.module.run_command(list(command))[0] == 0

    def fail(self, message: str) -> None:
        self.module.fail_json(msg=f"{self.name}: {message}", changes=self.changes, restarted=self.restarted)

    def is_there(self) -> bool:
        return Path("/sys/class/net", self.name).exists()

    def is_started(self) -> bool:
        return self.succeeds("systemctl", "is-active", "--quiet", self.unit)

    def is_enabled(self) -> bool:
        return self.succeeds("systemctl", "is-enabled", "--quiet", self.unit)

    def read_file(self) -> str:
        try:
            return self.file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def write_file(self, text: str) -> None:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        temporary = self.file.with_suffix(f".{os.getpid()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(self.file)

    def lock(self) -> None:
        """Until this module ends, whoever puts back what the file says waits: see services/peer_guard."""
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        self.lock_fd = os.open(FOLDER, os.O_RDONLY)
        fcntl.flock(self.lock_fd, fcntl.LOCK_EX)

    def public_key(self, private_key_file: str) -> str:
        """The public key of the wanted private key."""
        try:
            private_key = Path(private_key_file).read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            if self.module.check_mode:
                return ""
            self.fail(f"there is no private key in {private_key_file}: make one with homelab.peer_relay.wireguard_key")
        code, out, _error = self.module.run_command(["wg", "pubkey"], data=private_key)
        if code:
            self.fail(f"{private_key_file} holds no WireGuard private key")
        return out.strip()

    def running(self):
        code, dump, error = self.module.run_command(["wg", "show", self.name, "dump"])
        if code:
            self.fail(f"the interface of this name is not WireGuard's ({error.strip()}): choose another name")
        link = self.ask_ip("address", "show", "dev", self.name)[0]
        routes, rules = [], {}
        for version in (4, 6):
            found = self.ask_ip(f"-{version}", "route", "show", "table", "all", "dev", self.name)
            nowhere = self.ask_ip(f"-{version}", "route", "show", "table", str(EXIT_TABLE), "dev", NOWHERE)
            # ip leaves out what it was asked for.
            found += [{"dev": NOWHERE, "table": str(EXIT_TABLE), **route} for route in nowhere]
            routes += [{**route, "family": version} for route in found]
            rules[version] = self.ask_ip("-d", f"-{version}", "rule", "show")
        return running_from(parse_dump(dump), link, routes, rules)

    def ask_ip(self, *arguments: str) -> list:
        # A host without IPv6 has nothing to show, and a table without routes is not there: ip fails, with half a list.
        code, out, _error = self.module.run_command(["ip", "-j", *arguments])
        return json.loads(out or "[]") if code == 0 else []

    def start(self, text: str, old_text: str) -> None:
        """Start the unit with the new file, or go back to the old one."""
        self.write_file(text)
        if self.succeeds("systemctl", "start", self.unit):
            return
        lines = ["--output", "cat", "--lines", str(JOURNAL_LINES), "--no-pager"]
        journal = self.module.run_command(["journalctl", "--unit", self.unit, *lines])[1]
        self.undo(text)
        if old_text:
            self.write_file(old_text)
            self.succeeds("systemctl", "start", self.unit)
        else:
            self.file.unlink()
        self.fail(f"{self.unit} did not start, and {self.file} is as it was before. The journal:\n{journal.strip()}")

    def stop(self, text: str) -> None:
        """Stop the interface by its old file, whoever started it, and undo what its PostUp commands did elsewhere."""
        self.succeeds("systemctl", "stop", self.unit)
        if self.is_there() and not self.succeeds("wg-quick", "down", self.name):
            self.run("ip", "link", "del", "dev", self.name)
        self.undo(text)

    def undo(self, text: str) -> None:
        # wg-quick does not when the interface is gone already, or never came up whole.
        for line in read_back(text).pre_down:
            self.succeeds("bash", "-c", line.replace("%i", self.name))


@functools.cache  # the DNS may take its time
def addresses_of(host: str) -> list:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(address[4][0] for address in found if "%" not in address[4][0]))


def resolve(host: str) -> list:
    found = addresses_of(host)
    if not found:
        raise WireGuardError(f"cannot resolve {host}: check the name and the DNS, or give an address")
    return found


def present(device: Device, wanted: Interface) -> dict:
    module = device.module
    old_text = device.read_file()
    written = read_back(old_text)
    wanted = wanted.with_literals(literals(wanted, written, resolve))
    text = render(wanted)
    rewrite = text != old_text
    steps: list = []
    if not module.get_bin_path("wg"):
        if not module.check_mode:
            device.fail("wg is missing: install the package wireguard-tools")
        public_key, start = "", True
    else:
        public_key = device.public_key(wanted.private_key_file)
        start = not device.is_there() or not device.is_started()
        if start:
            device.restarted = f"it did not run by {device.unit}" if device.is_there() else ""
        else:
            steps = plan(wanted, device.running(), written, public_key, time.time(), resolve)
    if start:
        device.changes = ["interface restarted" if device.restarted else "interface started"]
    else:
        device.changes = [step.change for step in steps]
    enable = not device.is_enabled()
    if enable:
        device.changes.append("unit enabled")
    if not module.check_mode:
        device.lock()
        if start:
            device.stop(old_text)
            device.start(text, old_text)
        for step in steps:
            device.run(*step.command)
        if rewrite:
            # Last, so that after a failure the old file still says what to undo.
            device.write_file(text)
        if enable:
            device.run("systemctl", "enable", "--quiet", device.unit)
    return {
        "changed": bool(rewrite or device.changes),
        "public_key": public_key,
        "diff": [
            {
                "before": without_keys(old_text),
                "after": text,
                "before_header": str(device.file),
                "after_header": str(device.file),
            },
            {"prepared": "".join(f"{change}\n" for change in device.changes)},
        ],
    }


def absent(device: Device) -> dict:
    old_text = device.read_file()
    if device.is_there() or device.is_started():
        device.changes.append("interface stopped")
    if device.is_enabled():
        device.changes.append("unit disabled")
    if not device.module.check_mode:
        device.lock()
        device.stop(old_text)
        if device.is_enabled():
            device.run("systemctl", "disable", "--quiet", device.unit)
        if old_text:
            device.file.unlink()
    return {
        "changed": bool(device.changes or old_text),
        "diff": {
            "before": without_keys(old_text),
            "after": "",
            "before_header": str(device.file),
            "after_header": str(device.file),
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "addresses": {"type": "list", "elements": "str", "default": []},
            "mtu": {"type": "int", "default": 1420},
            "listen_port": {"type": "int", "default": 0},
            "keep_endpoints": {"type": "bool", "default": False},
            "private_key_file": {"type": "path", "no_log": False},
            "peers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "public_key": {"type": "str", "required": True, "no_log": False},
                    "endpoint": {"type": "str", "required": True},
                    "inner_endpoint": {"type": "str", "default": ""},
                    "allowed_ips": {"type": "list", "elements": "str", "required": True},
                    "persistent_keepalive": {"type": "int", "default": 0, "no_log": False},
                },
            },
            "post_up": {"type": "list", "elements": "str", "default": []},
            "pre_down": {"type": "list", "elements": "str", "default": []},
            "offered_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    device = Device(module)
    try:
        families = (4, 6) if IPV6_OFF.exists() and IPV6_OFF.read_text().strip() == "0" else (4,)
        wanted = Interface.from_options(module.params, families)
        result = present(device, wanted) if module.params["state"] == "present" else absent(device)
    except WireGuardError as error:
        device.fail(str(error))
    except OSError as error:
        device.fail(f"{error.filename or device.file}: {error.strerror}: run as root, with become: true")
    module.exit_json(changes=device.changes, restarted=device.restarted, **result)


if __name__ == "__main__":
    main()
