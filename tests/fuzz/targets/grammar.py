# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Well-formed input that means harm, made of the fuzzer's bytes: each byte decides between rules of a grammar."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from targets.choices import Choices

_SCOPES = ["", "%eth0", "%a\0b", "%\ud800", "%1\n[Interface]\nPreUp = id", "%" + "x" * 300]
_HOSTS4 = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "10.77.1.1", "192.0.2.1"]
_HOSTS6 = ["::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:0:0", "64:ff9b::7f00:1", "2001:db8::1"]
_PORTS = ["0", "1", "51820", "65535", "65536", "-1", "+1", "1e3", "٣", "", "9" * 5000, "0x10", " 1"]
_WORDS = ["", "\ud800", "\0", "\u202e", "a" * 70, "one", "\n<4>forged", "\x1b[2J", "é" * 40, "__proto__", "nan"]
_NUMBERS: list[Any] = [0, 1, -1, True, False, 1.5, -0.0, 10**400, -(10**400), float("nan"), float("inf"), 2**63, None]


class Hostile(Choices):
    """Decides between the rules."""

    def bytes(self, count: int) -> bytes:
        return bytes(self.number(256) for _ in range(count))

    # --- addresses ----------------------------------------------------------------------------------------------------

    def address(self) -> IPv4Address | IPv6Address:
        """One without text of its own: as bytes on the wire can have it."""
        kind = self.number(4)
        if kind == 0:
            return IPv4Address(self.of(_HOSTS4))
        if kind == 1:
            return IPv6Address(self.of(_HOSTS6))
        return IPv4Address(self.bytes(4)) if kind == 2 else IPv6Address(self.bytes(16))

    def endpoint(self) -> str:
        host = str(self.address())
        if ":" in host:
            host = f"[{host}{self.of(_SCOPES)}]" if self.number(8) else f"{host}{self.of(_SCOPES)}"
        port = self.of(_PORTS) if self.number(4) == 0 else str(1 + int.from_bytes(self.bytes(2), "big") % 65535)
        return f"{host}:{port}"

    # --- JSON ---------------------------------------------------------------------------------------------------------

    def value(self, depth: int = 3) -> Any:
        kind = self.number(256) % (6 if depth else 4)
        if kind == 0:
            return self.of(_NUMBERS)
        if kind == 1:
            return self.of(_WORDS)
        if kind == 2:
            return self.endpoint()
        if kind == 3:
            return self.number(256)
        if kind == 4:
            return [self.value(depth - 1) for _ in range(self.number(5))]
        return {self.of(_WORDS) + str(index): self.value(depth - 1) for index in range(self.number(5))}

    def json(self, document: dict[str, Any]) -> bytes:
        """The document, now and then with another value, a key twice, or too deep."""
        for key in list(document):
            if self.number(6) == 0:
                document[key] = self.value()
        text = json.dumps(document, ensure_ascii=bool(self.number(4)))
        rule = self.number(16)
        if rule == 0:
            text = "[" * 500 + text
        elif rule == 1 and document:
            key = next(iter(document))
            text = text[:-1] + f", {json.dumps(key)}: {json.dumps(self.value(0))}}}"
        elif rule == 2:
            return text.encode("utf-16", errors="surrogatepass")
        return text.encode(errors="surrogatepass")
