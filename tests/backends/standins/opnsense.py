# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""OPNsense's API of version 26.7, after its controllers DNat, SourceNat, Filter and Overview and their models.

https://docs.opnsense.org/development/api/core/firewall.html
"""

from __future__ import annotations

import ipaddress
import uuid

from .web import Answer, Request

KEY, SECRET = "w86XNZob", "puOyw0Ega3xZXeD2"
MODES = ("automatic", "hybrid", "advanced", "disabled")
INTERFACES = ("wan", "lan")
NETWORKS = ("any", "(self)", "wan", "lan", "wanip", "lanip")
# The fields of a new rule, with the models' defaults.
_COMMON = {"interface": "", "ipprotocol": "inet", "protocol": "any", "log": "0", "sequence": "1"}
_ENDS = {"source_net": "any", "source_port": "", "destination_net": "any", "destination_port": ""}
DEFAULTS = {
    "d_nat": {
        **dict.fromkeys([*_COMMON, "disabled", "nordr", "target", "local-port", "natreflection", "pass", "descr"], ""),
        **dict.fromkeys(["source.network", "source.port", "destination.network", "destination.port"], ""),
    },
    "source_nat": {**_COMMON, **_ENDS, "enabled": "1", "target": "", "target_port": "", "description": ""},
    "filter": {
        **_COMMON,
        **_ENDS,
        "enabled": "1",
        "action": "pass",
        "direction": "in",
        "quick": "1",
        "description": "",
    },
}
CHOICES = {
    "action": ("pass", "block", "reject"),
    "direction": ("in", "out", "any"),
    "disabled": ("", "0", "1"),
    "enabled": ("0", "1"),
    "interface": ("", *INTERFACES),
    "ipprotocol": ("", "inet", "inet6", "inet46"),
    "natreflection": ("", "purenat", "disable"),
    "pass": ("", "pass", "rule"),
}


def flatten(values: dict, path: str = "") -> dict[str, str]:
    result: dict[str, str] = {}
    for key, value in values.items():
        result |= flatten(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return result


def is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


class OPNsense:
    """A router's rules by controller and UUID; what was changed counts once it is applied."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[str, dict[str, str]]] = {controller: {} for controller in DEFAULTS}
        self.source_nat_mode = "hybrid"
        self.writes: list[str] = []
        self.applied = True

    def rule(self, controller: str, **values: object) -> None:
        """Add a rule of somebody else's."""
        fields = flatten(
            {key.replace("_", "-") if key == "local_port" else key: value for key, value in values.items()}
        )
        self.tables[controller][str(uuid.uuid4())] = DEFAULTS[controller] | fields

    def __call__(self, request: Request) -> Answer:
        if request.basic() != f"{KEY}:{SECRET}":
            return Answer(401, {"status": 401, "message": "Authentication Failed"})
        if request.path == "/api/interfaces/overview/interfaces_info":
            return self._rows([{"identifier": "", "device": "igc2"}, self._interface("lan"), self._interface("wan")])
        if request.path == "/api/firewall/source_nat/get":
            options = {mode: {"value": mode, "selected": int(mode == self.source_nat_mode)} for mode in MODES}
            return Answer(200, {"filter": {"general": {"snat_mode": options}}})
        _, api, module, controller, command, *arguments = request.path.split("/")
        if (api, module) != ("api", "firewall") or controller not in self.tables:
            return Answer(404, {"errorMessage": "Endpoint not found"})
        if command == "search_rule":
            return self._search(controller)
        if request.method != "POST" or request.headers.get("content-type") != "application/json":
            return Answer(200, {"result": "failed"})
        if command == "apply":
            self.applied = True
            return Answer(200, {"status": "OK\n\n"})
        self.writes.append(f"{controller} {command}")
        if command == "set_rule":
            return self._set(controller, arguments[0], request.json())
        if command == "del_rule":
            found = self.tables[controller].pop(arguments[0], None)
            self.applied = False
            return Answer(200, {"result": "deleted" if found else "not found"})
        return Answer(404, {"errorMessage": "Endpoint not found"})

    @staticmethod
    def _interface(name: str) -> dict:
        address = {"lan": "192.168.88.1/24", "wan": "203.0.113.26/24"}[name]
        return {"identifier": name, "description": name.upper(), "device": "igc0", "addr4": address, "addr6": ""}

    def _search(self, controller: str) -> Answer:
        if controller == "source_nat" and self.source_nat_mode not in ("hybrid", "advanced"):
            return self._rows([])
        rows = [{"uuid": key, **row} for key, row in self.tables[controller].items()]
        if controller == "d_nat":  # the rule against locking oneself out, which has few of the fields
            rows.append({"uuid": "automatic_core_1", "interface": "lan", "nordr": "1", "protocol": "tcp", "descr": ""})
        return self._rows(rows)

    @staticmethod
    def _rows(rows: list[dict]) -> Answer:
        return Answer(200, {"total": len(rows), "rowCount": len(rows), "current": 1, "rows": rows})

    def _set(self, controller: str, identifier: str, body: dict) -> Answer:
        uuid.UUID(identifier)
        fields = flatten(body["rule"])
        if controller == "d_nat" and "protocol" in fields:
            fields["protocol"] = fields["protocol"].lower()
        row = self.tables[controller].get(identifier, DEFAULTS[controller]) | fields
        wrong = {key: text for key, value in fields.items() if (text := self._wrong(controller, key, value))}
        if not wrong and any(":" in row[key] for key in fields if key.endswith(("_net", "target"))):
            wrong = {} if row["ipprotocol"] == "inet6" else {"ipprotocol": "Address type should match"}
        if wrong:
            return Answer(200, {"result": "failed", "validations": {f"rule.{key}": wrong[key] for key in wrong}})
        self.tables[controller][identifier] = row
        self.applied = False
        return Answer(200, {"result": "saved"})

    @staticmethod
    def _wrong(controller: str, key: str, value: object) -> str:
        if key not in DEFAULTS[controller]:
            return "the real model would ignore this field"
        if not isinstance(value, str):
            return "Value should be a string"
        if key in CHOICES:
            return "" if value in CHOICES[key] else "Option not in list"
        if key == "protocol":
            return (
                "" if value in (("udp", "tcp") if controller == "d_nat" else ("UDP", "TCP")) else "Option not in list"
            )
        if key.endswith("port"):
            return "" if value == "" or 0 < int(value) < 65536 else "Please specify a valid port number"
        if key.endswith(("_net", "network", "target")) and value not in NETWORKS and not is_address(value):
            return "Please specify a valid network segment or address"
        return ""
