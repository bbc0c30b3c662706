# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import subprocess
import sys

import pytest
from ansible.errors import AnsibleLookupError
from ansible_collections.homelab.peer_relay.plugins.lookup.package_files import read

INSTALLED = [
    ("peer_relay", "peer_common"),
    ("peer_relay_fallback", "peer_common"),
    ("peer_agent", "peer_common"),
    ("port_keeper", "peer_common", "port_mapping"),
    ("firewall_restore", "host_firewall"),
    ("peer_guard",),
]


def write(files, folder):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


@pytest.mark.parametrize("packages", INSTALLED)
def test_what_is_installed_together_imports_nothing_else_of_ours(packages, tmp_path):
    write(read(list(packages), flat=False), tmp_path)
    modules = [
        ".".join(path.relative_to(tmp_path).with_suffix("").parts).removesuffix(".__init__")
        for path in tmp_path.rglob("*.py")
        if path.name != "__main__.py"
    ]
    program = "import importlib, sys; sys.path.insert(0, sys.argv[1]); list(map(importlib.import_module, sys.argv[2:]))"
    run = subprocess.run(
        [sys.executable, "-IBc", program, str(tmp_path), *modules], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_what_puts_firewall_rules_back_runs_as_the_role_installs_it(tmp_path):
    write(read(["firewall_restore"], flat=True) | read(["host_firewall"], flat=False), tmp_path)
    settings = tmp_path / "settings.json"
    settings.write_text('{"ports": [], "own_chain_ssh_ports": null}', encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-IB", str(tmp_path), str(settings)],
        env={"PATH": str(tmp_path)},  # no program to ask: there is nothing to do
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "Nothing is missing.\n", run.stderr


def test_names_are_relative_to_the_package_when_flat():
    files = read(["peer_guard"], flat=True)
    assert {"__init__.py", "__main__.py"} <= files.keys()
    assert all("/" not in name for name in files)
    nested = read(["peer_relay"], flat=False)["peer_relay/dataplane/kernel/__init__.py"]
    assert read(["peer_relay"], flat=True)["dataplane/kernel/__init__.py"] == nested


def test_what_is_no_package_is_named():
    with pytest.raises(AnsibleLookupError, match=r"'port_mappin' is no package of services or plugins/module_utils"):
        read(["port_mappin"], flat=False)
