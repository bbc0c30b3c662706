# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every writer of a configuration file, with hostile text in each of its fields in turn.

The fields are found by looking: of the classes that are written, and of the variables that the templates use.
"""

import copy
import dataclasses
import functools
import re
import shlex
import sys
from pathlib import Path

import jinja2
import jinja2.meta
import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.plugins.filter.core import FilterModule as CoreFilters
from ansible.plugins.filter.mathstuff import FilterModule as SetFilters
from ansible.plugins.test.core import TestModule as CoreTests
from ansible_collections.homelab.peer_relay.plugins.filter.port_holders import port_holders
from ansible_collections.homelab.peer_relay.plugins.filter.toml import toml
from ansible_collections.homelab.peer_relay.plugins.filter.word import word
from ansible_collections.homelab.peer_relay.plugins.module_utils import written
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall import nft_forwards, nft_text
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.nft import parse_ruleset
from ansible_collections.homelab.peer_relay.plugins.module_utils.host_firewall.plan import Port
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard import wg_quick
from ansible_collections.homelab.peer_relay.plugins.plugin_utils.openwrt import Section

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROLES = Path(__file__).resolve().parents[2] / "roles"
TEMPLATES = sorted(str(path.relative_to(ROLES)) for path in ROLES.glob("*/templates/**/*.j2"))
KEY = "eKzEGGDMERSFDuJFtwMcfDRPkNFDYpCPaRX+XPDdHTM="

# What ends a line or a string everywhere, and what means something to one syntax at least.
NO_TEXT = ["\nPreUp = id", "\r", "\0", "\x1b[2J", "\x7f", "\x85", "\u2028x", "\u202ex", "\ud800"]
SPECIAL = ['"', "'", "\\", " ", "%i", "$(id)", "`id`", "${x}", ";id", "#", "{{ 7 * 7 }}", "*", "|", "&", "=", "\u00e9"]


# The wg-quick file.
PEER = wg_quick.Peer("nas", KEY, "192.0.2.1:40000", ("10.77.0.2/32",), 25, "192.168.1.2:40000")
INTERFACE = wg_quick.Interface(
    *("pr0", ("10.77.0.3/16",), 1420, "/etc/wireguard/pr0.key", (PEER,), ("echo up",), ("echo down",)), 51820, True
)


def spoilt(value, text):
    """The value of a field with the text behind it, as a caller that checks nothing would pass it on."""
    return (*value[:-1], spoilt(value[-1], text)) if isinstance(value, tuple) else f"{value}{text}"


# wg-quick has the name of its file, and peers are tried below.
UNWRITTEN = ("name", "peers", "keep_endpoints", "offered_only", "families")


@pytest.mark.parametrize("text", [*NO_TEXT, "#"])
@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(wg_quick.Interface) if f.name not in UNWRITTEN])
def test_wg_quick_refuses_it_in_every_field_of_an_interface(name, text):
    interface = dataclasses.replace(INTERFACE, **{name: spoilt(getattr(INTERFACE, name), text)})
    with pytest.raises(ValueError):
        wg_quick.render(interface)


@pytest.mark.parametrize("text", NO_TEXT)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(wg_quick.Peer)])
def test_wg_quick_refuses_it_in_every_field_of_a_peer(name, text):
    named = dataclasses.replace(PEER, endpoint="relay.example:40000", literal="192.0.2.1:40000")
    peer = named if name == "literal" else PEER
    peer = dataclasses.replace(peer, **{name: spoilt(getattr(peer, name), text)})
    with pytest.raises(ValueError):
        wg_quick.render(dataclasses.replace(INTERFACE, peers=(peer,)))


def options_of_the_module():
    peer = dataclasses.asdict(PEER) | {"allowed_ips": list(PEER.allowed_ips)}
    interface = dataclasses.asdict(INTERFACE) | {key: list(getattr(INTERFACE, key)) for key in ("addresses", "post_up")}
    return interface | {"pre_down": ["true"], "peers": [peer]}


@pytest.mark.parametrize("text", [*NO_TEXT, "%1\n[Interface]\nPreUp = id"])
@pytest.mark.parametrize("field", ["endpoint", "inner_endpoint", "allowed_ips", "name", "public_key"])
def test_the_module_refuses_it_before(field, text):
    options = options_of_the_module()
    wg_quick.Interface.from_options(options)
    # Where Python's ipaddress would take it: the scope id of an address.
    host = f"fe80::1%x{text}"
    values = {"endpoint": f"[{host}]:40000", "inner_endpoint": f"[{host}]:40000", "allowed_ips": [f"{host}/128"]}
    options["peers"][0] |= {field: values.get(field, f"nas{text}")}
    with pytest.raises(ValueError):
        wg_quick.render(wg_quick.Interface.from_options(options))


# nftables and iptables.
PORT = Port("udp", 40000, "relay", "192.168.1.10")
FORWARD = nft_forwards.Forward("relay", "udp", 40000, 443, ["ipv4", "ipv6"])
REQUEST = nft_forwards.Request([FORWARD], "192.168.1.10", "2001:db8::10", "eth0", True)
DROPPING = parse_ruleset(
    '{"nftables": [{"table": {"family": "inet", "name": "f", "handle": 1}}, {"chain": {"family": "inet", "table": "f",'
    ' "name": "forward", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}'
)


@pytest.mark.parametrize("text", [*NO_TEXT, '"', "\\"])
@pytest.mark.parametrize("name", Port._fields)
def test_nft_refuses_it_in_every_field_of_a_port(name, text):
    with pytest.raises(ValueError):
        nft_text.rule_text(PORT._replace(**{name: f"{getattr(PORT, name)}{text}"}))


@pytest.mark.parametrize("text", [*NO_TEXT, '"', "\\"])
@pytest.mark.parametrize("name", [name for name in nft_forwards.Forward._fields if name != "families"])
def test_nft_refuses_it_in_every_field_of_a_forward(name, text):
    forward = FORWARD._replace(**{name: f"{getattr(FORWARD, name)}{text}"})
    with pytest.raises(ValueError):
        nft_forwards.make_plan(DROPPING, REQUEST._replace(forwards=[forward]))


@pytest.mark.parametrize("text", [*NO_TEXT, '"', "\\"])
@pytest.mark.parametrize("name", ["address", "address6", "wan"])
def test_nft_refuses_it_in_every_field_of_a_request(name, text):
    assert {"address", "address6", "wan", "forwards", "hairpin"} == set(REQUEST._fields)
    with pytest.raises(ValueError):
        nft_forwards.make_plan(DROPPING, REQUEST._replace(**{name: f"{getattr(REQUEST, name)}{text}"}))


# OpenWrt's shell.
@pytest.mark.parametrize("text", NO_TEXT)
def test_openwrt_refuses_what_is_no_text(text):
    for section in (Section("redirect", {"name": f"x{text}"}), Section(f"redirect{text}", {})):
        with pytest.raises(ValueError):
            section.commands("peer_relay_redirect_relay")


@pytest.mark.parametrize("text", SPECIAL)
def test_openwrts_shell_gets_it_as_one_word(text):
    _type, option = Section("redirect", {"name": f"x{text}"}).commands("peer_relay_redirect_relay")
    assert shlex.split(option) == ["uci", "set", f"firewall.peer_relay_redirect_relay.name=x{text}"]


# The templates.
MARKER = "Zq"


def as_list(function):
    """A filter that gives a list, as Ansible has it."""
    return functools.wraps(function)(lambda *args, **options: list(function(*args, **options)))


@functools.cache
def environment():
    """Much like Ansible's, which needs the collection to be installed."""
    made = jinja2.Environment(undefined=jinja2.ChainableUndefined, trim_blocks=True, autoescape=False)
    jinjas = {name: as_list(made.filters[name]) for name in ("map", "select", "reject", "selectattr", "rejectattr")}
    made.filters |= SetFilters().filters() | CoreFilters().filters() | jinjas | {"default": made.filters["default"]}
    made.filters |= {"homelab.peer_relay.toml": toml, "homelab.peer_relay.word": word}
    made.filters["homelab.peer_relay.port_holders"] = port_holders
    made.tests |= CoreTests().tests() | {"contains": lambda value, item: item in value}
    return made


