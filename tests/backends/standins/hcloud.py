# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hetzner's cloud API, as far as firewalls go (https://docs.hetzner.cloud), and what it tells a server of itself."""

from __future__ import annotations

import ipaddress

from .web import Answer, Request

TOKEN = "hcloud-token-" + "0" * 51
RULE_KEYS = {"description", "direction", "protocol", "port", "source_ips", "destination_ips"}


class Hcloud:
    """A project with firewalls by name, and the server 42 in it, which asks."""

    def __init__(self) -> None:
        self.metadata = {"instance-id": b"42", "public-ipv4": b"203.0.113.42"}
        self.firewalls: dict[str, dict] = {}
        self.writes: list[str] = []

    def firewall(self, name: str, rules: list[dict], *, by_label: bool = False, server: int | None = 42) -> None:
        reference = {"type": "server", "server": {"id": server}}
        label = {"type": "label_selector", "label_selector": {"selector": "a=b"}, "applied_to_resources": [reference]}
        self.firewalls[name] = {
            "id": 100 + len(self.firewalls),
            "name": name,
            "labels": {},
            "created": "2026-01-01T00:00:00+00:00",
            "rules": [self._complete(rule) for rule in rules],
            "applied_to": [] if server is None else [label if by_label else reference],
        }

    @staticmethod
    def _complete(rule: dict) -> dict:
        return {"description": None, "port": None, "source_ips": [], "destination_ips": [], **rule}

    def __call__(self, request: Request) -> Answer:
        if (request.host, request.method) == ("169.254.169.254", "GET"):
            text = self.metadata.get(request.path.removeprefix("/hetzner/v1/metadata/"), b"")
            return Answer(200 if text else 404, text)
        if request.host != "api.hetzner.cloud" or request.bearer() != TOKEN:
            return self._error(401, "unauthorized", "the token you provided is invalid")
        if request.method == "GET" and request.path == "/v1/firewalls":
            return self._page(request, "firewalls", list(self.firewalls.values()))
        for firewall in self.firewalls.values():
            if (request.method, request.path) == ("POST", f"/v1/firewalls/{firewall['id']}/actions/set_rules"):
                return self._set_rules(firewall, request.json())
        return self._error(404, "not_found", f"{request.method} {request.path}")

    def _set_rules(self, firewall: dict, body: dict) -> Answer:
        self.writes.append(f"set_rules {firewall['name']}")
        for rule in body["rules"]:
            wrong = self._wrong(rule)
            if wrong:
                return self._error(422, "invalid_input", f"{wrong}: {rule}")
        firewall["rules"] = [self._complete(rule) for rule in body["rules"]]
        return Answer(201, {"actions": []})

    @staticmethod
    def _wrong(rule: dict) -> str:
        if set(rule) - RULE_KEYS:
            return "unknown field"
        if rule.get("direction") not in ("in", "out"):
            return "direction"
        if rule.get("protocol") not in ("tcp", "udp", "icmp", "esp", "gre"):
            return "protocol"
        if (rule["protocol"] in ("tcp", "udp")) != isinstance(rule.get("port"), str):
            return "port"
        if not rule.get("source_ips" if rule["direction"] == "in" else "destination_ips"):
            return "no addresses"
        for address in rule.get("source_ips", []) + rule.get("destination_ips", []):
            ipaddress.ip_network(address)
        return "" if len(rule.get("description") or "") <= 255 else "description"

    @staticmethod
    def _page(request: Request, key: str, items: list[dict]) -> Answer:
        found = [item for item in items if request.query.get("name", item["name"]) == item["name"]]
        pages = {"page": 1, "per_page": 50, "last_page": 1, "total_entries": len(found)}
        return Answer(200, {key: found, "meta": {"pagination": {**pages, "previous_page": None, "next_page": None}}})

    @staticmethod
    def _error(status: int, code: str, message: str) -> Answer:
        return Answer(status, {"error": {"code": code, "message": message, "details": None}})
