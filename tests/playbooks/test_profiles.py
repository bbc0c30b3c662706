# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module device_profile by the real ansible-playbook: keys, files, the vault, and what is shown."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TEXT = """# phone, by way of relay
[Interface]
Address = 10.77.9.9/16

# relay
[Peer]
PublicKey = 0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=
Endpoint = 192.0.2.1:40000
AllowedIPs = 10.77.0.1/32
PersistentKeepalive = 25
"""
PROFILE = {"tunnel": "phone", "text": TEXT}
NAS = """
# nas
[Peer]
PublicKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAGM=
Endpoint = 192.0.2.1:40000
AllowedIPs = 10.77.0.9/32
"""
Profile = Callable[..., dict]


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """Run the module; what it returns, with all that Ansible has printed as "output"."""

    def run(*arguments: str, fails: bool = False, **options: object) -> dict:
        task = {"name": "phone", "path": "profiles", **options}
        tasks = [
            {"homelab.peer_relay.device_profile": task, "register": "result", "ignore_errors": True},
            {
                "ansible.builtin.copy": {"dest": "result.json", "content": "{{ result | to_json }}"},
                "check_mode": False,
                "diff": False,
            },
        ]
        play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
        (tmp_path / "play.yml").write_text(json.dumps(play))
        environment = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ} | {
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build/collections"),
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_LOCALHOST_WARNING": "false",
        }
        program = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [program, "-vvv", "--diff", *arguments, "play.yml"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result = json.loads((tmp_path / "result.json").read_text())
        assert bool(result.get("failed")) == fails, done.stdout
        return {**result, "output": done.stdout + done.stderr}

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "profiles"


def private_key(folder: Path) -> str:
    return re.search(r"PrivateKey = (.{44})\n", (folder / "phone.conf").read_text())[1]


def test_the_key_is_made_once_and_shown_to_nobody(profile: Profile, folder: Path) -> None:
    first = profile()
    key = private_key(folder)
    second = profile(profiles=[PROFILE])
    third = profile(profiles=[PROFILE])
    assert [run["changed"] for run in (first, second, third)] == [True, True, False]
    assert first["public_key"] == second["public_key"] == (folder / "phone.pub").read_text().strip()
    assert private_key(folder) == key
    assert (folder / "phone.conf").read_text() == TEXT.replace("[Interface]\n", f"[Interface]\nPrivateKey = {key}\n")
    assert not any(key in run["output"] for run in (first, second, third))
    assert {path.name for path in folder.iterdir()} == {"phone.conf", "phone.png", "phone.svg", "phone.pub"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert "+AllowedIPs = 10.77.0.1/32" in second["output"]


def test_wg_makes_the_same_public_key(profile: Profile, folder: Path) -> None:
    public = profile()["public_key"]
    made = subprocess.run(["wg", "pubkey"], input=private_key(folder), capture_output=True, text=True, check=True)
    assert made.stdout.strip() == public


def test_check_mode_makes_nothing(profile: Profile, folder: Path) -> None:
    result = profile("--check", profiles=[PROFILE])
    assert result["changed"]
    assert result["public_key"] == ""
    assert not folder.exists()


def test_a_stale_profile_is_told_and_written_anew_on_request(profile: Profile, folder: Path) -> None:
    profile(profiles=[PROFILE])
    key = private_key(folder)
    now = {"tunnel": "phone", "text": TEXT.replace(":40000", ":40001") + NAS}
    told = profile(profiles=[now], refresh=False)
    assert told["stale"] == ["phone: nas is new", "phone: relay has another Endpoint"]
    assert not told["changed"]
    assert "nas" not in (folder / "phone.conf").read_text()
    anew = profile(profiles=[now])
    assert anew["changed"]
    assert "nas" in (folder / "phone.conf").read_text()
    assert private_key(folder) == key


def test_a_profile_that_is_not_wanted_any_more_goes(profile: Profile, folder: Path) -> None:
    profile(profiles=[PROFILE, {**PROFILE, "tunnel": "phone-direct"}])
    assert (folder / "phone-direct.png").exists()
    assert profile(profiles=[PROFILE])["changed"]
    assert not list(folder.glob("phone-direct*"))


def test_a_key_of_the_devices_own(profile: Profile, folder: Path) -> None:
    own = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
    result = profile(profiles=[PROFILE], public_key=own)
    assert result["public_key"] == own
    assert "PrivateKey = (the private key that the device has made)\n" in (folder / "phone.conf").read_text()
    assert not (folder / "phone.png").exists()
    assert not profile(profiles=[PROFILE], public_key=own)["changed"]


def test_absent_takes_everything_of_the_device_and_nothing_else(profile: Profile, folder: Path) -> None:
    profile(profiles=[PROFILE])
    profile(name="tablet", profiles=[{"tunnel": "tablet", "text": TEXT.replace("phone", "tablet")}])
    assert profile(state="absent")["changed"]
    assert {path.name for path in folder.iterdir()} == {"tablet.conf", "tablet.png", "tablet.svg", "tablet.pub"}
    assert not profile(state="absent")["changed"]


def test_shown_once_and_forgotten(profile: Profile, folder: Path) -> None:
    public = profile(profiles=[PROFILE], forget=True)["public_key"]
    assert (folder / "phone.conf").exists()
    shown = profile(profiles=[PROFILE], show=True, forget=True)
    assert "▀" in shown["output"]
    assert [path.name for path in folder.iterdir()] == ["phone.pub"]
    later = profile(profiles=[PROFILE], forget=True)
    assert (later["public_key"], later["changed"], later["forgotten"]) == (public, False, True)
    assert "there is nothing to scan" in profile(profiles=[PROFILE], show=True, fails=True)["msg"]


def test_the_vault(profile: Profile, folder: Path, tmp_path: Path) -> None:
    assert "no vault password: give --vault-password-file" in profile(profiles=[PROFILE], vault=True, fails=True)["msg"]
    (tmp_path / "password").write_text("secret")
    (tmp_path / "wrong").write_text("terces")
    vault = ("--vault-password-file", "password")
    public = profile(*vault, profiles=[PROFILE], vault=True)["public_key"]
    assert (folder / "phone.conf").read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")
    assert {path.name for path in folder.iterdir()} == {"phone.conf", "phone.pub"}
    again = profile(*vault, profiles=[PROFILE], vault=True, show=True)
    assert (again["changed"], again["public_key"]) == (False, public)
    assert "▀" in again["output"]
    for arguments in ((), ("--vault-password-file", "wrong")):
        assert (
            "the vault password is missing or another one"
            in profile(*arguments, profiles=[PROFILE], vault=True, fails=True)["msg"]
        )
    # Plain again, with the same key.
    plain = profile(*vault, profiles=[PROFILE])
    assert (plain["changed"], plain["public_key"]) == (True, public)
    assert (folder / "phone.png").exists()


def test_a_damaged_profile_is_not_replaced(profile: Profile, folder: Path) -> None:
    profile(profiles=[PROFILE])
    path = folder / "phone.conf"
    whole = path.read_text()
    path.write_text(whole.replace(private_key(folder), "damaged"))
    assert "phone.conf holds no private key: restore it" in profile(profiles=[PROFILE], fails=True)["msg"]
    path.write_text(whole)
    (folder / "phone.pub").write_text("0mFYUC4FrPFJcVbk6nbhVmSu4aYzNwNEyYJnu4aHYnk=\n")
    assert "is not the public key of phone's profile" in profile(profiles=[PROFILE], fails=True)["msg"]
    path.write_text("[Interface]\nPrivateKey = my own tunnel\n")
    (folder / "phone.pub").unlink()
    assert "is not a profile of phone: move it away" in profile(profiles=[PROFILE], fails=True)["msg"]
    assert path.read_text() == "[Interface]\nPrivateKey = my own tunnel\n"


def test_what_no_code_takes_is_told(profile: Profile, folder: Path) -> None:
    long = {"tunnel": "phone", "text": TEXT + NAS * 30}
    assert "a QR code takes 2953" in profile(profiles=[long])["output"]
    assert (folder / "phone.conf").exists()
    assert not (folder / "phone.png").exists()


def test_a_repository_that_does_not_ignore_the_folder(profile: Profile, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert "Add the line /profiles/ to its .gitignore" in " ".join(profile()["output"].split())
    (tmp_path / ".gitignore").write_text("/profiles/\n")
    assert ".gitignore" not in profile()["output"].replace("(.gitignore)", "")


@pytest.mark.parametrize("background", [0, 255], ids=["dark terminal", "light terminal"])
def test_the_terminals_code_is_read_from_its_picture(
    profile: Profile, folder: Path, tmp_path: Path, background: int
) -> None:
    profile(profiles=[PROFILE])
    shown = profile(profiles=[PROFILE], show=True)["output"]
    lines = re.findall(r"\x1b\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\[0m", shown)
    screenshot(lines, background).save(tmp_path / "screen.png")
    command = ["zbarimg", "--quiet", "--raw", "--oneshot", str(tmp_path / "screen.png")]
    read = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert read.strip() == (folder / "phone.conf").read_text().strip()


def screenshot(lines: list[str], background: int) -> Image.Image:
    """What a terminal of 8 by 16 pixels a character draws of half blocks in black on white."""
    image = Image.new("L", (8 * len(lines[0]) + 80, 16 * len(lines) + 80), background)
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            for half, inked in enumerate((character in "▀█", character in "▄█")):
                x, y = 40 + 8 * column, 40 + 16 * row + 8 * half
                image.paste(0 if inked else 255, (x, y, x + 8, y + 8))
    return image
