# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several files of the collection say must agree."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_the_service_has_the_collections_version():
    package = (ROOT / "services/peer_relay/__init__.py").read_text(encoding="utf-8")
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    assert f'__version__ = "{version}"' in package


def test_the_action_group_names_every_module():
    groups = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))["action_groups"]
    assert groups["peer_relay"] == sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


def test_the_service_is_a_package_with_one_folder():
    """The role relay installs the files of these two."""
    folders = [path for path in (ROOT / "services/peer_relay").rglob("*") if path.is_dir()]
    assert [path.name for path in folders if path.name != "__pycache__"] == ["kernel"]


def test_the_readmes_reference_is_current():
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests/checks/reference.py"), "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def tasks_of(entries: list) -> list[dict]:
    """The tasks of a file, and those in its plays and blocks, each after what holds it."""
    found = []
    for entry in entries:
        found.append(entry)
        for part in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            found += tasks_of(entry.get(part) or [])
    return found


def test_what_runs_on_the_control_node_asks_for_no_sudo():
    """The variable decides: an inventory that sets ansible_become for all hosts beats the keyword become."""
    files = [*(ROOT / "roles").glob("*/tasks/**/*.yml"), *(ROOT / "playbooks").glob("**/*.yml")]
    local = [
        (path.relative_to(ROOT), task)
        for path in files
        for task in tasks_of(yaml.safe_load(path.read_text(encoding="utf-8")) or [])
        if "localhost" in (task.get("delegate_to"), *task.get("hosts", "").split(":"))
        or "local" in (task.get("connection"), (task.get("vars") or {}).get("ansible_connection"))
        or "local_action" in task
    ]
    assert len(local) >= 6
    for path, task in local:
        assert (task.get("vars") or {}).get("ansible_become") is False, f"{path}: {task.get('name')}"


def test_every_test_that_the_documents_name_is_there():
    named = []
    for document in sorted((ROOT / "docs").glob("*.md")):
        file = None
        for path, test in re.findall(r"`([\w/.]*\.py)?::(\w+)", document.read_text(encoding="utf-8")):
            file = path or file
            named.append((document.name, file, test))
    assert named
    missing = [
        (document, file, test)
        for document, file, test in named
        if not (ROOT / file).is_file() or f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")
    ]
    assert not missing
