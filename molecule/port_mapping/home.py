"""The home router of the scenario, and datagrams that knock at its door."""

from __future__ import annotations

import contextlib
import json
import shlex
import struct
import time
from typing import TYPE_CHECKING

from lab import background, capture, run, udp_payload, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTER = "router-home"
OUTSIDE = "11.22.33.21"
RELAY = ("192.168.1.10", 40000)
_CHAINS = ["miniupnpd", "prerouting_miniupnpd"]
_MARK = b"knock"
_KNOCK_FORMAT = struct.Struct(f">{len(_MARK)}sId")
# Each has a source port that was not used for long: it is a new flow, which only a mapping lets in.
_KNOCK = """
import itertools, socket, struct, time
for number in itertools.count():
    now = time.time()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("", 10000 + int(now * 50) % 20000))
        made.sendto(struct.pack({form!r}, {mark!r}, number, now), ({address!r}, {port}))
    time.sleep(0.02)
"""


def mappings() -> dict[int, tuple[str, int]]:
    """What the router's packet filter translates: external port -> (internal address, internal port)."""
    listed = json.loads(run(ROUTER, "nft -j list chain inet router prerouting_miniupnpd"))
    found = {}
    for entry in listed["nftables"]:
        expressions = entry["rule"]["expr"] if "rule" in entry else []
        for target in (expression["dnat"] for expression in expressions if "dnat" in expression):
            ports = [e["match"]["right"] for e in expressions if "match" in e and "dport" in str(e["match"]["left"])]
            found[ports[0]] = (target["addr"], target["port"])
    return found


def restart_without_mappings() -> float:
    """Restart the router's daemon, all mappings lost; when they were gone."""
    flush = "; ".join(f"nft flush chain inet router {chain}" for chain in _CHAINS)
    return float(run(ROUTER, f"systemctl stop miniupnpd; {flush}; date +%s.%N; systemctl start miniupnpd").split()[-1])


def drop_announcements() -> None:
    """Let nobody hear that the daemon restarts, as on hosts whose own firewall is closed."""
    rule = "type filter hook output priority 0; ip daddr { 224.0.0.1, 239.255.255.250 } drop"
    run(ROUTER, f"nft 'table inet unheard {{ chain output {{ {rule}; }}; }}'")


def wait_mapped() -> None:
    wait_for("the router maps the port", lambda: RELAY in mappings().values())


class Knocks:
    """The datagrams that arrived, once the block has ended: their numbers, and when they were sent."""

    def __init__(self) -> None:
        self.arrived: dict[int, float] = {}

    def first_after(self, moment: float) -> float:
        """Seconds from the moment until a datagram was sent that arrived."""
        return min(at for at in self.arrived.values() if at > moment) - moment

    def lost_before(self, moment: float) -> int:
        """How many of those before the moment did not arrive."""
        numbers = [number for number, at in self.arrived.items() if at < moment]
        return max(numbers) - min(numbers) + 1 - len(numbers)


@contextlib.contextmanager
def knocking() -> Iterator[Knocks]:
    """Let the laptop send datagrams to the router's port while the block runs, some 50 a second."""
    knocks = Knocks()
    script = _KNOCK.format(form=_KNOCK_FORMAT.format, mark=_MARK, address=OUTSIDE, port=RELAY[1])
    mark = f"udp dst port {RELAY[1]} and udp[8:4] == 0x{_MARK[:4].hex()}"
    with capture("relay", "home", mark) as packets, background("laptop", f"python3 -c {shlex.quote(script)}"):
        time.sleep(1)
        yield knocks
    for packet in packets:
        _mark, number, sent = _KNOCK_FORMAT.unpack(udp_payload(packet))
        knocks.arrived[number] = sent
