# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""peer_expires: what it may be, and who is still there."""

import datetime

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_devices import overlay_devices
from ansible_collections.homelab.peer_relay.plugins.filter.overlay_hosts import overlay_hosts
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.expiry import parse_expiry
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.options import faults
from ansible_collections.homelab.peer_relay.tests.unit.plugins.plugin_utils.test_overlay import NETWORKS, inventory


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-12-31", "2027-01-01T00:00:00+00:00"),
        ("'2026-12-31'", "2027-01-01T00:00:00+00:00"),
        ("2026-12-31T18:00:00+01:00", "2026-12-31T17:00:00+00:00"),
        ("'2026-12-31T18:00:00+01:00'", "2026-12-31T17:00:00+00:00"),
        ("'2026-12-31 18:00Z'", "2026-12-31T18:00:00+00:00"),
        ("2028-02-29", "2028-03-01T00:00:00+00:00"),
    ],
)
def test_dates_and_times_as_yaml_has_them(written, moment):
    value = yaml.safe_load(f"peer_expires: {written}")["peer_expires"]
    assert parse_expiry(value, "visitor").isoformat() == moment
    assert faults({"inventory_hostname": "visitor", "peer_expires": value}, ["peer"]) == []


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("2026-12-31T18:00:00", "without a zone: write 2026-12-31T18:00:00"),
        ("'2026-12-31 18:00'", "without a zone"),
        ("tomorrow", "'tomorrow': give a date, such as 2026-12-31"),
        ("'2026-13-01'", "give a date"),
        ("1798740000", "give a date"),
        ("[2026-12-31]", "give a date"),
        ("9999-12-31", "give a date"),
    ],
)
def test_what_is_no_moment_is_refused(written, message):
    hosts = inventory(visitor={"peer_managed": False, "peer_expires": yaml.safe_load(written)})
    with pytest.raises(AnsibleFilterError, match="visitor: peer_expires is ") as caught:
        overlay_devices(["visitor"], hosts, NETWORKS)
    assert message in str(caught.value)


def test_a_managed_device_has_no_expiry():
    with pytest.raises(AnsibleFilterError, match="peer_managed: false"):
        overlay_devices(["nas"], inventory(nas={"peer_expires": "2099-12-31"}), NETWORKS)


def test_who_has_expired_is_absent():
    past = (datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=1)).isoformat()
    hosts = inventory(
        guest={"peer_managed": False, "peer_expires": past},
        visitor={"peer_managed": False, "peer_expires": "2099-12-31"},
    )
    (visitor,) = overlay_devices(list(hosts), hosts, NETWORKS)
    assert (visitor["name"], visitor["expires"]) == ("visitor", "2100-01-01T00:00:00+00:00")
    groups = {"peers": list(hosts)}
    assert overlay_hosts(groups, hosts, "peers", "present", managed=False) == ["visitor"]
    assert overlay_hosts(groups, hosts, "peers", "absent", managed=False) == ["guest"]
