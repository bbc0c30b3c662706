# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options as somebody has set them, of all roles: what is good, and what is refused before anything changes."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.filter.option_faults import option_faults
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.options import ROLES, specs

ALL = sorted(path.name for path in ROLES.iterdir() if (path / "meta/argument_specs.yml").exists())
OPTIONS = {name: spec for role in ALL for name, spec in specs(role).items()}


def of_type(*types):
    return sorted(name for name, spec in OPTIONS.items() if spec["type"] in types)


def faults(name, value):
    return option_faults({"inventory_hostname": "home", name: value}, ALL)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_default_is_good(name):
    assert faults(name, OPTIONS[name].get("default")) == []


@pytest.mark.parametrize("name", of_type("str", "list"))
def test_empty_is_unset_or_refused(name):
    """Where the default is not empty, nothing of the roles has to know what an empty one would mean."""
    empty = [] if OPTIONS[name]["type"] == "list" else ""
    assert bool(faults(name, empty)) == bool(OPTIONS[name].get("default"))


@pytest.mark.parametrize("name", of_type("bool"))
def test_truths_may_be_text(name):
    for value in (True, False, "true", "False", "yes", "no", "1", 0):
        assert faults(name, value) == []
    for value in ("maybe", "", 2, [True]):
        assert faults(name, value)[0].startswith(f"home: {name} is ")


@pytest.mark.parametrize("name", of_type("int", "float"))
def test_numbers_may_be_text(name):
    for value in (1, "1", "1400"):
        assert faults(name, value) == []
    for value in ("one", "1 2", True, "1e999" if OPTIONS[name]["type"] == "int" else "x", [1]):
        assert f"home: {name} is " in faults(name, value)[0]


@pytest.mark.parametrize("name", of_type("list"))
def test_a_list_is_no_text(name):
    (fault,) = faults(name, "a,b")
    assert fault.startswith(f"home: {name} is 'a,b': give a list")


def hostile(spec, text):
    """A value of the option's type with the text in one of its places, for each place in turn."""
    if spec["type"] == "list":
        element = {**spec, "type": spec["elements"]}
        return [[value] for value in hostile(element, text)]
    if spec["type"] == "dict":
        return [{key: value} for key, option in spec["options"].items() for value in hostile(option, text)]
    return [text]


@pytest.mark.parametrize("text", ["x\n[Interface]", "x\0", "x\x7f", "\ud800", "\u202e"])
@pytest.mark.parametrize("name", OPTIONS)
def test_what_is_no_text_is_refused_wherever_it_stands(name, text):
    values = hostile(OPTIONS[name], text)
    assert values
    for value in values:
        (fault,) = faults(name, value)
        assert fault.startswith(f"home: {name}")
        assert fault.isprintable()


def test_what_nobody_knows_is_refused():
    (fault,) = faults("port_forward_forwards", [{"name": "relay", "port": 1, "extern": 2}])
    assert fault == (
        "home: port_forward_forwards[0] has 'extern': known are name, protocol, port, external_port, families"
    )


def test_what_a_host_itself_sets_is_a_fault():
    facts = {"distribution": "Debian", "verify_report": "/etc/cron.d/x", "__port_forward_lan": {}}
    (fault,) = option_faults({"inventory_hostname": "pi", "ansible_facts": facts}, [])
    assert fault.startswith("pi reports __port_forward_lan, verify_report as a fact, which only the inventory decides:")
