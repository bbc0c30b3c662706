# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules port_mapping and port_mapping_info: options, results, and what makes them fail."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import routes, stun
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Unreachable
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import client as upnp_client
from ansible_collections.homelab.peer_relay.plugins.modules import port_mapping, port_mapping_info
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping import upnp_router
from ansible_collections.homelab.peer_relay.tests.unit.plugins.module_utils.port_mapping.mapping_router import (
    EXTERNAL,
    HOST,
    HOST_V6,
    OTHER,
    ROUTER,
)


class Failed(Exception):
    """The module failed."""


class Result(Exception):
    """What the module returned."""


class Module:
    """Stands for AnsibleModule."""

    check_mode = False
    options: dict

    def __init__(self, argument_spec, supports_check_mode):
        assert supports_check_mode
        assert self.options.keys() <= argument_spec.keys()
        self.params = {name: self.options.get(name, option.get("default")) for name, option in argument_spec.items()}
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)

    def exit_json(self, **result):
        raise Result(result | {"warnings": self.warnings})

    def fail_json(self, msg):
        raise Failed(msg)


def run(monkeypatch, module, check_mode=False, **options):
    monkeypatch.setattr(Module, "options", options, raising=False)
    monkeypatch.setattr(Module, "check_mode", check_mode)
    monkeypatch.setattr(module, "AnsibleModule", Module)
    with pytest.raises(Result) as result:
        module.main()
    return result.value.args[0]


@pytest.fixture
def apply(monkeypatch, tmp_path, router):
    def call(check_mode=False, **options):
        options = {"internal_port": 40000, "lease_file": str(tmp_path / "leases.json")} | options
        return run(monkeypatch, port_mapping, check_mode, **options)

    return call


@pytest.fixture
def info(monkeypatch, router):
    return lambda **options: run(monkeypatch, port_mapping_info, **options)


def test_present(apply, router):
    result = apply(external_port=443)
    assert router.table.keys() == {(17, 443)}
    assert result["changed"] and result["diff"]["before"] == {} and not result["warnings"]
    expected = {
        "method": "pcp",
        "gateway": ROUTER,
        "external_address": EXTERNAL,
        "external_port": 443,
        "lease": 3600,
        "nat": "public",
    }
    assert {key: result[key] for key in expected} == expected
    assert result["expires"] > 1.7e9
    assert EXTERNAL in result["explanation"]
    assert not apply(external_port=443)["changed"]


def test_the_external_port_is_the_internal_one_by_default(apply):
    assert apply()["external_port"] == 40000


@pytest.mark.parametrize("address", ["100.64.0.7", "192.168.178.20", "192.0.0.2"])
def test_a_mapping_that_nobody_can_reach(apply, router, address):
    router.external = address
    result = apply()
    assert result["nat"] in ("cgnat", "double_nat", "ds_lite")
    assert "nobody outside can reach" in result["explanation"]


def test_check_mode(apply, router):
    result = apply(check_mode=True)
    assert (result["changed"], result["external_address"], result["nat"], router.table) == (True, "", "unknown", {})


def test_absent(apply, router):
    apply()
    result = apply(state="absent")
    assert (result["changed"], result["method"], router.table) == (True, "pcp", {})
    assert not apply(state="absent")["changed"]


def test_absent_speaks_the_protocol_that_the_mapping_was_made_by(apply, router):
    apply(method="nat-pmp")
    assert apply(state="absent")["method"] == "nat-pmp"
    assert router.table == {}


