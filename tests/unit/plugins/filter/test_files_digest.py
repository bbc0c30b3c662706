# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The control node and a host's shell come to the same number for the same files, and to another for any other."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.files_digest import files_digest

PROBE = Path(__file__).resolve().parents[4] / "roles/peer/files/probe.sh"
CODE = {"package/__init__.py": "", "package/inner/text.py": "# ä\n", "other.py": "a\n"}


@pytest.fixture
def there(tmp_path):
    """A program and its settings in place; what the filter says of them, and the paths."""
    files = [{"path": f"{tmp_path}/run", "content": "#!/bin/sh\n", "mode": "0755"}]
    files += [{"path": f"{tmp_path}/settings.toml", "content": "x = 'ä'\n"}]
    for file in files:
        path = Path(file["path"])
        path.write_text(file["content"], encoding="utf-8")
        path.chmod(int(file.get("mode", "0644"), 8))
    for name, content in CODE.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        path.chmod(0o644)
    for folder in ("lib", "lib/package", "lib/package/inner"):
        (tmp_path / folder).chmod(0o755)
    return files_digest(files, {f"{tmp_path}/lib": CODE}), [*(file["path"] for file in files), f"{tmp_path}/lib"]


def on_host(paths):
    """What the role's look says of these paths. Whoever runs the tests is root to it."""
    (function,) = re.findall(r"^digest\(\) \{\n.*?^\}\n", PROBE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    script = function.replace("-user 0", f"-user {os.geteuid()}") + "digest\n"
    run = subprocess.run(
        ["sh", "-c", script],
        env={"PATHS": " ".join(paths), "PATH": os.environ["PATH"]},
        capture_output=True,
        check=True,
    )
    return run.stdout.decode().strip()


def test_both_come_to_the_same_number(there):
    digest, paths = there
    assert on_host(paths) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "settings.toml").write_text("y = 1\n"),
        lambda folder: (folder / "settings.toml").unlink(),
        lambda folder: (folder / "settings.toml").chmod(0o600),
        lambda folder: (folder / "run").chmod(0o644),
        lambda folder: (folder / "lib/other.py").rename(folder / "lib/another.py"),
        lambda folder: (folder / "lib/stray.py").write_text(""),
        lambda folder: (folder / "lib/empty").mkdir(),
        lambda folder: (folder / "lib/package").chmod(0o777),
        lambda folder: (folder / "lib").chmod(0o700),
        lambda folder: (folder / "lib/link").symlink_to("/etc/passwd"),
        lambda folder: (folder / "run").rename(folder / "moved") and (folder / "run").symlink_to(folder / "moved"),
    ],
)
def test_another_for_whatever_is_not_as_it_should_be(there, tmp_path, change):
    digest, paths = there
    change(tmp_path)
    assert on_host(paths) != digest
