# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: what a device that Ansible does not reach imports into its WireGuard app, as text and as a QR code.

The text is that of wg-quick, which the apps of all platforms read. It never changes by itself: what has changed in the
inventory since is told by comparing the two.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import is_key
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import one_line

from .names import OverlayError
from .overlay import Device, interface_of

# What a tunnel's name may be, which is the file's: that of an interface of Linux.
_TUNNEL = re.compile(r"[A-Za-z0-9_=+.-]{1,15}")
_MAX_TUNNEL = 15
NO_KEY_YET = "(the private key that the device has made)"


@dataclass(frozen=True)
class Profile:
    """One tunnel of a device; `text` is without its private key."""

    tunnel: str  # the file's name without its ending, and what apps call it
    text: str

    def with_key(self, private_key: str) -> str:
        return self.text.replace("[Interface]\n", f"[Interface]\nPrivateKey = {private_key or NO_KEY_YET}\n", 1)


def profiles_of(
    name: str, devices: list[Device], networks, relays: list[dict], dns: Iterable = (), mtu: int = 0, endpoints=()
):
    """The profiles of one device: one for each relay, and one with the direct ways, where others state theirs.

    endpoints maps names of devices to the first of their stated public endpoints.
    """
    usable = [relay for relay in relays if relay["present"] and relay["public_key"]]
    made = []
    for relay in usable or relays:
        own = interface_of(devices, name, networks, [relay])
        suffix = relay["name"] if len(usable) > 1 else ""
        made.append(Profile(_tunnel(name, suffix), _text(name, own, dns, mtu, f"by way of {relay['name']}")))
    direct = {peer: where for peer, where in dict(endpoints).items() if peer != name}
    if direct and usable:
        own = interface_of(devices, name, networks, usable[:1])
        peers = [{**peer, "endpoint": direct.get(peer["name"], peer["endpoint"])} for peer in own["peers"]]
        if any(peer["name"] in direct for peer in peers):
            made.append(
                Profile(
                    _tunnel(name, "direct"), _text(name, {**own, "peers": peers}, dns, mtu, "direct where that works")
                )
            )
    _refuse_doubles(made)
    return made


def _tunnel(name: str, suffix: str) -> str:
    text = f"{name[: max(1, _MAX_TUNNEL - len(suffix) - 1)]}-{suffix}" if suffix else name
    text = text[:_MAX_TUNNEL]
    if not _TUNNEL.fullmatch(text):
        raise OverlayError(
            f"{name}: its profile would be called {text!r}: WireGuard takes letters, digits and _=+.- in the names of "
            "tunnels; rename the host in the inventory, or the relay"
        )
    return text


def _refuse_doubles(profiles: list[Profile]) -> None:
    tunnels = [profile.tunnel for profile in profiles]
    for tunnel in tunnels:
        if tunnels.count(tunnel) > 1:
            raise OverlayError(
                f"two profiles would be called {tunnel}: names of tunnels end after 15 characters; set relay_name"
            )


def _text(name: str, interface: dict, dns, mtu: int, way: str) -> str:
    lines = [f"# {name}, {way}", "[Interface]", f"Address = {', '.join(interface['addresses'])}"]
    lines += [f"DNS = {', '.join(map(str, dns))}"] if dns else []
    lines += [f"MTU = {mtu}"] if mtu else []
    for peer in interface["peers"]:
        lines += [
            "",
            f"# {peer['name']}",
            "[Peer]",
            f"PublicKey = {peer['public_key']}",
            f"Endpoint = {peer['endpoint']}",
        ]
        lines += [f"AllowedIPs = {', '.join(peer['allowed_ips'])}"]
        lines += [f"PersistentKeepalive = {peer['persistent_keepalive']}"] if peer["persistent_keepalive"] else []
    return "".join(f"{one_line(line)}\n" for line in lines)


def bare_profile(name: str) -> Profile:
    """What holds the key until the relays and devices are known: the run that makes it goes on to write the rest."""
    return Profile(_tunnel(name, ""), f"# {name}, not complete: run the playbook again\n[Interface]\n")


def is_complete(text: str) -> bool:
    return "[Peer]" in text


def private_key_of(text: str) -> str:
    """The private key in a profile; empty where there is none, such as in one with a placeholder."""
    found = re.search(r"(?m)^PrivateKey\s*=\s*(\S+)\s*$", text)
    return found[1] if found and is_key(found[1]) else ""


def without_key(text: str) -> str:
    """The profile as it may be shown to anybody."""
    return re.sub(r"(?m)^PrivateKey\s*=.*\n", "", text)


def changes(before: str, after: str) -> list[str]:
    """What the second profile has that the first has not, in words; both without keys or with them."""
    old, new = _sections(before), _sections(after)
    said = [f"{name} is new" for name in new if name not in old]
    said += [f"{name} is gone" for name in old if name not in new]
    for name in (name for name in new if name in old and old[name] != new[name]):
        fields = [field for field in (old[name] | new[name]) if old[name].get(field) != new[name].get(field)]
        said.append(f"{name or 'the interface'} has another {' and '.join(fields)}")
    return said


def _sections(text: str) -> dict[str, dict[str, str]]:
    """The fields of each peer by its name, and those of the interface under ""; the private key left out."""
    sections: dict[str, dict[str, str]] = {"": {}}
    name = comment = ""
    for line in text.splitlines():
        if line.startswith("# "):
            comment = line[2:]
        elif line == "[Peer]":
            name = comment
            sections[name] = {}
        elif "=" in line and not line.startswith("PrivateKey"):
            field, value = line.split("=", 1)
            sections[name][field.strip()] = value.strip()
    return sections


def new_key() -> str:
    """A private key, as `wg genkey` makes it (RFC 7748)."""
    # Ansible requires this library for its vault; its checks of imports go without.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    raw = X25519PrivateKey.generate().private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return base64.b64encode(raw).decode()


def public_key_of(private_key: str) -> str:
    """What `wg pubkey` says of it."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private_key))
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
