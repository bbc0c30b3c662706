# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Google's Compute Engine API, as far as instances and firewall rules go (https://cloud.google.com/compute/docs/reference)."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path

from .web import Answer, Request

NETWORK = "https://www.googleapis.com/compute/v1/projects/my-project/global/networks/default"
BASE = "/compute/v1/projects/my-project"
TOKEN = "ya29.token"
KEYS = {
    *("kind", "name", "description", "network", "priority", "sourceRanges", "targetTags", "allowed", "direction"),
    *("disabled", "logConfig"),
}


def credentials(folder: Path) -> Path:
    """Write a file such as gcloud auth application-default login leaves."""
    file = folder / "application_default_credentials.json"
    content = {"type": "authorized_user", "client_id": "id", "client_secret": "secret", "refresh_token": "refresh"}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


class Gcp:
    """The project "my-project" with the instance "home" and firewall rules by name."""

    def __init__(self) -> None:
        self.tags = ["peer-relay"]
        self.rules: dict[str, dict] = {}
        self.writes: list[str] = []

    def __call__(self, request: Request) -> Answer:
        if request.host == "oauth2.googleapis.com" and request.form().get("refresh_token") == "refresh":
            return Answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        if request.host != "compute.googleapis.com" or request.bearer() != TOKEN:
            return self._error(401, "Invalid Credentials")
        path = request.path.removeprefix(BASE)
        if request.method == "GET" and path == "/zones/europe-west3-a/instances":
            return self._list(request, [self._instance()])
        if request.method == "GET" and path == "/global/firewalls":
            return self._list(request, list(self.rules.values()))
        if request.method == "POST" and path == "/global/firewalls":
            return self._create(request.json())
        if path.startswith("/global/firewalls/"):
            return self._one(request, path.rsplit("/", 1)[1])
        return self._error(404, f"{request.method} {request.path}")

    def _instance(self) -> dict:
        interface = {"network": NETWORK, "networkIP": "10.156.0.2", "accessConfigs": [{"natIP": "203.0.113.7"}]}
        return {"name": "home", "tags": {"items": self.tags}, "networkInterfaces": [interface]}

    @staticmethod
    def _list(request: Request, items: list[dict]) -> Answer:
        terms = request.query["filter"].split(" OR ")
        names = [re.fullmatch(r"\(?name = ([a-z0-9-]+)\)?", term).group(1) for term in terms]
        found = [item for item in items if item["name"] in names]
        return Answer(200, {"kind": "compute#list", **({"items": found} if found else {})})

    def _create(self, body: dict) -> Answer:
        self.writes.append(f"create {body.get('name')}")
        wrong = self._wrong(body)
        if wrong:
            return self._error(400, wrong)
        if body["name"] in self.rules:
            return self._error(409, "alreadyExists")
        self.rules[body["name"]] = {"direction": "INGRESS", "priority": 1000, "disabled": False, "id": "1", **body}
        return self._operation(body["name"])

    def _one(self, request: Request, name: str) -> Answer:
        if name not in self.rules:
            return self._error(404, f"The resource {name} was not found")
        if request.method == "GET":
            return Answer(200, self.rules[name])
        self.writes.append(f"{request.method.lower()} {name}")
        if request.method == "DELETE":
            del self.rules[name]
            return self._operation(name)
        body = request.json()
        wrong = self._wrong(body)
        if request.method != "PATCH" or wrong:
            return self._error(400, wrong or request.method)
        self.rules[name].update(body)
        return self._operation(name)

    @staticmethod
    def _wrong(body: dict) -> str:
        if set(body) - KEYS:
            return f"Unknown fields {set(body) - KEYS}"
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", body.get("name", "")):
            return "Invalid value for field 'resource.name'"
        if body.get("network") != NETWORK:
            return "Invalid value for field 'resource.network'"
        if len({ipaddress.ip_network(source).version for source in body.get("sourceRanges", [])}) != 1:
            return "sourceRanges must be of one family"
        for item in body.get("allowed", []):
            if set(item) != {"IPProtocol", "ports"} or not all(isinstance(port, str) for port in item["ports"]):
                return "Invalid value for field 'resource.allowed'"
        return "" if body.get("allowed") and body.get("targetTags") else "Missing allowed or targetTags"

    @staticmethod
    def _operation(name: str) -> Answer:
        link = f"https://compute.googleapis.com{BASE}/global/firewalls/{name}"
        return Answer(200, {"kind": "compute#operation", "name": "operation-1", "status": "DONE", "targetLink": link})

    @staticmethod
    def _error(status: int, message: str) -> Answer:
        return Answer(status, {"error": {"code": status, "message": message, "errors": [{"message": message}]}})
