# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A home whose router maps ports: the real miniupnpd, which speaks UPnP, NAT-PMP and PCP.

internet --- router   11.22.33.21, 2001:db8:ffff::21   (miniupnpd serves no address that is reserved for documentation)
   |            |--- inside     192.168.1.11, 2001:db8:1::11   here runs what asks for mappings
   |            |--- neighbor   192.168.1.12, 2001:db8:1::12
   |--- outside   203.0.113.66
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

from harness.processes import Process
from harness.topology import Lab

WAN_ADDRESS = "11.22.33.21"
GATEWAY = "192.168.1.1"
GATEWAY_V6 = "2001:db8:1::1"
INSIDE = "192.168.1.11"
INSIDE_V6 = "2001:db8:1::11"
NEIGHBOR = "192.168.1.12"

_TABLE = "router"  # the harness's own; the daemon fills chains in it
_CHAINS = ("miniupnpd", "prerouting_miniupnpd", "postrouting_miniupnpd")
_RULES = """
table inet router {
  chain miniupnpd { }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
  chain forward { jump miniupnpd; }
  chain prerouting { type nat hook prerouting priority dstnat; jump prerouting_miniupnpd; }
}
insert rule inet router postrouting jump postrouting_miniupnpd
"""
_SETTINGS = f"""
ext_ifname=wan0
listening_ip=lan0
http_port=5000
upnp_table_name={_TABLE}
upnp_nat_table_name={_TABLE}
uuid=00000000-0000-4000-8000-000000000001
system_uptime=no
min_lifetime=1
"""
DEFAULT = ("enable_natpmp=yes", "enable_upnp=yes", "secure_mode=yes")


class Home:
    """The topology above; the daemon is not started."""

    def __init__(self, lab: Lab):
        self.lab = lab
        site = lab.site()
        self.router = site.router
        self.inside = site.host("inside", v6=True)
        self.neighbor = site.host("neighbor", v6=True)
        self.outside = lab.stranger()
        self.outside.ip("addr add 2001:db8:ffff::66/64 dev eth0 nodad", "route add default via 2001:db8:ffff::1")
        lab.wan.ip("addr add 11.22.33.1/24 dev wan0")
        self.router.nft(_RULES)
        self.wan_address = site.wan_v4
        self.move(WAN_ADDRESS)
        self._settings = lab.folder / "miniupnpd.conf"
        self._process: Process | None = None

    def start(self, *settings: str) -> None:
        """Start the daemon; the settings are lines of miniupnpd.conf, in place of `DEFAULT`."""
        self._settings.write_text("\n".join([_SETTINGS, *(settings or DEFAULT), ""]))
        words = ("-d", "-f", str(self._settings), "-P", str(self.lab.folder / "miniupnpd.pid"))
        self._process = self.router.spawn("miniupnpd", *words, log="miniupnpd")
        self.lab.start(self._process)
        self._process.wait_until("miniupnpd listens", self._is_listening, 5)

    def _is_listening(self) -> bool:
        # The last sockets that it opens: that of NAT-PMP and PCP, and PCP's of IPv6; or else SSDP's.
        sockets = Path(f"/proc/{self._process.pid}/net")
        if "enable_natpmp=yes" not in self._settings.read_text():
            return ":076C " in (sockets / "udp").read_text()  # 1900
        return all(":14E7 " in (sockets / name).read_text() for name in ("udp", "udp6"))  # 5351

    def stop(self) -> None:
        """End the daemon, as a loss of power does; its mappings stay in the packet filter."""
        if self._process:
            self._process.stop(signal.SIGKILL)

    def forget(self) -> None:
        """Lose every mapping, as a router does that loses power; for a daemon that is stopped."""
        self.router.nft("".join(f"flush chain inet {_TABLE} {chain}\n" for chain in _CHAINS))

    def move(self, address: str) -> None:
        """The provider gives the router another address, from whichever network."""
        self.router.ip(
            f"addr del {self.wan_address}/24 dev wan0",
            f"addr add {address}/24 dev wan0",
            "route replace default via 11.22.33.1 dev wan0 onlink",
        )
        self.wan_address = address

    def mappings(self) -> dict[tuple[str, int], tuple[str, int]]:
        """What the packet filter translates: (protocol, external port) -> (internal address, internal port)."""
        found = {}
        for expressions in self._rules("prerouting_miniupnpd"):
            matches = [entry["match"] for entry in expressions if "match" in entry]
            protocol, port = (match["right"] for match in matches if "payload" in match["left"])
            target = next(entry["dnat"] for entry in expressions if "dnat" in entry)
            found[{6: "tcp", 17: "udp"}[protocol], port] = target["addr"], target["port"]
        return found

    def pinholes(self) -> int:
        """How many flows from outside the packet filter lets pass untranslated."""
        return len(self._rules("miniupnpd"))

    def _rules(self, chain: str) -> list[list[dict]]:
        listed = json.loads(self.router.run("nft", "-j", "list", "chain", "inet", _TABLE, chain))
        return [entry["rule"]["expr"] for entry in listed["nftables"] if "rule" in entry]