WANTED = [
    {"name": "relay", "protocol": "udp", "port": 40000, "external_port": 443, "families": ["ipv4", "ipv6"]},
    {"name": "web", "protocol": "tcp", "port": 8443, "external_port": 8443, "families": ["ipv4"]},
]
MARK = "homelab.peer_relay home"
DEVICE = {"name": "nas", "public_key": KEY, "addresses": ["10.77.0.2"], "groups": ["default"], "rate_limit_mbit": 0}
RELAY = {
    "name": "rome",
    "public_key": KEY,
    "addresses": ["10.77.0.1"],
    "endpoint": "192.0.2.1:40000",
    "inner_endpoint": "192.168.1.2:40000",
    "fallback_url": "wss://192.0.2.1:443/",
    "fallback_fingerprint": "ab" * 32,
}
# All that the templates use and that depends on a variable of a role, a fact, or another machine.
VARIABLES = {
    "__peer_agent_capabilities": ["CAP_NET_RAW"],
    "__peer_forwards": "true",
    "__peer_others": [DEVICE],
    "__peer_probe": {"advertised_links": ["eth0"]},
    "__peer_relays_usable": [RELAY],
    "__peer_restricted": "true",
    "__peer_sysctls": ["net.ipv4.ip_forward"],
    "__peer_uses_exit_node": "true",
    "__peer_wanted": {"addresses": ["10.77.0.3/16", "fd77::3/64"]},
    "__port_forward_address": "192.168.1.10",
    "__port_forward_address6": "2001:db8::10",
    "__port_forward_chain": {
        "result": [
            {".id": "*1", "action": "drop", "comment": "theirs"},
            {".id": "*2", "action": "accept", "comment": f"{MARK}: relay"},
        ]
    },
    "__port_forward_family": "ipv4",
    "__port_forward_azure_prefix": "peer-relay-home",
    "__port_forward_foreign": {
        "result": [{"action": "dst-nat", "protocol": "udp", "dst-port": "443", "to-addresses": "a", "comment": "x"}]
    },
    "__port_forward_found_rules": {"resources": [{"name": "peer-relay-home", "description": MARK}]},
    "__port_forward_instance": {"networkInterfaces": [{"network": "global/networks/default"}]},
    "__port_forward_lan": {"ipv4": {"gateway": "192.168.1.1", "mac": "52:54:00:00:00:01"}},
    "__port_forward_mark": MARK,
    "__port_forward_pattern": f"{MARK}: ",
    "__port_forward_rows": {
        "d_nat": [
            {
                "uuid": "1",
                "descr": "x",
                "interface": "wan",
                "destination.port": "443",
                "protocol": "udp",
                "target": "a",
            },
            {"uuid": "2", "descr": f"{MARK}: old"},
        ],
        "source_nat": [{"uuid": "3", "description": f"{MARK}: old hairpin"}],
        "filter": [],
    },
    "__port_forward_source_nat": "true",
    "__port_forward_there": [
        {
            "properties": {
                "securityRules": [
                    {
                        "name": "peer-relay-home-old",
                        "properties": {"description": MARK, "direction": "Inbound", "priority": 1000},
                    }
                ]
            }
        }
    ],
    "__port_forward_wan": ["ether1"],
    "__port_forward_wanted": WANTED,
    "__relay_capabilities": ["CAP_BPF"],
    "__relay_fallback_target": "127.0.0.1",
    "__relay_grants_bpf": "true",
    "__relay_ports": [40000],
    "__relay_public_endpoint": "192.0.2.1:40000",
    "__relay_self": {"name": "rome", "addresses": ["10.77.0.1"]},
    "ansible_managed": "Ansible managed",
    "peer_endpoints": ["192.0.2.9:51820"],
    "peer_exit_node": "false",
    "peer_interface": "pr0",
    "peer_networks": ["10.77.0.0/16", "fd77::/64"],
    "peer_subnets": ["192.168.1.0/24", "fd01::/64"],
    "port_forward_auto_gateway": "192.168.1.1",
    "port_forward_auto_lease": "3600",
    "port_forward_auto_method": "auto",
    "port_forward_auto_stun_server": "stun.example.org:3478",
    "port_forward_azure_priority": "1000",
    "port_forward_gcp_rule": "peer-relay-home",
    "port_forward_gcp_target_tag": "peer-relay",
    "port_forward_hairpin": "true",
    "port_forward_opnsense_lan": "lan",
    "port_forward_opnsense_wan": "wan",
    "port_forward_routeros_lan": "192.168.1.0/24",
    "port_forward_routeros_wan_list": "WAN",
    "port_forward_state": "present",
    "relay_addresses": ["10.77.0.1"],
    "relay_data_plane": "auto",
    "relay_devices": [DEVICE],
    "relay_fallback_behind_proxy": "false",
    "relay_fallback_certificate": "/etc/relay.pem",
    "relay_fallback_certificate_key": "/etc/relay.key",
    "relay_fallback_connections": "256",
    "relay_fallback_connections_per_address": "16",
    "relay_fallback_listen_addresses": ["0.0.0.0", "::"],
    "relay_fallback_port": "443",
    "relay_listen_addresses": ["0.0.0.0", "::"],
    "relay_listen_port": "40000",
    "relay_metrics_listen": "127.0.0.1:9586",
    "relay_name": "rome",
    "relay_networks": ["10.77.0.0/16"],
    "relay_socket_buffer": "8388608",
}
# Computed from truths and numbers alone, or from words of the role's own.
DERIVED = {"ansible_managed", "__peer_agent_capabilities", "__peer_sysctls", "__relay_capabilities"}
# Shown to a person, and written nowhere.
SHOWN = {"port_forward/templates/manual.txt.j2", "peer/templates/relay_fault.txt.j2"}


