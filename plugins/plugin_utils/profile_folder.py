# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder on the control node that holds the profiles, which nobody but their owner may read."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from ansible.parsing.vault import is_encrypted
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import is_key

from .names import OverlayError
from .profiles import NO_KEY_YET, private_key_of

PICTURES = (".png", ".svg")


class ProfileFolder:
    """The files of one device: TUNNEL.conf and their pictures, and NAME.pub."""

    def __init__(self, path: Path, name: str, encrypt: Callable | None, decrypt: Callable):
        if "/" in name:
            raise OverlayError(f"{name}: a profile is a file of that name, which takes no '/': rename the host")
        self.path, self.name = path, name
        self._encrypt, self._decrypt = encrypt, decrypt
        self.public = path / f"{name}.pub"

    def read(self) -> dict[str, str]:
        """The device's profiles by the names of their tunnels; raise OverlayError for a damaged one."""
        found = {}
        for path in sorted(self.path.glob("*.conf")):
            text = self._decrypt(path)
            if text.startswith(f"# {self.name}, "):
                if not private_key_of(text) and NO_KEY_YET not in text:
                    raise OverlayError(
                        f"{path} holds no private key: restore it from a backup, or remove it and {self.public.name} "
                        f"to have a new key made, with which {self.name} needs its new profile"
                    )
                found[path.stem] = text
        return found

    def read_public_key(self) -> str:
        """The key that is kept beside the profiles, or nothing; raise OverlayError for a damaged one."""
        try:
            text = self.public.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            return ""
        if not is_key(text):
            raise OverlayError(f"{self.public} holds no WireGuard key: restore it from a backup, or remove it")
        return text

    def is_encrypted(self, tunnel: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return is_encrypted(self._file(tunnel, ".conf").read_bytes())
        return False

    def refuse_others(self, tunnels: Iterable[str]) -> None:
        """Raise OverlayError where a profile would take the place of a file that `read` has not found to be one."""
        for tunnel in tunnels:
            path = self._file(tunnel, ".conf")
            if path.exists():
                raise OverlayError(f"{path} is not a profile of {self.name}: move it away, or rename the host")

    def write(self, tunnel: str, text: str, pictures: dict[str, bytes]) -> None:
        self._replace(self._file(tunnel, ".conf"), self._encrypt(text) if self._encrypt else text.encode())
        for ending in PICTURES:
            if ending in pictures:
                self._replace(self._file(tunnel, ending), pictures[ending])
            else:
                self._file(tunnel, ending).unlink(missing_ok=True)

    def write_public_key(self, key: str) -> None:
        self._replace(self.public, f"{key}\n".encode())

    def remove(self, tunnel: str) -> None:
        for ending in (".conf", *PICTURES):
            self._file(tunnel, ending).unlink(missing_ok=True)

    def missing_pictures(self, tunnel: str) -> bool:
        return not all(self._file(tunnel, ending).exists() for ending in PICTURES)

    def files(self, tunnel: str) -> list[str]:
        return [str(path) for ending in (".conf", *PICTURES) if (path := self._file(tunnel, ending)).exists()]

    def _file(self, tunnel: str, ending: str) -> Path:
        return self.path / f"{tunnel}{ending}"

    def _replace(self, path: Path, content: bytes) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def committed_by_mistake(path: Path) -> str:
    """A sentence when the folder is part of a git repository that does not ignore it, with the line that does."""
    where = next((folder for folder in (path, *path.parents) if folder.is_dir()), Path("/"))
    try:
        git = ["git", "-C", str(where)]
        top = subprocess.run(  # noqa: S603
            [*git, "rev-parse", "--show-toplevel"], capture_output=True, check=False, text=True, timeout=10
        )
        if top.returncode:
            return ""
        ignored = subprocess.run(  # noqa: S603
            [*git, "check-ignore", "--quiet", str(path / "profile.conf")], capture_output=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if ignored.returncode != 1:
        return ""
    line = f"/{path.resolve().relative_to(Path(top.stdout.strip()).resolve())}/"
    return (
        f"{path} is in the git repository {top.stdout.strip()}, which does not ignore it: private keys would be "
        f"committed. Add the line {line} to its .gitignore"
    )
