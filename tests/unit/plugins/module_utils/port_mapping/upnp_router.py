# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for the network and its UPnP gateways; it answers as miniupnpd 2.3.1 does."""

from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import gateway as upnp_gateway
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import http, markup, ssdp

GATEWAY = "urn:schemas-upnp-org:device:InternetGatewayDevice:"
URN = "urn:schemas-upnp-org:service:"
ENVELOPE = (
    '<?xml version="1.0"?>\r\n<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
    ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>{}</s:Body></s:Envelope>\r\n'
)
FAULT = (
    "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>"
    '<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{}</errorCode>'
    "<errorDescription>{}</errorDescription></UPnPError></detail></s:Fault>"
)


class No(Exception):
    """A fault: a code, and what the router calls it."""


def refusing(code, words):
    """An action that is always answered with a fault."""

    def action(**_):
        raise No(code, words)

    return action


class Router:
    """A gateway. The actions are methods by their name; tests replace those that are odd."""

    def __init__(self, address="192.168.7.1", services=("WANIPConnection:2", "WANIPv6FirewallControl:1")):
        self.address = address
        self.services = services
        self.port = 5000
        self.boot_id = 7
        self.up, self.up_word = True, "Connected"
        self.external = "198.51.100.1"
        self.down = set()  # control URLs without uplink
        self.table = {}  # (port, protocol) -> (address, port, description, lease)
        self.pinholes = {}  # (address, port, protocol) -> (id, lease)
        self.asked = []

    @property
    def location(self):
        host = f"[{self.address.partition('%')[0]}]" if ":" in self.address else self.address
        return f"http://{host}:{self.port}/rootDesc.xml"

    def answers(self):
        return [ssdp.Answer(f"{GATEWAY}1", self.location, self.boot_id)]

    def description(self, _path):
        listed = "".join(
            f"<service><serviceType>{URN}{kind}</serviceType><controlURL>/ctl/{number}</controlURL></service>"
            for number, kind in enumerate(self.services)
        )
        return f"<root><device><serviceList>{listed}</serviceList></device></root>".encode()

    def exchange(self, where, source, method, headers, body=b""):
        assert where.host == self.address
        if not self.up or where.port != self.port:
            raise Unreachable(f"the router {self.address} does not answer {where}: refused")
        if method == "GET":
            return 200, self.description(where.path)
        (call,) = markup.parse(body).find("Body")
        kind, _, action = headers["SOAPAction"].strip('"').partition("#")
        assert action == call.tag
        self.asked.append(action)
        self.source, self.control = source, where.path
        arguments = {argument.tag: argument.text or "" for argument in call}
        try:
            results = getattr(self, action, self.unknown)(**arguments) or {}
        except No as no:
            return 500, ENVELOPE.format(FAULT.format(*no.args)).encode()
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in results.items())
        return 200, ENVELOPE.format(f'<u:{action}Response xmlns:u="{kind}">{inner}</u:{action}Response>').encode()

    def unknown(self, **_):
        raise No(401, "Invalid Action")

    def GetExternalIPAddress(self):
        return {"NewExternalIPAddress": self.external}

    def GetStatusInfo(self):
        return {"NewConnectionStatus": "Disconnected" if self.control in self.down else self.up_word, "NewUptime": 1}

    def AddPortMapping(self, **new):
        key = int(new["NewExternalPort"]), new["NewProtocol"]
        if key[0] < 1024:
            raise No(606, "Action not authorized")
        holder = self.table.get(key)
        if new["NewInternalClient"] != self.source or (holder and holder[0] != new["NewInternalClient"]):
            raise No(718, "ConflictInMappingEntry")
        assert new["NewRemoteHost"] == "" and new["NewEnabled"] == "1"
        lease = int(new["NewLeaseDuration"]) or 604800
        self.table[key] = (
            new["NewInternalClient"],
            int(new["NewInternalPort"]),
            new["NewPortMappingDescription"],
            lease,
        )

    def entry(self, key):
        address, port, description, lease = self.table[key]
        return {
            "NewInternalPort": port,
            "NewInternalClient": address,
            "NewEnabled": 1,
            "NewPortMappingDescription": description,
            "NewLeaseDuration": lease,
        }

    def GetSpecificPortMappingEntry(self, **old):
        key = int(old["NewExternalPort"]), old["NewProtocol"]
        if key not in self.table:
            raise No(714, "NoSuchEntryInArray")
        return self.entry(key)

    def GetGenericPortMappingEntry(self, NewPortMappingIndex):
        keys = list(self.table)
        if int(NewPortMappingIndex) >= len(keys):
            raise No(713, "SpecifiedArrayIndexInvalid")
        port, protocol = keys[int(NewPortMappingIndex)]
        key = {"NewRemoteHost": "", "NewExternalPort": port, "NewProtocol": protocol}
        return key | self.entry((port, protocol))

    def DeletePortMapping(self, **old):
        key = int(old["NewExternalPort"]), old["NewProtocol"]
        if key not in self.table:
            raise No(714, "NoSuchEntryInArray")
        del self.table[key]

    def GetFirewallStatus(self):
        return {"FirewallEnabled": 1, "InboundPinholeAllowed": 1}

    def AddPinhole(self, **new):
        assert new["RemoteHost"] == "" and new["RemotePort"] == "0" and 0 < int(new["LeaseTime"]) <= 86400
        if new["InternalClient"] != self.source or int(new["InternalPort"]) < 1024:
            raise No(606, "Action not authorized")
        key = new["InternalClient"], int(new["InternalPort"]), int(new["Protocol"])
        number = self.pinholes[key][0] if key in self.pinholes else len(self.pinholes) + 1
        self.pinholes[key] = number, int(new["LeaseTime"])
        return {"UniqueID": number}

    def DeletePinhole(self, UniqueID):
        for key, (number, _lease) in self.pinholes.items():
            if number == int(UniqueID):
                del self.pinholes[key]
                return
        raise No(704, "NoSuchEntry")


class Network:
    """Who answers what: `groups` is False for a network that drops multicast, or a host firewall its answers."""

    def __init__(self, *routers, unicast=True, groups=True):
        self.routers = {router.address: router for router in routers}
        self.unicast, self.groups = unicast, groups
        self.searches = []

    def search(self, destination, local_address):
        self.searches.append(destination)
        for address, router in self.routers.items():
            heard = self.unicast if destination == address else self.groups and destination in ssdp.GROUPS.values()
            if router.up and heard:
                yield from ((address, answer) for answer in router.answers())

    def exchange(self, where, *rest):
        return self.routers[where.host].exchange(where, *rest)

    def join(self, monkeypatch):
        """Put the host into this network."""
        monkeypatch.setattr(http, "exchange", self.exchange)
        for module in (upnp_client, upnp_gateway):
            monkeypatch.setattr(module, "search", self.search)
        return self
