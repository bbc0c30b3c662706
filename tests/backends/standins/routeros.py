# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""RouterOS' API: its sentences over TLS, and the menus that a forward needs.

https://help.mikrotik.com/docs/spaces/ROS/pages/47579160/API
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import ssl
import threading

PASSWORD = "correct horse"
_RULE = {
    *("comment", "chain", "action", "protocol", "src-address", "dst-address", "dst-port", "in-interface-list"),
    *("disabled", "log", "log-prefix"),
}
MENUS = {
    "/ip/address": {"address", "interface"},
    "/interface/list/member": {"list", "interface"},
    "/ip/firewall/nat": _RULE | {"dst-address-type", "to-addresses", "to-ports"},
    "/ip/firewall/filter": _RULE | {"connection-nat-state", "connection-state"},
    "/ipv6/firewall/filter": _RULE | {"connection-state"},
}
ACTIONS = {
    "/ip/firewall/nat": {"dstnat": {"dst-nat", "redirect"}, "srcnat": {"src-nat", "masquerade"}},
    "/ip/firewall/filter": {"forward": {"accept", "drop", "fasttrack-connection"}},
    "/ipv6/firewall/filter": {"forward": {"accept", "drop"}},
}


class Trap(Exception):
    """What the router says to a wrong command."""


class RouterOS:
    """The state of a router, and its commands."""

    def __init__(self) -> None:
        self.menus: dict[str, list[dict[str, str]]] = {path: [] for path in MENUS}
        self.writes: list[str] = []
        self._last = 0

    def row(self, path: str, **values: str) -> str:
        """Add what is there before the role runs."""
        self._last += 1
        row = {".id": f"*{self._last:X}", **{key.replace("_", "-"): value for key, value in values.items()}}
        if "firewall" in path:
            row = {**row, "disabled": "false", "log": "false", "log-prefix": "", "dynamic": "false", "invalid": "false"}
        self.menus[path].append(row)
        return row[".id"]

    def rules(self, path: str) -> list[str]:
        return [row.get("comment", "") for row in self.menus[path]]

    def command(self, name: str, words: dict[str, str]) -> list[dict[str, str]]:
        """Carry a command out, and give the sentences of its reply."""
        path, _, verb = name.rpartition("/")
        if path not in MENUS:
            raise Trap("no such command prefix")
        if verb == "print":
            return self.menus[path]
        self.writes.append(f"{name} {words}")
        if verb == "add":
            return [{"ret": self._add(path, words)}]
        if verb == "set":
            row = self._find(path, words.pop(".id"))
            for key, value in words.items():
                if key.startswith("!"):
                    row.pop(key[1:], None)
                else:
                    row[key] = {"yes": "true", "no": "false"}.get(value, value)
            self._check(path, row)
        elif verb == "remove":
            for row in [self._find(path, identifier) for identifier in words[".id"].split(",")]:
                self.menus[path].remove(row)
        elif verb == "move":
            row, before = self._find(path, words["numbers"]), self._find(path, words["destination"])
            self.menus[path].remove(row)
            self.menus[path].insert(self.menus[path].index(before), row)
        else:
            raise Trap("no such command")
        return []

    def _add(self, path: str, words: dict[str, str]) -> str:
        self._check(path, words)
        return self.row(path, **words)

    def _find(self, path: str, identifier: str) -> dict[str, str]:
        for row in self.menus[path]:
            if row[".id"] == identifier:
                return row
        raise Trap("no such item")

    def _check(self, path: str, row: dict[str, str]) -> None:
        for key in row:
            if key not in MENUS[path] | {".id", "dynamic", "invalid"}:
                raise Trap(f"unknown parameter {key}")
        if row.get("action") not in ACTIONS[path].get(row.get("chain", ""), ()):
            raise Trap("input does not match any value of action")
        if "dst-port" in row and row.get("protocol") not in ("tcp", "udp"):
            raise Trap("ports can be specified if proto is either tcp or udp")
        if "to-addresses" in row and row["action"] != "dst-nat":
            raise Trap("to-addresses cannot be specified for this action")
        lists = {member["list"] for member in self.menus["/interface/list/member"]} | {"all"}
        if row.get("in-interface-list", "all") not in lists:
            raise Trap("input does not match any value of interface-list")
        for key in ("src-address", "dst-address", "to-addresses"):
            self._check_address(path, row.get(key))

    @staticmethod
    def _check_address(path: str, value: str | None) -> None:
        """Addresses have to be written as the router prints them, or it would differ from what was asked for."""
        if value is None:
            return
        network = ipaddress.ip_network(value)
        short = str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
        if value != (str(network) if path.startswith("/ipv6") else short):
            raise Trap(f"invalid value {value}")


class Server:
    """Serves one router's API over TLS."""

    def __init__(self, router: RouterOS, context: ssl.SSLContext) -> None:
        lock = threading.Lock()

        class Handler(socketserver.StreamRequestHandler):
            def setup(self) -> None:
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def handle(self) -> None:
                logged_in = False
                while sentence := self._read():
                    name, words = sentence[0], dict(word[1:].split("=", 1) for word in sentence[1:])
                    if name == "/login":
                        logged_in = words == {"name": "admin", "password": PASSWORD}
                        answer = [] if logged_in else Trap("invalid user name or password (6)")
                    elif not logged_in:
                        answer = Trap("not logged in")
                    else:
                        answer = self._carry_out(name, words)
                    self._reply(answer)

            @staticmethod
            def _carry_out(name: str, words: dict[str, str]) -> list[dict[str, str]] | Trap:
                with lock:
                    try:
                        return router.command(name, words)
                    except Trap as trap:
                        return trap

            def _reply(self, answer: list[dict[str, str]] | Trap) -> None:
                if isinstance(answer, Trap):
                    self._write("!trap", f"=message={answer}")
                    answer = []
                if answer and "ret" in answer[0]:
                    self._write("!done", f"=ret={answer[0]['ret']}")
                    return
                for row in answer:
                    self._write("!re", *(f"={key}={value}" for key, value in row.items()))
                self._write("!done")

            def _read(self) -> list[str]:
                words = []
                while length := self._read_length():
                    words.append(self.rfile.read(length).decode())
                return words

            def _read_length(self) -> int:
                first = self.rfile.read(1)
                if not first or first[0] < 0x80:
                    return first[0] if first else 0
                if first[0] < 0xC0:
                    return (first[0] & 0x3F) << 8 | self.rfile.read(1)[0]
                raise ValueError("no word of these tests is that long")

            def _write(self, *words: str) -> None:
                for word in words:
                    data = word.encode()
                    size = len(data)
                    self.wfile.write(bytes([size]) if size < 0x80 else (size | 0x8000).to_bytes(2, "big"))
                    self.wfile.write(data)
                self.wfile.write(b"\0")

            def finish(self) -> None:
                super().finish()
                self.request.close()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> Server:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