@functools.cache
def constants(role):
    """The role's own variables that depend on nothing but each other, with their values."""
    path = ROLES / role / "vars/main.yml"
    own = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    if role == "firewall":
        # Role port_forward brings its own, as constant as these.
        own["__firewall_loader"] = own["__firewall_loaders"][0]
    found = {}
    while True:
        more = {
            name: yaml.safe_load(environment().from_string(str(value)).render(found)) if "{{" in str(value) else value
            for name, value in own.items()
            if name not in found and references(str(value)) <= set(found)
        }
        if not more:
            return found
        found |= more


def references(text):
    try:
        return jinja2.meta.find_undeclared_variables(environment().parse(text))
    except jinja2.TemplateError:  # a filter of the collection
        return {"?"}


def read(file):
    return (ROLES / file).read_text(encoding="utf-8")


@functools.cache
def used_by(file):
    return references(read(file)) - set(constants(file.partition("/")[0]))


def context_of(file):
    """The variables of a template that are not constant."""
    used = used_by(file) & set(VARIABLES)
    return {name: copy.deepcopy(VARIABLES[name]) for name in sorted(used)}


@functools.cache
def compiled(file):
    return environment().from_string(read(file))


def render(file, context):
    return compiled(file).render(constants(file.partition("/")[0]) | context)


