# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bringing a mapping to a wanted state: what counts as a change, also where the router cannot be asked."""

import json
import stat
from dataclasses import replace

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import reconcile
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.leases import LeaseFile
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Conflict, Wanted
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.natpmp import client as natpmp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.pcp import client as pcp_client
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.reconcile import Reconciler
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping import (
    mapping_router,
    upnp_router,
)

HOST, OTHER = mapping_router.HOST, mapping_router.OTHER
WANTED = Wanted(internal_port=40000, external_port=40443)


class World:
    """A router of one kind, the time of day, and the lease file."""

    def __init__(self, method, monkeypatch, tmp_path):
        self.method = method
        self.now = 1.8e9
        self.path = tmp_path / "state" / "leases.json"
        monkeypatch.setattr(reconcile.time, "time", lambda: self.now)
        if method == "upnp":
            self.router = upnp_router.Router(mapping_router.ROUTER)
            upnp_router.Network(self.router).join(monkeypatch)
        else:
            self.router = mapping_router.Router()
            self.router.join(monkeypatch, tmp_path)

    def reconciler(self, wanted=WANTED, dry_run=False):
        find = {"pcp": pcp_client.find, "nat-pmp": natpmp_client.find, "upnp": upnp_client.find}[self.method]
        return Reconciler(find(mapping_router.ROUTER, HOST), wanted, LeaseFile(self.path), dry_run)

    def present(self, wanted=WANTED, overwrite=False, dry_run=False):
        return self.reconciler(wanted, dry_run).present(overwrite)

    def absent(self, wanted=WANTED, dry_run=False):
        return self.reconciler(wanted, dry_run).absent()

    def wait(self, seconds):
        self.now += seconds
        if self.method != "upnp":
            self.router.epoch += seconds

    def restart(self):
        self.router.table.clear()
        if self.method == "upnp":
            self.router.boot_id += 1
        else:
            self.router.epoch = 0

    def ports(self):
        """The external ports that are mapped to this host's port."""
        return sorted(
            key[0 if self.method == "upnp" else 1] for key, entry in self.router.table.items() if entry[0] == HOST
        )

    def give_away(self, port):
        key = (port, "UDP") if self.method == "upnp" else (17, port)
        self.router.table[key] = (OTHER, 8443, "theirs", 60)


@pytest.fixture(params=["pcp", "nat-pmp", "upnp"])
def world(request, monkeypatch, tmp_path):
    return World(request.param, monkeypatch, tmp_path)


def test_the_second_time_nothing_changes(world):
    first = world.present()
    assert (first.changed, first.before, first.granted.external_port) == (True, {}, 40443)
    assert first.after == {"external": "port 40443/udp of the router 192.168.7.1", "internal": "192.168.7.10:40000"}
    world.wait(1000)
    second = world.present()
    assert (second.changed, second.before) == (False, second.after)
    world.wait(3000)  # the first lease has ended, but the second runs
    assert not world.present().changed
    assert world.ports() == [40443]


def test_a_dry_run_changes_nothing(world):
    assert world.present(dry_run=True).changed
    assert (world.ports(), world.path.exists()) == ([], False)
    world.present()
    kept = world.path.read_text()
    again = world.present(dry_run=True)
    assert (again.changed, again.granted.external_address) == (False, mapping_router.EXTERNAL)
    assert world.present(replace(WANTED, external_port=40444), dry_run=True).changed
    assert world.absent(dry_run=True).changed
    assert (world.ports(), world.path.read_text()) == ([40443], kept)


def test_a_router_that_restarted(world):
    world.present()
    world.wait(10)
    world.restart()
    assert world.present(dry_run=True).changed
    assert world.present().changed
    assert world.ports() == [40443]


def test_a_lease_that_ended(world):
    world.present()
    world.wait(3601)
    world.router.table.clear()
    assert world.present().changed


def test_another_external_port(world):
    world.present()
    moved = world.present(replace(WANTED, external_port=40444))
    assert (moved.changed, moved.before["external"][:10], moved.after["external"][:10]) == (
        True,
        "port 40443",
        "port 40444",
    )
    assert world.ports() == [40444]


def test_absent(world):
    world.present()
    gone = world.absent()
    assert (gone.changed, gone.before["internal"], gone.after) == (True, "192.168.7.10:40000", {})
    assert world.ports() == []
    assert not world.absent().changed
    assert json.loads(world.path.read_text()) == {}


def test_absent_deletes_what_is_mapped_now(world):
    world.present(replace(WANTED, external_port=40444))
    assert world.absent().changed
    assert world.ports() == []


@pytest.mark.parametrize("content", [None, "", "{", "[]", "5", '{"udp/4/40000": {}}', '{"udp/4/40000": 5}', "\udcff"])
def test_a_lost_lease_file_costs_one_change_at_most(world, content):
    world.present()
    if content is None:
        world.path.unlink()
    else:
        world.path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert world.present().changed is (world.method != "upnp")
    assert not world.present().changed
    world.path.unlink()
    world.absent()
    assert world.ports() == []


def test_the_lease_file_is_for_its_owner_only(world):
    world.present()
    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600
    assert [file.name for file in world.path.parent.iterdir()] == ["leases.json"]


def test_a_foreign_mapping_is_left_alone(world):
    world.give_away(40443)
    with pytest.raises(Conflict, match="40443"):
        world.present()
    assert not world.absent().changed
    assert len(world.router.table) == 1


def test_mappings_are_apart(world):
    world.present()
    world.present(replace(WANTED, protocol="tcp"))
    world.present(Wanted(40001, 40001))
    assert len(world.router.table) == 3
    world.absent(replace(WANTED, protocol="tcp"))
    assert not world.present().changed
    assert len(world.router.table) == 2


@pytest.fixture
def upnp_world(monkeypatch, tmp_path):
    return World("upnp", monkeypatch, tmp_path)


def test_a_foreign_mapping_is_named(upnp_world):
    upnp_world.give_away(40443)
    for dry_run in (False, True):
        with pytest.raises(Conflict, match=r"port 40443/udp to 192\.168\.7\.11:8443: choose .* or set overwrite: true"):
            upnp_world.present(dry_run=dry_run)


def test_a_foreign_mapping_is_overwritten_on_request(upnp_world):
    upnp_world.give_away(40443)
    planned = upnp_world.present(overwrite=True, dry_run=True)
    assert (planned.changed, planned.before["internal"]) == (True, "192.168.7.11:8443")
    assert upnp_world.ports() == []
    done = upnp_world.present(overwrite=True)
    assert (done.changed, done.before, done.after) == (True, planned.before, planned.after)
    assert upnp_world.ports() == [40443]
    assert not upnp_world.present(overwrite=True).changed


def test_what_somebody_deleted_on_the_router(upnp_world):
    upnp_world.present()
    upnp_world.router.table.clear()
    assert upnp_world.present().changed
