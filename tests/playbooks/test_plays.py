# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which plays run for whom, by the real ansible-playbook: hosts that are off, --limit, and inventories without a group.

The roles are stand-ins that say that they ran, since the real ones change the host; all else is the collection's.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ON = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
OFF = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


def key(number: int) -> str:
    return base64.b64encode(number.to_bytes(32, "big")).decode()


KEYS = {"laptop": key(1), "nas": key(2), "phone": key(3), "oslo": key(91), "rome": key(92)}
CHECKS = ("relay/preflight",)
ON_CONTROL_NODE = ("peer/profile_key", "peer/profile", "peer/profile_absent")  # for devices that Ansible does not reach
FACTS = {
    "peer/keys": {
        "peer_public_key": "{{ stand_in_keys[inventory_hostname] }}",
        "peer_known_peers": "{{ stand_in_peers[inventory_hostname] | default([]) }}",
    },
    "relay/main": {
        "relay_public_key": "{{ stand_in_keys[inventory_hostname] }}",
        "relay_registered_keys": "{{ stand_in_registered }}",
    },
}
STAND_IN = {"stand_in_keys": KEYS, "stand_in_peers": {}, "stand_in_registered": {}}
PHONE = {"peer_managed": False, "peer_public_key": KEYS["phone"]}


