"""What stock devices do with their profiles."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

from lab import run

FOLDER = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "profiles"


def profile(tunnel: str) -> str:
    return (FOLDER / f"{tunnel}.conf").read_text()


def bring_up(name: str, tunnel: str) -> None:
    """Copy the profile as it is, and have wg-quick bring it up."""
    text = base64.b64encode(profile(tunnel).encode()).decode()
    run(name, f"umask 077; echo {text} | base64 -d >/etc/wireguard/{tunnel}.conf; wg-quick up {tunnel}")


def take_down(name: str, tunnel: str) -> None:
    run(name, f"wg-quick down {tunnel}")


def private_key(tunnel: str) -> str:
    found = re.search(r"PrivateKey = (.{44})\n", profile(tunnel))
    assert found
    return found[1]
