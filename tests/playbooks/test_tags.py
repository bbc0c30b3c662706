# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tasks of the playbook site a tag chooses, by the real ansible-playbook, and that all tasks have tags."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("firewall", "peer", "port_forward", "relay")
TAGS = {f"{role}_{part}" for role in ROLES for part in ("install", "configure")}
# What other parts of the run depend on, whatever it is limited to.
ALWAYS = {
    "Check the options",
    "Look at the host",
    "Check the host and the options",
    "Create the key on the device",
    "Open the way to the relay",
    "Sum up",
}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory):
    """Names of the tasks that a run with these options has, without those in files that are included as it goes."""
    folder = tmp_path_factory.mktemp("tags")
    collection = folder / "ansible_collections/homelab/peer_relay"
    collection.mkdir(parents=True)
    for part in ("galaxy.yml", "meta", "playbooks", "plugins", "roles", "services"):
        (collection / part).symlink_to(ROOT / part)
    (folder / "hosts.yml").write_text("relays: {hosts: {oslo: }}\npeers: {hosts: {laptop: }}\n", encoding="utf-8")

    def run(*options: str) -> set[str]:
        process = subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "-i",
                "hosts.yml",
                "--list-tasks",
                *options,
                "homelab.peer_relay.site",
            ],
            cwd=folder,
            env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": f"{folder}", "ANSIBLE_NOCOLOR": "true"},
            capture_output=True,
            text=True,
            check=True,
        )
        return set(re.findall(r"^ {6}(?:[\w.]+ : )?(.+?)\s+TAGS:", process.stdout, re.MULTILINE))

    return run


def test_a_tag_chooses_a_part_of_a_role_and_what_others_depend_on(listed):
    everything = listed()
    found = {tag: listed("--tags", tag) for tag in sorted(TAGS)}
    assert set().union(*found.values()) == everything
    assert all(ALWAYS <= tasks < everything for tasks in found.values())
    relay = {"Install the libraries", "Write the settings", "Apply pending changes"}
    assert relay & found["relay_install"] == {"Install the libraries"}
    assert relay & found["relay_configure"] == {"Write the settings", "Apply pending changes"}
    assert not relay & found["peer_configure"]
    device = "Set up or remove the device"
    assert device in found["peer_install"] & found["peer_configure"]
    assert device not in found["relay_configure"] | found["firewall_configure"]


def tags_of(entry: dict) -> set[str]:
    tags = entry.get("tags") or []
    return {tags} if isinstance(tags, str) else set(tags)


ENTRIES = [f"{role}/main" for role in ROLES] + [
    f"peer/{name}" for name in ("present", "absent", "keys", "preflight", "profile", "profile_absent", "profile_key")
]


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_task_of_a_role_has_tags(entry):
    """Of the role, or always. A file that is included has those of the block around it, not those of the include."""
    role, name = entry.split("/")
    tasks = yaml.safe_load((ROOT / "roles" / role / f"tasks/{name}.yml").read_text(encoding="utf-8"))
    own = {f"{role}_install", f"{role}_configure", "always"}
    todo = [(task, set()) for task in tasks]
    while todo:
        task, inherited = todo.pop()
        tags = inherited | tags_of(task)
        assert tags <= own
        inner = [entry for part in ("block", "rescue", "always") for entry in task.get(part) or []]
        assert tags or inner, task["name"]
        todo += [(entry, tags) for entry in inner]
        include = task.get("ansible.builtin.include_tasks")
        if include and not inherited and not isinstance(include, dict):
            assert include == "{{ peer_state }}.yml", f"{task['name']}: what it includes has no tags"