def stand_in(name: str) -> list[dict]:
    """The tasks of one: it asks the host something, and leaves the role's facts."""
    # What is done for a device on the control node is no run on it.
    said = f"{'WROTE' if name in ON_CONTROL_NODE else 'RAN'} {name} on {{{{ inventory_hostname }}}}"
    tasks: list[dict] = [{"ansible.builtin.debug": {"msg": said}}]
    if name not in ON_CONTROL_NODE:
        tasks.insert(0, {"ansible.builtin.ping": {}})
    if name in FACTS:
        tasks.append({"ansible.builtin.set_fact": FACTS[name]})
    return tasks


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection with stand-ins for its roles."""
    folder = tmp_path_factory.mktemp("collections")
    collection = folder / "ansible_collections/homelab/peer_relay"
    collection.mkdir(parents=True)
    for part in ("galaxy.yml", "meta", "playbooks", "plugins"):
        (collection / part).symlink_to(ROOT / part)
    for name in (
        "peer/preflight",
        "peer/keys",
        "peer/main",
        "relay/main",
        "firewall/main",
        "port_forward/main",
        "port_forward/checks",
        *CHECKS,
        *ON_CONTROL_NODE,
    ):
        role, file = name.split("/")
        path = collection / "roles" / role / "tasks" / f"{file}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(stand_in(name)), encoding="utf-8")
    return folder


@pytest.fixture
def real_keys(collections: Path) -> Iterator[None]:
    """The role peer's own tasks that read a device's key, with hosts that answer as they like."""
    role = collections / "ansible_collections/homelab/peer_relay/roles/peer"
    replaced = ("tasks/preflight.yml", "tasks/keys.yml")
    parts = (*replaced, "tasks/nothing.yml", "vars", "defaults", "files")
    for part in replaced:
        (role / part).unlink()
    for part in parts:
        (role / part).symlink_to(ROOT / "roles/peer" / part)
    yield
    for part in parts:
        (role / part).unlink()
    for part in replaced:
        (role / part).write_text(json.dumps(stand_in(f"peer/{Path(part).stem}")), encoding="utf-8")


class Run:
    """What a playbook did."""

    def __init__(self, process: subprocess.CompletedProcess) -> None:
        self.output = process.stdout + process.stderr
        self.code = process.returncode
        self.ran = set(re.findall(r"RAN (\S+ on [\w-]+)", self.output))
        summary = self.output.rpartition("TASK [Sum up]")[2] or self.output.rpartition("TASK [Show ")[2]
        self.said = " ".join(summary.partition("PLAY RECAP")[0].split())


@pytest.fixture
def play(collections: Path, tmp_path: Path):
    """Run a playbook of the collection on an inventory of groups."""

    def run(name: str, inventory: dict, *options: str, **variables: object) -> Run:
        groups = {group: {"hosts": hosts} for group, hosts in inventory.items()}
        document = {"all": {"children": groups, "vars": STAND_IN | variables}}
        (tmp_path / "inventory.json").write_text(json.dumps(document), encoding="utf-8")
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", "inventory.json", *options]
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "PATH") if name in os.environ}
        environment = kept | {
            "ANSIBLE_COLLECTIONS_PATH": f"{collections}:{ROOT / 'build/collections'}",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_PIPELINING": "true",
            "PWD": str(tmp_path),  # as shells tell it
        }
        return Run(
            subprocess.run(
                [*command, f"homelab.peer_relay.{name}"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )
        )

    return run


def set_up(relay: str) -> set:
    return {f"{role} on {relay}" for role in (*CHECKS, "firewall/main", "port_forward/main", "relay/main")}


def device(name: str) -> set:
    return {f"peer/{part} on {name}" for part in ("preflight", "keys", "main")}


def test_site_runs_everything_and_ends_with_what_to_do_next(play):
    run = play("site", {"relays": {"oslo": ON}, "peers": {"laptop": ON, "phone": PHONE}})
    assert run.code == 0, run.output
    assert run.ran == set_up("oslo") | device("laptop")
    assert run.output.count("Next: ansible-playbook homelab.peer_relay.verify") == 1
    assert re.search(r"Next: ansible-playbook homelab.peer_relay.verify[^\n]*\n *\]\n}\n\nPLAY RECAP", run.output)


@pytest.mark.parametrize("off", [["laptop"], ["laptop", "nas"]])
def test_site_sets_up_the_relay_although_every_device_is_off(play, off):
    run = play("site", {"relays": {"oslo": ON}, "peers": dict.fromkeys(off, OFF) | {"phone": PHONE}})
    assert run.code == 4, "it says that hosts were not reached"
    assert run.ran == set_up("oslo")
    assert f"Not reached in this run: {', '.join(off)}" in run.said or "has no key that anybody" in run.said


def test_site_sets_up_the_devices_although_every_relay_is_off(play):
    run = play("site", {"relays": {"oslo": OFF, "rome": OFF}, "peers": {"laptop": ON}})
    assert run.code == 4
    assert run.ran == device("laptop")


def test_site_takes_relays_away_although_everything_else_is_off(play):
    inventory = {"relays": {"oslo": ON | {"relay_state": "absent"}, "rome": OFF}, "peers": {"laptop": OFF}}
    run = play("site", inventory)
    assert run.code == 4
    assert run.ran == {f"{role}/main on oslo" for role in ("port_forward", "relay", "firewall")}


@pytest.mark.parametrize(
    ("inventory", "ran"),
    [
        (
            {"relays": {"oslo": ON}, "peers": {"laptop": OFF, "nas": OFF}},
            {f"{role}/main on oslo" for role in ("port_forward", "relay", "firewall")},
        ),
        ({"relays": {"oslo": OFF}, "peers": {"laptop": ON}}, {"peer/main on laptop"}),
        ({"relays": {"oslo": OFF}, "peers": {"laptop": ON, "nas": OFF, "phone": PHONE}}, {"peer/main on laptop"}),
    ],
)
def test_remove_takes_away_what_is_on(play, inventory, ran):
    run = play("remove", inventory)
    assert run.code == 4
    assert run.ran == ran


@pytest.mark.parametrize("name", ["site", "remove", "verify"])
@pytest.mark.parametrize(
    "inventory",
    [{"relays": {"oslo": ON}}, {"peers": {"laptop": ON}}, {"relays": {"oslo": ON}, "peers": {}}, {"others": {"x": ON}}],
    ids=["no peers", "no relays", "empty peers", "neither"],
)
def test_an_inventory_without_a_group(play, name, inventory):
    run = play(name, inventory)
    assert "Traceback" not in run.output
    assert "rror while templating" not in run.output and "undefined" not in run.output, run.output
    # Verify has neither a relay's command nor an interface here, and says so.
    assert run.code == 0 or name == "verify", run.output


def test_only_the_absent_are_left_out(play):
    inventory = {
        "relays": {"oslo": ON, "rome": ON | {"relay_state": "absent"}},
        "peers": {"laptop": ON, "nas": ON | {"peer_state": "absent"}, "oslo": ON},
    }
    run = play("site", inventory)
    assert run.code == 0, run.output
    gone = {f"{role}/main on rome" for role in ("port_forward", "relay", "firewall")}
    assert run.ran == set_up("oslo") | device("oslo") | device("laptop") | {"peer/main on nas"} | gone


def test_a_run_with_limit_ends_with_what_the_others_do_not_know(play):
    inventory = {"relays": {"oslo": ON}, "peers": {"laptop": ON, "nas": ON | {"peer_public_key": KEYS["nas"]}}}
    run = play("site", inventory, "--limit", "oslo,laptop")
    assert run.code == 0, run.output
    assert "New, or with a new key: laptop. nas does not know it yet: run this again without --limit." in run.said
    assert "Next: ansible-playbook" in run.said


def test_a_run_with_limit_says_whose_key_nobody_knows(play):
    inventory = {"relays": {"oslo": ON}, "peers": {"laptop": ON, "nas": ON}}
    run = play("site", inventory, "--limit", "oslo,laptop")
    assert run.code == 0, run.output
    assert "nas has no key that anybody in this run knows: nobody gets it as a peer." in run.said


def test_verify_judges_with_limit(play):
    """There is no interface here: each device that is asked says so, and the run fails."""
    inventory = {"relays": {"oslo": ON}, "peers": {"laptop": ON, "nas": ON}}
    run = play("verify", inventory, "--limit", "oslo,laptop")
    assert run.code == 2, run.output
    assert "laptop -> anybody" in run.output
    assert "nas -> anybody" not in run.output, "it was not asked"
    assert "Insist on every pair" in run.output
    run = play("verify", inventory, "--limit", "oslo")
    assert run.code == 2, run.output
    assert "Nothing was proven" in run.output


def test_a_key_that_is_not_certain_is_said_with_who_has_which(play):
    tv = {"name": "tv", "allowed_ips": ["10.77.1.4/32"]}
    run = play(
        "site",
        {"relays": {"oslo": ON}, "peers": {"laptop": ON, "nas": ON, "tv": OFF | {"peer_addresses": ["10.77.1.4"]}}},
        stand_in_peers={"laptop": [tv | {"public_key": key(4)}], "nas": [tv | {"public_key": key(66)}]},
        stand_in_registered={"tv": key(66)},
    )
    assert run.code == 4, run.output
    assert "The key of tv, which was not reached, is not certain, so each keeps what it has" in run.said
    assert f"{key(4)} is what laptop has; {key(66)} is what nas, the relay relay have. Run this with tv on" in run.said


def taken_over(folder: Path, facts: dict, name: str = "python", **said: object) -> dict:
    """A host on which whatever module runs answers with these facts, and with what else is said."""
    evil = folder / name
    answer = json.dumps({"changed": False, "ping": "pong", "rc": 0, "ansible_facts": facts} | said)
    evil.write_text(f"#!/bin/sh\ncat >/dev/null\ncat <<'END'\n{answer}\nEND\n", encoding="utf-8")
    evil.chmod(0o755)
    return ON | {"ansible_python_interpreter": str(evil)}


@pytest.mark.parametrize("wanted", [True, False])
def test_no_host_makes_the_control_node_write_or_run_anything(play, tmp_path, wanted):
    """With --limit, the host's name is the one under which verify tells, with all that the host says of itself."""
    ran, written = tmp_path / "ran", tmp_path / "report.json"
    temporary = f"$(touch${{IFS}}{ran};echo${{IFS}}{tmp_path}/tmp)"
    facts = {"ansible_remote_tmp": temporary, "ansible_facts": {}}
    facts |= {} if wanted else {"verify_report": str(written)}
    inventory = {"relays": {"oslo": ON}, "peers": {"laptop": taken_over(tmp_path, facts), "nas": ON}}
    options = ("--limit", "laptop", *(("-e", "verify_report=report.json") if wanted else ()))
    run = play("verify", inventory, *options)
    assert run.code == 2, run.output
    assert written.exists() == wanted, run.output
    assert ("laptop reports verify_report as a fact, which only the inventory decides" in run.output) != wanted
    assert not ran.exists()


