# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Azure's API, as far as one network security group goes (https://learn.microsoft.com/rest/api/virtualnetwork)."""

from __future__ import annotations

import re

from .web import Answer, Request

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
TENANT = "00000000-0000-0000-0000-000000000002"
TOKEN = "azure-token"
ENVIRONMENT = {
    "AZURE_SUBSCRIPTION_ID": SUBSCRIPTION,
    "AZURE_TENANT": TENANT,
    "AZURE_CLIENT_ID": "00000000-0000-0000-0000-000000000003",
    "AZURE_SECRET": "azure-secret",
}
GROUP = (
    f"/subscriptions/{SUBSCRIPTION}/resourceGroups/my-group/providers/Microsoft.Network/networkSecurityGroups/my-nsg"
)
PROPERTIES = {
    *("description", "access", "direction", "priority", "protocol", "sourcePortRange", "destinationPortRange"),
    *("sourceAddressPrefix", "destinationAddressPrefix"),
}


class Azure:
    """The network security group "my-nsg" with its rules by name."""

    def __init__(self) -> None:
        self.rules: dict[str, dict] = {}
        self.writes: list[str] = []

    def rule(self, name: str, **properties: object) -> None:
        """Add a rule of somebody else's."""
        defaults = {"access": "Allow", "direction": "Inbound", "protocol": "Tcp", "sourceAddressPrefix": "*"}
        self.rules[name] = {**defaults, **properties}

    def __call__(self, request: Request) -> Answer:
        if request.host == "login.microsoftonline.com":
            return self._login(request)
        if request.host != "management.azure.com" or request.bearer() != TOKEN:
            return self._error(401, "AuthenticationFailed", "Authentication failed.")
        if request.query.get("api-version") != "2024-05-01":
            return self._error(400, "InvalidApiVersionParameter", str(request.query))
        if request.method == "GET" and request.path == GROUP:
            rules = [self._resource(name) for name in self.rules]
            return Answer(200, {"id": GROUP, "name": "my-nsg", "properties": {"securityRules": rules}})
        if request.path.startswith(f"{GROUP}/securityRules/"):
            return self._change(request, request.path.rsplit("/", 1)[1])
        return self._error(404, "ResourceNotFound", f"The Resource {request.path} was not found.")

    @staticmethod
    def _login(request: Request) -> Answer:
        base = f"https://login.microsoftonline.com/{TENANT}"
        if request.path == f"/{TENANT}/v2.0/.well-known/openid-configuration":
            endpoints = {"authorization_endpoint": f"{base}/oauth2/v2.0/authorize", "issuer": f"{base}/v2.0"}
            return Answer(200, {**endpoints, "token_endpoint": f"{base}/oauth2/v2.0/token"})
        if request.path == f"/{TENANT}/oauth2/v2.0/token" and request.form()["client_secret"] == "azure-secret":
            return Answer(200, {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        return Answer(404, {"error": "invalid_request", "error_description": request.path})

    def _resource(self, name: str) -> dict:
        content = {**self.rules[name], "provisioningState": "Succeeded"}
        return {"id": f"{GROUP}/securityRules/{name}", "name": name, "etag": 'W/"1"', "properties": content}

    def _change(self, request: Request, name: str) -> Answer:
        self.writes.append(f"{request.method} {name}")
        if request.method == "DELETE":
            return Answer(200 if self.rules.pop(name, None) else 204)
        properties = request.json()["properties"]
        wrong = self._wrong(name, properties)
        if request.method != "PUT" or wrong:
            return self._error(400, "InvalidRequest", wrong)
        existed = name in self.rules
        self.rules[name] = properties
        return Answer(200 if existed else 201, self._resource(name))

    def _wrong(self, name: str, properties: dict) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,78}[A-Za-z0-9_]", name):
            return f"Resource name {name} is invalid."
        if set(properties) != PROPERTIES:
            return f"Properties {set(properties) ^ PROPERTIES}"
        if properties["protocol"] not in ("Tcp", "Udp") or not 100 <= properties["priority"] <= 4096:
            return "Security rule has an invalid protocol or priority."
        others = [rule["priority"] for other, rule in self.rules.items() if other != name]
        return "SecurityRuleConflict" if properties["priority"] in others else ""

    @staticmethod
    def _error(status: int, code: str, message: str) -> Answer:
        return Answer(status, {"error": {"code": code, "message": message}})
