# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several files of the collection say must agree."""

import ast
import fnmatch
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ROOT / "services"


def test_the_service_has_the_collections_version():
    package = (ROOT / "services/peer_relay/__init__.py").read_text(encoding="utf-8")
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    assert f'__version__ = "{version}"' in package


def test_the_action_group_names_every_module():
    groups = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))["action_groups"]
    assert groups["peer_relay"] == sorted(path.stem for path in (ROOT / "plugins/modules").glob("*.py"))


# The folders and modules of each service; nothing imports from a line below its own.
LAYERS = {
    "peer_common": ["*"],
    "peer_relay": [
        "addresses drops faults slices",
        "wireguard",
        "core",
        "settings endpoints",
        "state",
        "dataplane status state_writer",
        "service",
        "cli __main__",
    ],
    "peer_agent": [
        "endpoints",
        "wire",
        "core",
        "settings",
        "wireguard",
        "host",
        "relay_driver",
        "path_driver",
        "attached",
        "status metrics",
        "service",
        "__main__",
    ],
    "peer_guard": ["notifications reconciler", "__main__"],
    "peer_relay_fallback": ["gate", "bridge", "__main__"],
    "port_keeper": ["lease inbox", "keeper", "settings state status", "router", "service", "__main__"],
    "firewall_restore": ["__main__"],
}
PURE = ("peer_relay/wireguard", "peer_relay/core", "peer_agent/wire", "peer_agent/core", "port_keeper/keeper.py")
LIBRARIES = {"dnslib", "nacl", "tomli", "tomllib", "websockets"}  # beside the standard library of Python 3.10
IO = {"asyncio", "ctypes", "select", "selectors", "socket", "subprocess", "threading", "time"}


def imports(file: Path) -> Iterator[str]:
    """The modules that a file imports, wherever it does: also those that a package is asked for by name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in names if (SERVICES / name.replace(".", "/")).with_suffix(".py").is_file()]
            known += [name for name in names if (SERVICES / name.replace(".", "/")).is_dir()]
            yield from known or [node.module]


def layer(service: str, module: str) -> int:
    (found,) = (number for number, names in enumerate(LAYERS[service]) if module in names.split() or names == "*")
    return found


@pytest.mark.parametrize("service", LAYERS)
def test_imports_run_one_way(service):
    for file in sorted((SERVICES / service).rglob("*.py")):
        here = file.relative_to(SERVICES).with_suffix("").parts
        if here[1:] == ("__init__",):
            continue
        for module in imports(file):
            package, *rest = module.split(".")
            if package == service and rest and rest[0] != "__version__":
                assert layer(service, rest[0]) <= layer(service, here[1]), f"{'.'.join(here)} imports {module}"


@pytest.mark.parametrize("service", LAYERS)
def test_services_share_peer_common_and_nothing_else(service):
    for file in (SERVICES / service).rglob("*.py"):
        packages = {module.split(".")[0] for module in imports(file)}
        assert packages & LAYERS.keys() <= {service, "peer_common"}, file


def test_every_import_is_there_before_anything_is_installed():
    folders = (SERVICES, ROOT / "plugins/module_utils")
    ours = {path.parent.name for folder in folders for path in folder.glob("*/__init__.py")}
    for file in SERVICES.rglob("*.py"):
        names = {module.split(".")[0] for module in imports(file)}
        assert names <= ours | LIBRARIES | sys.stdlib_module_names, file


@pytest.mark.parametrize("part", PURE)
def test_the_cores_do_no_io(part):
    path = SERVICES / part
    for file in [path] if path.is_file() else path.rglob("*.py"):
        assert not IO & {module.split(".")[0] for module in imports(file)}, file


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


def repository() -> tuple[list[str], set[str]]:
    """The paths of the repository's files and folders, and the names of the folders."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=False, capture_output=True, text=True).stdout.split()
    listed = listed or [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
    folders = {parent.as_posix() for path in map(Path, listed) for parent in path.parents} - {"."}
    return [*listed, *folders], {Path(folder).name for folder in folders}


# From one of the folders at the top, also in a command; by its end, in the letters of code; or a program's file alone.
TOP = "docs|examples|molecule|playbooks|plugins|roles|services|tests"
PATHS = re.compile(rf"(?<![\w./-])((?:{TOP})/[\w./*-]*[\w*])|`((?:[\w.*-]+/)*[\w.*-]+)/?(?:::\w+| [^`\n]*)?`")


def test_every_path_that_the_documents_name_is_there():
    """With `*` as in a shell. Those of CONTRIBUTING's examples are for its readers to write."""
    there, folders = repository()
    missing, named = [], 0
    for document in [*(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "README.md"]:
        for whole, end in PATHS.findall(document.read_text(encoding="utf-8")):
            path, file = whole or end, end.endswith((".py", ".bpf", ".c"))
            if "hello" in path or not (whole or file or ("/" in end and end.partition("/")[0] in folders)):
                continue
            named += 1
            if not any(fnmatch.fnmatchcase(f"/{known}", f"/{path}" if whole else f"*/{path}") for known in there):
                missing.append(f"{document.name}: {path}")
    assert named > 50
    assert not missing


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


VERBS = """
Apply Ask Attach Change Check Choose Close Compare Configure Create Disable Enable Fail Find Forward Insist Install
Judge Load Look Move Note Open Ping Prepare Probe Raise Read Refuse Reload Remove Report Restart Restore Restrict
Save Say Set Show Start Stop Sum Tell Translate Unload Wait Write
"""


def test_task_names_are_a_verb_and_an_object():
    """Of verbs that mean one thing, see CONTRIBUTING.md; and an object that is named."""
    files = [*(ROOT / "roles").glob("*/tasks/**/*.yml"), *(ROOT / "playbooks").glob("**/*.yml")]
    names = {
        (path.relative_to(ROOT).as_posix(), entry["name"])
        for path in files
        for entry in tasks_of(yaml.safe_load(path.read_text(encoding="utf-8")) or [])
    }
    assert len(names) > 200
    assert not [name for name in names if name[1].split()[0] not in VERBS.split()]
    assert not [name for name in names if re.match(r"\w+ (it|its|them|they|this)\b", name[1])]
