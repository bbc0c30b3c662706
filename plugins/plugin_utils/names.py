# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What names, URLs and fingerprints may be. The services take no others, and all files that are written take these."""

from __future__ import annotations

import re

from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import WireGuardError, parse_host
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import shown

_NAME = re.compile(r"\w[\w.:@/+-]{0,63}")
_URL = re.compile(r"wss?://(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9_.-]+))(?::([0-9]{1,5}))?(?:/[A-Za-z0-9_.~/?=&@:+,%-]*)?")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class OverlayError(ValueError):
    """The inventory contradicts itself; the message names the host, the value and the fix."""


def parse_name(value, where: str) -> str:
    """The name of a device, relay or group; raise OverlayError that says where it stands."""
    text = str(value)
    if not _NAME.fullmatch(text):
        raise OverlayError(f"{where} is {shown(text)}: give up to 64 letters, digits and _.:@/+-, a letter first")
    return text


def parse_url(value, where: str) -> str:
    """The URL of a WebSocket, or nothing; raise OverlayError."""
    text = str(value or "")
    found = _URL.fullmatch(text)
    try:
        if text and not (found and parse_host(found[1] or found[2]) and 0 < int(found[3] or 443) < 65536):
            raise WireGuardError
    except WireGuardError:
        raise OverlayError(f"{where} is {shown(text)}: give a URL like wss://www.example.org/peer-relay") from None
    return text


def parse_fingerprint(value, where: str) -> str:
    """The SHA-256 of a certificate in 64 digits, or nothing; raise OverlayError."""
    text = str(value or "").replace(":", "").lower()
    if text and not _FINGERPRINT.fullmatch(text):
        raise OverlayError(f"{where} is {shown(text)}: give the SHA-256 of the certificate, 64 hexadecimal digits")
    return text