SYSTEM = {"distribution": "Debian", "distribution_version": "12", "distribution_major_version": "12"}
SYSTEM |= {"service_mgr": "systemd"}
PROBE = {"system": "debian", "version": "12", "distribution": "Debian", "init": "systemd"}
PROBE |= {
    "ip": True,
    "kernel": True,
    "tun": True,
    "missing": [],
    "resolved": True,
    "ipv6": True,
    "advertised_links": [],
}


@pytest.mark.parametrize("bad", [KEYS["nas"][:42] + "J=", key(0), KEYS["nas"] + "\n[Peer]", "{{ 7 * 7 }}", ["a"]])
def test_a_device_with_a_key_that_is_none_stops_nobody_else(play, real_keys, tmp_path, bad):
    """Nor is what it says a template: not its key, not its words about the others."""
    ran = tmp_path / "ran"
    evil = f"{{{{ lookup('ansible.builtin.pipe', 'touch {ran}') }}}}"
    peers = [{"name": evil, "public_key": evil, "allowed_ips": [evil]}]
    common = {"facts": SYSTEM, "stdout": json.dumps(PROBE | {"release": evil}), "stderr": evil, "msg": evil}
    laptop = taken_over(tmp_path, **common, name="laptop", public_key=bad, peers=peers)
    nas = taken_over(tmp_path, **common, name="nas", public_key=KEYS["nas"], peers=peers)
    run = play("site", {"relays": {"oslo": ON}, "peers": {"laptop": laptop, "nas": nas}})
    assert run.code == 2, run.output
    assert "as its public key, which is none" in run.output
    assert run.ran == set_up("oslo") | {"peer/main on nas"}
    assert not ran.exists()


