# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The manual page and the completion are those of the parsers, and bash completes by the latter."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPLETION = ROOT / "services/peer-relay.bash"


def test_they_are_current():
    check = [sys.executable, str(ROOT / "tests/checks/manual.py"), "--check"]
    run = subprocess.run(check, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def completed(*words: str) -> list[str]:
    """What bash offers for the last of the words after peer-relay."""
    script = f"""
        source {shlex.quote(str(COMPLETION))}
        COMP_WORDS=(peer-relay {shlex.join(words)}) COMP_CWORD={len(words)}
        _peer_relay
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    bash = ["bash", "--norc", "-euc", script]
    return subprocess.run(bash, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], ["status"]),
        (["status", "--"], ["--help", "--json", "--pairs"]),
        (["--settings", "/tmp/relay.toml", "doc"], ["doctor"]),
        # A file is bash's own business; the name of one is no command.
        (["--settings", "ru"], []),
        (["--settings", "status", "--"], ["--help", "--version", "--settings"]),
        (["agent", ""], ["run", "wireguard", "check", "status", "--help", "--interface", "--settings"]),
        (["agent", "--interface", "pr1", "status", "--m"], ["--metrics"]),
        (["status", "run", "--p"], ["--pairs"]),
        (["no-such-command-or-option"], []),
    ],
)
def test_what_bash_offers(words, offered):
    assert completed(*words) == offered