def leaves(value, path=()):
    """The paths of all texts and numbers in a structure."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


def fields(files):
    return [
        pytest.param(file, path, id=f"{file}-{'.'.join(map(str, path))}")
        for file in files
        for path in leaves(context_of(file))
        if path[0] not in DERIVED
    ]


def hostile(file, path, text):
    """The template's variables, and those with the text behind the one at the path."""
    context = context_of(file)
    holder = context
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = f"{holder[path[-1]]}{MARKER}{text}"
    return context


def attempt(file, context):
    """What the template makes of it; None when it refuses."""
    try:
        return render(file, context)
    except (jinja2.TemplateError, ValueError, TypeError, re.error, AnsibleError):
        return None


TOML = [file for file in TEMPLATES if file.endswith(".toml.j2")]
YAML = [file for file in TEMPLATES if file.endswith(".yml.j2")]
PLAIN = [file for file in TEMPLATES if file not in TOML + YAML and file not in SHOWN]


@pytest.mark.parametrize("file", [file for file in TEMPLATES if file not in SHOWN])
def test_the_variables_of_these_tests_are_good_ones(file):
    assert used_by(file) <= set(VARIABLES), "add what is missing above"
    text = render(file, context_of(file))
    if file in TOML:
        assert tomllib.loads(text)
    if file in YAML:
        assert yaml.safe_load(text)


@pytest.mark.parametrize(("file", "path"), fields(PLAIN))
def test_a_unit_ruleset_or_script_never_has_it(file, path):
    lines = len(render(file, context_of(file)).splitlines())
    for text in NO_TEXT + SPECIAL:
        made = attempt(file, hostile(file, path, text))
        # Where a number or a truth is made of it, nothing of the text is left.
        assert made is None or (MARKER not in made and len(made.splitlines()) <= lines), repr(text)


@pytest.mark.parametrize(("file", "path"), fields(TOML))
def test_toml_has_it_as_text_or_not_at_all(file, path):
    good = tomllib.loads(render(file, context_of(file)))
    for text in NO_TEXT + SPECIAL:
        made = attempt(file, hostile(file, path, text))
        # What is made a number of is one, whatever it was.
        assert made is None or text not in NO_TEXT or MARKER not in made, repr(text)
        assert made is None or shape(tomllib.loads(made)) == shape(good), repr(text)


@pytest.mark.parametrize(("file", "path"), fields(YAML))
def test_the_rules_of_a_router_or_cloud_get_no_more_keys_by_it(file, path):
    good = {tuple(rule) if isinstance(rule, dict) else rule for rule in yaml.safe_load(render(file, context_of(file)))}
    known = {key for keys in good if isinstance(keys, tuple) for key in keys}
    for text in NO_TEXT + SPECIAL:
        made = attempt(file, hostile(file, path, text))
        for rule in (yaml.safe_load(made) or []) if made is not None else []:
            assert isinstance(rule, str) or set(rule) <= known | set(MORE.get(file, ())), repr(text)


# Keys that a rule has in another case than that of the variables above.
MORE = {
    "port_forward/templates/rules/routeros_filter.yml.j2": ("dst-address", "connection-nat-state"),
    "port_forward/templates/rules/routeros_nat.yml.j2": ("in-interface-list",),
}


def shape(value):
    """A structure without its texts and numbers."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else None


# The helpers themselves.
@pytest.mark.parametrize("text", NO_TEXT)
def test_no_helper_takes_what_is_no_text(text):
    for write in (written.one_line, written.word, written.toml, nft_text.comment_text):
        with pytest.raises(ValueError) as caught:
            write(f"x{text}")
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", SPECIAL)
def test_a_word_means_nothing_but_itself(text):
    for value in (f"x{text}", text, f"{text}x"):
        with pytest.raises(ValueError):
            written.word(value)


def test_an_option_of_a_command_is_no_word():
    with pytest.raises(ValueError):
        written.word("--help")