def test_nothing_that_hosts_say_is_a_template(play, tmp_path):
    """Ansible 2.16 marks text of hosts, and filters lose the mark: what is told must not be looked at once more."""
    ran, report = tmp_path / "ran", tmp_path / "report.json"
    evil = f"{{{{ lookup('ansible.builtin.pipe', 'touch {ran}') }}}}"
    path = dict.fromkeys(
        ("name", "path", "via", "address", "endpoint", "why_not", "why_not_text", "reason", "cure"), evil
    )
    finding = dict.fromkeys(("subject", "problem", "cure"), evil)
    probes = {"public_key": evil, "endpoint": evil, "own_endpoints": [evil], "inner_endpoint": evil}
    probe = {
        "reachable": False,
        "address": evil,
        "reason": evil,
        "indexes": [1],
        "through_tunnel": False,
        "attempts": 1,
    }
    said = {
        "stdout": json.dumps(probes | {"initiations": [evil] * 12}),
        "stderr": evil,
        "paths": [path | {"ok": False}],
        "findings": [finding],
        "healthy": False,
        "relay": {"name": evil, "probes": [{"index": 1, "source": evil}], "settings_error": evil},
        **probe,
    }
    host = taken_over(tmp_path, {}, **said)
    run = play("verify", {"relays": {"oslo": host}, "peers": {"laptop": host}}, "-e", f"verify_report={report}")
    assert run.code == 2, run.output
    assert "lookup(" in run.output.partition("TASK [Say what to do]")[2], run.output
    assert "lookup(" in report.read_text(encoding="utf-8")
    assert not ran.exists()


def test_a_host_that_gives_a_variable_as_a_fact_is_refused(play, tmp_path):
    """It has been taken over: whatever module runs there, its answer carries the address of another device."""
    laptop = taken_over(tmp_path, {"peer_addresses": ["10.77.1.2"]}) | {"peer_addresses": ["10.77.1.1"]}
    nas = ON | {"peer_addresses": ["10.77.1.2"]}
    run = play("site", {"relays": {"oslo": ON}, "peers": {"laptop": laptop, "nas": nas}})
    assert run.code == 2, run.output
    assert "laptop reports peer_addresses as a fact, which only the inventory decides" in run.output


@pytest.mark.parametrize(
    ("relay", "peer", "said"),
    [
        ({}, {"peer_agent": "maybe"}, "laptop: peer_agent is 'maybe': give true or false"),
        ({"port_forward_forwards": "relay"}, {}, "oslo: port_forward_forwards is 'relay': give a list"),
    ],
)
def test_what_one_host_cannot_have_stops_that_host_before_anything_changes(play, relay, peer, said):
    run = play("site", {"relays": {"oslo": ON | relay, "rome": ON}, "peers": {"laptop": ON | peer, "nas": ON}})
    assert run.code == 2, run.output
    assert said in run.output
    assert run.ran == set_up("rome") | device("nas") | (set() if relay else set_up("oslo")) | (
        set() if peer else device("laptop")
    )


@pytest.mark.parametrize(
    ("relay", "peer", "said"),
    [
        ({"relay_endpoint": "192.0.2.1\n[Interface]"}, {}, "oslo: relay_endpoint is '192.0.2.1"),
        ({"relay_name": "two words"}, {}, "oslo: relay_name is 'two words'"),
        ({}, {"peer_groups": ["a b"]}, "laptop: peer_groups is 'a b'"),
        ({"relay_fallback_url": "https://x/"}, {}, "oslo: relay_fallback_url is 'https://x/'"),
    ],
)
def test_what_contradicts_itself_stops_the_run_before_anything_changes(play, relay, peer, said):
    run = play("site", {"relays": {"oslo": ON | relay}, "peers": {"laptop": ON | peer}})
    assert run.code == 2, run.output
    assert said in run.output
    assert run.ran == set()


@pytest.mark.parametrize("file", sorted(ROOT.glob("examples/*/hosts.yml")), ids=lambda path: path.parent.name)
def test_site_takes_every_example(play, file):
    command = [Path(sys.executable).with_name("ansible-inventory"), "-i", file, "--list"]
    document = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    hosts = {name: variables | ON for name, variables in document["_meta"]["hostvars"].items()}
    inventory = {group: {name: hosts[name] for name in document[group]["hosts"]} for group in ("relays", "peers")}
    keys = {name: key(number) for number, name in enumerate(hosts, 100)}
    run = play("site", inventory, stand_in_keys=keys, ansible_become=False)
    assert run.code == 0, run.output
    managed = [name for name, variables in inventory["peers"].items() if variables.get("peer_managed", True)]
    assert run.ran >= set().union(*map(set_up, inventory["relays"]), *map(device, managed))