def test_absent_without_a_router(apply, router, monkeypatch):
    def find_no_upnp(*_):
        raise Unreachable("answers no search")

    monkeypatch.setattr(upnp_client, "find", find_no_upnp)
    apply()
    router.speaks = set()
    gone = apply(state="absent")
    assert (gone["changed"], gone["method"], gone["gateway"]) == (True, "", "")
    assert "ends when its lease does" in gone["warnings"][0]
    again = apply(state="absent")
    assert (again["changed"], again["warnings"]) == (False, [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"internal_port": 0}, "internal_port is 0: give a number from 1 to 65535"),
        ({"external_port": 0}, "external_port is 0"),
        ({"external_port": 65536}, "external_port is 65536"),
        ({"lease": 0}, "lease is 0"),
        (
            {"external_port": 443, "family": 6},
            "external_port is 443 and internal_port 40000: .* leave external_port out",
        ),
        ({"method": "nat-pmp", "family": 6}, "NAT-PMP knows IPv4 only"),
    ],
)
def test_what_cannot_be(apply, options, words):
    with pytest.raises(Failed, match=words):
        apply(**options)


def test_a_refusal_fails_with_its_translation(apply, router):
    router.natpmp_result = 2
    router.speaks = {0}
    with pytest.raises(Failed, match=r"NAT-PMP result 2, Not Authorized/Refused"):
        apply(method="nat-pmp")


def test_a_lease_file_that_cannot_be_written(apply, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="run as root, with become: true"):
        apply(lease_file=str(tmp_path / "file" / "leases.json"))


def test_info(info, router, monkeypatch):
    upnp = upnp_router.Router(ROUTER)
    upnp_router.Network(upnp).join(monkeypatch)
    upnp.table[40443, "UDP"] = (HOST, 40000, "mine", 60)
    upnp.table[40444, "TCP"] = (OTHER, 22, "theirs", 0)
    result = info()
    assert (result["changed"], result["found"], result["problem"]) == (False, True, "")
    assert (result["gateway"], result["local_address"], result["method"]) == (ROUTER, HOST, "pcp")
    assert [method["supported"] for method in result["methods"]] == [True, True, True]
    assert (result["external_address"], result["nat"], result["seen_address"]) == (EXTERNAL, "public", "")
    assert [(entry["external_port"], entry["protocol"], entry["own"]) for entry in result["mappings"]] == [
        (40443, "udp", True),
        (40444, "tcp", False),
    ]


def test_info_of_pinholes(info):
    result = info(family=6)
    assert (result["external_address"], result["nat"], result["method"]) == (HOST_V6, "public", "pcp")
    assert [method["supported"] for method in result["methods"]] == [True, False, False]


def test_info_without_an_answer(info, router):
    router.speaks = set()
    result = info()
    assert (result["found"], result["method"], result["mappings"]) == (False, "", [])
    assert (result["external_address"], result["nat"], result["explanation"]) == ("", "unknown", "")
    assert "turn on UPnP or NAT-PMP/PCP in the router's settings" in result["problem"]
    assert all(method["problem"] for method in result["methods"])


def test_info_without_a_router(info, monkeypatch):
    def default_gateway(_family):
        raise Unreachable("this host has no default route")

    monkeypatch.setattr(routes, "default_gateway", default_gateway)
    result = info()
    assert (result["found"], result["gateway"], result["local_address"]) == (False, "", "")
    assert (result["methods"], result["problem"]) == ([], "this host has no default route")


def test_info_of_a_router_without_a_public_address(info, router):
    router.natpmp_result = 3
    result = info()
    assert (result["found"], result["nat"], result["external_address"]) == (True, "no_address", "")
    assert "carrier-grade NAT" in result["explanation"]
    router.speaks = {2}
    assert info()["nat"] == "unknown"


def test_info_of_one_method(info):
    assert [method["name"] for method in info(method="nat-pmp")["methods"]] == ["nat-pmp"]


def test_the_address_seen_from_outside(info, monkeypatch):
    monkeypatch.setattr(stun, "ask", lambda server, family: "203.0.113.9")
    result = info(stun_server="stun.example")
    assert (result["seen_address"], result["nat"]) == ("203.0.113.9", "differs")


def test_a_stun_server_that_does_not_answer(info, monkeypatch):
    def ask(_server, _family):
        raise Unreachable("stun.example does not answer")

    monkeypatch.setattr(stun, "ask", ask)
    result = info(stun_server="stun.example")
    assert (result["seen_address"], result["nat"]) == ("", "public")
    assert result["warnings"] == ["stun.example does not answer"]
