# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import VaultLib, is_encrypted, match_encrypt_secret
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.homelab.peer_relay.plugins.plugin_utils import qr
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.names import OverlayError
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.profile_folder import (
    ProfileFolder,
    committed_by_mistake,
)
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.profiles import (
    Profile,
    bare_profile,
    changes,
    is_complete,
    new_key,
    private_key_of,
    public_key_of,
    without_key,
)

OPTIONS = {
    "name": {"type": "str", "required": True},
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "profiles": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {"tunnel": {"type": "str", "required": True}, "text": {"type": "str", "required": True}},
    },
    "public_key": {"type": "str", "default": ""},
    "refresh": {"type": "bool", "default": True},
    "vault": {"type": "bool", "default": False},
    "show": {"type": "bool", "default": False},
    "forget": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Works on the control node, whatever the host is: no module could use the vault's password, or its terminal."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        options = self.validate_argument_spec(argument_spec=OPTIONS)[1]
        try:
            folder = ProfileFolder(
                Path(options["path"]).expanduser(),
                options["name"],
                self._encrypt if options["vault"] else None,
                self._decrypt,
            )
            result.update(self._present(folder, options) if options["state"] == "present" else self._absent(folder))
        except OverlayError as error:
            raise AnsibleActionFail(str(error)) from error
        except OSError as error:
            raise AnsibleActionFail(
                f"{error.filename}: {error.strerror}: give a folder that you may write to"
            ) from error
        return result

    def _present(self, folder: ProfileFolder, options) -> dict:
        there = folder.read()
        private, public = self._keys(folder, there, options["public_key"])
        profiles = [Profile(**profile) for profile in options["profiles"]]
        if not private and not options["public_key"]:
            profiles = []  # given out, and forgotten
        elif not profiles and not there:
            profiles = [bare_profile(folder.name)]
        current = {profile.tunnel: profile.with_key(private) for profile in profiles}
        folder.refuse_others(current.keys() - there.keys())
        # What is stale stays as it is until somebody asks for another one.
        kept = {} if options["refresh"] else {tunnel: text for tunnel, text in there.items() if is_complete(text)}
        wanted = {tunnel: kept.get(tunnel, text) for tunnel, text in current.items()}
        written = [tunnel for tunnel, text in wanted.items() if self._differs(folder, tunnel, there, text, options)]
        gone = sorted(there.keys() - wanted.keys()) if options["profiles"] and wanted else []
        new_public = public != folder.read_public_key()
        if not self._task.check_mode:
            for tunnel in written:
                folder.write(tunnel, wanted[tunnel], self._pictures(wanted[tunnel], options))
            for tunnel in gone:
                folder.remove(tunnel)
            if new_public:
                folder.write_public_key(public)
        warnings = [line for line in (committed_by_mistake(folder.path), *self._limits(wanted, private)) if line]
        if options["show"]:
            self._show(folder, wanted if private else {})
            if options["forget"] and not self._task.check_mode:
                for tunnel in wanted:
                    folder.remove(tunnel)
        unmade = self._task.check_mode and new_public and not there and not options["public_key"]
        return {
            "changed": bool(written or gone or new_public),
            "public_key": "" if unmade else public,
            "files": [file for tunnel in wanted for file in folder.files(tunnel)],
            "stale": [
                f"{tunnel}: {change}"
                for tunnel, text in wanted.items()
                if tunnel in kept
                for change in changes(text, current[tunnel])
            ],
            "forgotten": bool(public and not private and not options["public_key"]),
            "warnings": warnings,
            "diff": [self._diff(folder, tunnel, there, wanted) for tunnel in [*written, *gone]],
        }

    def _differs(self, folder: ProfileFolder, tunnel: str, there: dict[str, str], text: str, options) -> bool:
        return (
            there.get(tunnel) != text
            or folder.is_encrypted(tunnel) != options["vault"]
            or (self._has_pictures(text, options) and folder.missing_pictures(tunnel))
        )

    def _diff(self, folder: ProfileFolder, tunnel: str, there: dict[str, str], wanted: dict[str, str]) -> dict:
        header = str(folder.path / f"{tunnel}.conf")
        return {
            "before": without_key(there.get(tunnel, "")),
            "after": without_key(wanted.get(tunnel, "")),
            "before_header": header,
            "after_header": header,
        }

    def _absent(self, folder: ProfileFolder) -> dict:
        tunnels = sorted(folder.read())
        changed = bool(tunnels) or folder.public.exists()
        if not self._task.check_mode:
            for tunnel in tunnels:
                folder.remove(tunnel)
            folder.public.unlink(missing_ok=True)
        return {"changed": changed}

    def _keys(self, folder: ProfileFolder, there: dict[str, str], stated: str) -> tuple[str, str]:
        """The private key, empty where the device alone has it, and the public one."""
        private = {key for text in there.values() if (key := private_key_of(text))}
        if len(private) > 1:
            raise OverlayError(
                f"{folder.path}: the profiles of {folder.name} have several private keys: remove the wrong ones"
            )
        key = next(iter(private), "")
        kept = folder.read_public_key()
        if stated:
            return (key if key and public_key_of(key) == stated else ""), stated
        if key and kept and public_key_of(key) != kept:
            raise OverlayError(
                f"{folder.public} is not the public key of {folder.name}'s profile: one of the two is damaged or from "
                "elsewhere; restore both from a backup, or remove both to have a new key made"
            )
        if key:
            return key, public_key_of(key)
        if kept:
            return "", kept
        key = new_key()
        return key, public_key_of(key)

    def _has_pictures(self, text: str, options) -> bool:
        """Whether there are some of a profile: not beside an encrypted one, nor of one that nobody could use."""
        return bool(not options["vault"] and qr.segno and qr.fits(text) and private_key_of(text) and is_complete(text))

    def _pictures(self, text: str, options) -> dict[str, bytes]:
        if not self._has_pictures(text, options):
            return {}
        code = qr.encode(text)
        return {".png": qr.png(code), ".svg": qr.svg(code)}

    def _limits(self, wanted: dict[str, str], private: str) -> list[str]:
        if not private or not wanted:
            return []
        if not qr.segno:
            return [qr.MISSING]
        return [
            f"{tunnel} has {len(text.encode())} bytes, and a QR code takes {qr.MAX_BYTES}, so there is none: transfer "
            "the file"
            for tunnel, text in wanted.items()
            if not qr.fits(text)
        ]

    def _show(self, folder: ProfileFolder, wanted: dict[str, str]) -> None:
        if not wanted:
            raise OverlayError(f"{folder.name}: nobody here has its private key: there is nothing to scan")
        if not qr.segno:
            raise OverlayError(qr.MISSING)
        for tunnel, text in wanted.items():
            if qr.fits(text):
                Display().display(f"\n{tunnel}: scan this with the WireGuard app of {folder.name}\n")
                Display().display(qr.terminal(qr.encode(text)), screen_only=True)

    def _secrets(self):
        return self._loader._vault.secrets or []

    def _encrypt(self, text: str) -> bytes:
        if not self._secrets():
            raise OverlayError(
                "profiles_vault is true and there is no vault password: give --vault-password-file or --ask-vault-pass"
            )
        label, secret = match_encrypt_secret(self._secrets())
        return VaultLib(self._secrets()).encrypt(text, secret, label)

    def _decrypt(self, path: Path) -> str:
        content = path.read_bytes()
        if is_encrypted(content):
            try:
                content = VaultLib(self._secrets()).decrypt(content)
            except AnsibleError as error:
                raise OverlayError(
                    f"{path} is encrypted, and the vault password is missing or another one: give "
                    "--vault-password-file or --ask-vault-pass"
                ) from error
        return content.decode(errors="replace")
