# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for a router that speaks PCP and NAT-PMP, strictly by their standards, or with quirks."""

import ipaddress
import struct

from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import routes
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import client as natpmp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import client as pcp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import nonce
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import search as upnp_search

ROUTER, HOST, OTHER = "192.168.7.1", "192.168.7.10", "192.168.7.11"
ROUTER_V6, HOST_V6 = "fe80::1%eth0", "2001:db8:1::10"
EXTERNAL = "198.51.100.1"


class Router:
    """Mappings by (protocol number, external port); answers datagrams as a server does."""

    def __init__(self):
        self.table = {}  # -> (address, internal port, nonce, lease)
        self.epoch = 1000
        self.external = EXTERNAL
        self.options = True  # knows PREFER_FAILURE
        self.heeds = True  # and keeps to it
        self.longest = 7200
        self.denied = set()  # external ports
        self.pcp_result = 0  # of every request
        self.natpmp_result = 0
        self.absent_result = 0  # of the end of what is not there
        self.forgets = False  # whose pinhole it is, at its renewal
        self.speaks = {0, 2}
        self.forgery = (0, b"")  # where, and what is there in every answer
        self.requests = []

    @property
    def held(self):
        """Who has the external ports: (protocol number, external port) -> (address, internal port)."""
        return {key: entry[:2] for key, entry in self.table.items()}

    def answer(self, request, source):
        self.requests.append(request)
        datagram = bytearray(self._answer(request, source))
        at, octets = self.forgery
        datagram[at : at + len(octets)] = octets
        return bytes(datagram)

    def _answer(self, request, source):
        if not self.speaks:
            raise Unreachable(f"{ROUTER} does not answer on UDP port 5351")
        if request[0] not in self.speaks:
            if 0 in self.speaks:
                return struct.pack(">BBHI", 0, request[1] | 128, 1, self.epoch)
            return struct.pack(">BBBBII12x", 2, request[1] | 128, 0, 1, 0, self.epoch)
        return self.pcp(request, source) if request[0] == 2 else self.natpmp(request, source)

    # --- PCP, RFC 6887

    def pcp(self, request, source):
        assert len(request) % 4 == 0
        _version, opcode, lifetime, client = struct.unpack_from(">BBxxI16s", request)
        address = ipaddress.IPv6Address(client)
        assert str(address.ipv4_mapped or address) == source
        if opcode == 0:
            assert (len(request), lifetime) == (24, 0)
            return self.pcp_header(opcode, self.pcp_result)
        assert opcode == 1
        key, protocol, internal, external, _address = struct.unpack_from(">12sB3xHH16s", request, 24)
        options = request[60:]
        assert options in (b"", b"\2\0\0\0")
        result = self.pcp_result
        if not result and options and not self.options:
            result = 5
        if not result and not lifetime:
            assert not options
            result, external = self.pcp_delete(source, protocol, internal, key), 0
        elif not result:
            result, external = self.pcp_map(source, protocol, internal, external, key, lifetime, bool(options))
        given = source if ":" in source else f"::ffff:{self.external}"
        return self.pcp_header(1, result, min(lifetime, self.longest)) + struct.pack(
            ">12sB3xHH16s", key, protocol, internal, external, ipaddress.IPv6Address(given).packed
        )

    def pcp_header(self, opcode, result, lifetime=0):
        return struct.pack(">BBBBII12x", 2, opcode | 128, 0, result, lifetime, self.epoch)

    def pcp_delete(self, source, protocol, internal, key):
        found = self.find(source, protocol, internal)
        if found is None:
            return self.absent_result
        if self.table[found][2] != key:
            return 2
        del self.table[found]
        return 0

    def pcp_map(self, source, protocol, internal, external, key, lifetime, prefer_failure):
        found = self.find(source, protocol, internal)
        if found is not None and self.table[found][2] != key and not self.forgets:
            return 2, external
        if found is not None and found[1] != external and prefer_failure and self.heeds:
            return 11, external
        port = found[1] if found is not None else self.free(protocol, external)
        if port != external and prefer_failure and self.heeds:
            return 11, external
        if found is not None and self.forgets:
            key = b""
        self.table[protocol, port] = (source, internal, key, min(lifetime, self.longest))
        return 0, port

    # --- NAT-PMP, RFC 6886

    def natpmp(self, request, source):
        opcode = request[1]
        header = struct.pack(">BBHI", 0, opcode | 128, self.natpmp_result, self.epoch)
        if opcode == 0:
            assert len(request) == 2
            if self.natpmp_result:
                return header + bytes(4)
            return header + ipaddress.IPv4Address(self.external).packed
        _version, _opcode, internal, external, lifetime = struct.unpack(">BBxxHHI", request)
        protocol = {1: 17, 2: 6}[opcode]
        if self.natpmp_result:
            return header + struct.pack(">HHI", internal, 0, 0)
        found = self.find(source, protocol, internal)
        if lifetime:
            external = found[1] if found is not None else self.free(protocol, external)
            self.table[protocol, external] = (source, internal, b"", min(lifetime, self.longest))
        else:
            assert external == 0
            if found is not None:
                del self.table[found]
        return header + struct.pack(">HHI", internal, external, min(lifetime, self.longest))

    # ---

    def find(self, source, protocol, internal):
        held = (key for key, entry in self.table.items() if (key[0], *entry[:2]) == (protocol, source, internal))
        return next(held, None)

    def free(self, protocol, port):
        while (protocol, port) in self.table or port in self.denied:
            port += 1
        return port

    def join(self, monkeypatch, tmp_path):
        """Be the router of every client from now on."""
        machine_id = tmp_path / "machine-id"
        machine_id.write_text("0123456789abcdef0123456789abcdef\n")
        of_mapping = nonce.of_mapping
        monkeypatch.setattr(nonce, "of_mapping", lambda *words: of_mapping(*words, machine_id))

        def exchange(address, port, request, read, *, patience, source):
            assert address in (ROUTER, ROUTER_V6)
            assert port == 5351
            return read(self.answer(request, source))

        monkeypatch.setattr(pcp_client, "exchange", exchange)
        monkeypatch.setattr(natpmp_client, "exchange", exchange)
        monkeypatch.setattr(upnp_search, "search", lambda *_: iter(()))
        monkeypatch.setattr(routes, "default_gateway", lambda family: {4: ROUTER, 6: ROUTER_V6}[family])
        monkeypatch.setattr(routes, "local_address", lambda _gateway, family: {4: HOST, 6: HOST_V6}[family])
