# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a running interface to the wanted one."""

import base64
import dataclasses
import subprocess

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.steps import (
    Running,
    literals,
    plan,
    running_from,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg import (
    RunningInterface,
    RunningPeer,
    WireGuardError,
)
from ansible_collections.homelab.peer_relay.plugins.module_utils.wireguard.wg_quick import (
    Interface,
    name_hooks,
    read_back,
    render,
    without_keys,
)

OWN, RELAY, NAS, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3, 4))
NOW = 1_700_000_000
ENDPOINT = "192.0.2.1:40000"
INNER = "192.168.7.10:40000"


def peer(name, key, *allowed_ips, endpoint=ENDPOINT, inner="", keepalive=0):
    return {
        "name": name,
        "public_key": key,
        "endpoint": endpoint,
        "inner_endpoint": inner,
        "allowed_ips": list(allowed_ips),
        "persistent_keepalive": keepalive,
    }


PEERS = [peer("relay", RELAY, "10.77.0.1/32", keepalive=25), peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24")]


def wanted(peers=PEERS, **options):
    defaults = {"name": "pr0", "mtu": 1420, "private_key_file": None, "post_up": [], "pre_down": []}
    defaults |= {"listen_port": 0, "keep_endpoints": False, "offered_only": False}
    return Interface.from_options({**defaults, "addresses": ["10.77.1.1/16"], "peers": peers, **options})


def running_peer(options, endpoint=ENDPOINT, age=10, psk=False):
    return RunningPeer(
        public_key=options["public_key"],
        has_preshared_key=psk,
        endpoint=endpoint,
        allowed_ips=frozenset(options["allowed_ips"]),
        latest_handshake=NOW - age,
        rx_bytes=0,
        tx_bytes=0,
        persistent_keepalive=options["persistent_keepalive"],
    )


def running(peers=None, fwmark=0, mtu=1420, addresses=("10.77.1.1/16",), prefixes=("192.168.1.0/24",), rules=()):
    peers = peers or [running_peer(p) for p in PEERS]
    wireguard = RunningInterface(OWN, 51820, fwmark, {p.public_key: p for p in peers})
    return Running(wireguard, mtu, frozenset(addresses), frozenset(prefixes), frozenset(rules))


def steps(want, have, written=None, resolve=lambda host: [host]):
    """The commands of a plan, as lines."""
    written = read_back(render(wanted()) if written is None else written)
    return [" ".join(step.command) for step in plan(want, have, written, OWN, NOW, resolve)]


def test_nothing_to_do():
    assert steps(wanted(), running()) == []


def test_a_new_device_is_one_peer_more():
    want = wanted([*PEERS, peer("new", NEW, "10.77.1.3/32")])
    assert steps(want, running()) == [f"wg set pr0 peer {NEW} endpoint {ENDPOINT} allowed-ips 10.77.1.3/32"]


def test_a_removed_device_takes_its_subnet_along():
    assert steps(wanted(PEERS[:1]), running()) == [
        "ip -4 route del 192.168.1.0/24 metric 4096 dev pr0",
        f"wg set pr0 peer {NAS} remove",
    ]


def test_a_subnet_moves_in_one_command():
    new = [peer("relay", RELAY, "10.77.0.1/32", "192.168.1.0/24", keepalive=25), peer("nas", NAS, "10.77.1.2/32")]
    (line,) = steps(wanted(new), running())
    assert line == (
        f"wg set pr0 peer {RELAY} allowed-ips 10.77.0.1/32,192.168.1.0/24 peer {NAS} allowed-ips 10.77.1.2/32"
    )


def test_a_live_session_keeps_the_endpoint_that_it_found():
    have = running([running_peer(PEERS[0]), running_peer(PEERS[1], endpoint="203.0.113.9:1234")])
    assert steps(wanted(), have) == []


def test_a_dead_session_gets_the_configured_endpoint():
    have = running([running_peer(PEERS[0]), running_peer(PEERS[1], endpoint="203.0.113.9:1234", age=500)])
    assert steps(wanted(), have) == [f"wg set pr0 peer {NAS} endpoint {ENDPOINT}"]


def test_a_relay_that_moved_is_followed_at_once():
    moved = [peer("relay", RELAY, "10.77.0.1/32", keepalive=25, endpoint="198.51.100.1:40000"), PEERS[1]]
    assert steps(wanted(moved), running()) == [f"wg set pr0 peer {RELAY} endpoint 198.51.100.1:40000"]


def test_endpoints_that_something_else_chooses_are_left_alone():
    chosen = "198.51.100.7:51820"
    before = running([running_peer(PEERS[0], "127.0.0.1:4711", 1000), running_peer(PEERS[1], chosen, 1000)])
    keep = wanted(keep_endpoints=True)
    moved = wanted([{**p, "endpoint": "192.0.2.9:40000"} for p in PEERS], keep_endpoints=True)
    assert steps(keep, before) == []
    assert steps(moved, before) == []
    assert steps(keep, running([running_peer(PEERS[0], ""), running_peer(PEERS[1], chosen)])) == [
        f"wg set pr0 peer {RELAY} endpoint {ENDPOINT}"
    ]


def test_endpoints_that_nobody_chooses_any_more_are_the_configured_ones_again():
    chosen = "198.51.100.7:51820"
    before = running([running_peer(PEERS[0]), running_peer(PEERS[1], chosen)])
    assert steps(wanted(), before, render(wanted(keep_endpoints=True))) == [
        f"wg set pr0 peer {NAS} endpoint {ENDPOINT}"
    ]


def test_a_listen_port_is_taken_without_a_restart():
    assert "ListenPort = 51999" in render(wanted(listen_port=51999)).splitlines()
    assert steps(wanted(listen_port=51999), running()) == ["wg set pr0 listen-port 51999"]
    assert steps(wanted(listen_port=51820), running()) == []


def test_a_name_is_what_it_resolves_to():
    named = [{**p, "endpoint": "relay.example:40000"} for p in PEERS]
    addresses = ["2001:db8::1", "192.0.2.1"]
    assert steps(wanted(named), running(), resolve=lambda host: addresses) == []
    # A new peer joins the others at the address that they use.
    more = [*named, peer("new", NEW, "10.77.1.3/32", endpoint="relay.example:40000")]
    (line,) = steps(wanted(more), running(), resolve=lambda host: addresses)
    assert f"endpoint {ENDPOINT}" in line


NAMED = [{**p, "endpoint": "relay.example:40000"} for p in PEERS]


def no_address(host):
    raise WireGuardError(f"cannot resolve {host}")


def test_a_name_stays_out_of_what_wg_quick_reads():
    for known, endpoints in ({}, []), ({"relay.example:40000": ENDPOINT}, [f"Endpoint = {ENDPOINT}"] * 2):
        text = render(wanted(NAMED).with_literals(known))
        assert [line for line in text.splitlines() if line.startswith("Endpoint")] == endpoints
        back = read_back(text)
        assert back.endpoints == {RELAY: ("relay.example:40000", ""), NAS: ("relay.example:40000", "")}
        assert back.literals == known
    text = render(wanted([{**p, "inner_endpoint": INNER} for p in NAMED]))
    assert read_back(text).endpoints[NAS] == ("relay.example:40000", INNER)


def test_the_file_keeps_an_address_of_the_name_as_long_as_it_has_it():
    def found(want, written, *addresses):
        return literals(want, written, (lambda host: list(addresses)) if addresses else no_address)

    want, nothing = wanted(NAMED), read_back("")
    assert found(want, nothing) == {"relay.example:40000": ""}
    assert found(want, nothing, "192.0.2.1") == {"relay.example:40000": ENDPOINT}
    written = read_back(render(want.with_literals({"relay.example:40000": ENDPOINT})))
    assert found(want, written) == {"relay.example:40000": ENDPOINT}, "the DNS does not answer"
    assert found(want, written, "192.0.2.9", "192.0.2.1") == {"relay.example:40000": ENDPOINT}
    assert found(want, written, "192.0.2.9") == {"relay.example:40000": "192.0.2.9:40000"}
    assert found(wanted(), written, "192.0.2.9") == {}, "no names"


def test_a_name_without_an_address_changes_nothing_that_runs():
    have = running([running_peer(p, age=500) for p in PEERS])
    assert steps(wanted(NAMED), have, render(wanted(NAMED)), no_address) == []
    # Unless it is to go there from now on.
    with pytest.raises(WireGuardError, match="cannot resolve"):
        steps(wanted(NAMED), have, render(wanted()), no_address)


def test_a_new_peer_whose_name_has_no_address_waits_for_it():
    more = wanted([*NAMED, peer("new", NEW, "10.77.1.3/32", endpoint="relay.example:40000")])
    first, second = steps(more, running(), render(wanted(NAMED)), no_address)
    assert first == f"wg set pr0 peer {NEW} allowed-ips 10.77.1.3/32"
    assert second.startswith("bash -c (for key in") and NEW in second and "%i" not in second
    # The next run finds it so.
    have = running([*map(running_peer, PEERS), running_peer(more_peer(), endpoint="", age=NOW)])
    assert steps(more, have, render(more), no_address) == []


def more_peer():
    return peer("new", NEW, "10.77.1.3/32")


def test_names_are_looked_up_until_each_peer_has_an_endpoint(tmp_path):
    """The line as bash runs it, with a wg that knows the name at the third look-up; NAS has been heard meanwhile."""
    wg = tmp_path / "wg"
    wg.write_text(
        '#!/bin/sh\n[ "$1" = show ] && printf "%s\\t%s\\n" '
        f"{RELAY} 0 {NAS} 1700000000 {NEW} 0 && exit\n"
        f'echo "$@ $WG_ENDPOINT_RESOLUTION_RETRIES" >> {tmp_path}/asked\n[ "$(wc -l < {tmp_path}/asked)" -ge 3 ]\n'
    )
    sleep = tmp_path / "sleep"
    sleep.write_text("#!/bin/sh\n")
    for program in (wg, sleep):
        program.chmod(0o755)
    (line,) = name_hooks(wanted([*NAMED, peer("new", NEW, endpoint="relay.example:40000")])).values()
    path = f"{tmp_path}:/usr/bin:/bin"
    script = f"set -e -o pipefail; {line.replace('%i', 'pr0')} wait"
    subprocess.run(["bash", "-c", script], env={"PATH": path}, check=True, timeout=10)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"set pr0 peer {key} endpoint relay.example:40000 0" for key in (RELAY, RELAY, RELAY, NEW)]


def with_inner(peers=PEERS, inner=INNER, endpoint=ENDPOINT):
    return [{**p, "endpoint": endpoint, "inner_endpoint": inner} for p in peers]


@pytest.mark.parametrize("age", [10, 500], ids=["live", "dead"])
@pytest.mark.parametrize("now_at", [ENDPOINT, INNER])
def test_either_endpoint_is_right(now_at, age):
    want = wanted(with_inner())
    have = running([running_peer(p, endpoint=now_at, age=age) for p in PEERS])
    assert steps(want, have, written=render(want)) == []
    assert steps(want, have, written=render(wanted())) == [], "when the inner one comes"
    moved = wanted(with_inner(endpoint="198.51.100.1:40000"))
    there = [f"peer {key} endpoint 198.51.100.1:40000" for key in (RELAY, NAS)] if now_at == ENDPOINT else []
    assert steps(moved, have, written=render(want)) == ([f"wg set pr0 {' '.join(there)}"] if there else [])


def test_a_new_peer_joins_the_others_where_they_are_now():
    want = wanted(with_inner([*PEERS, peer("new", NEW, "10.77.1.3/32")]))
    have = running([running_peer(PEERS[0], endpoint=INNER), running_peer(PEERS[1], age=500)])
    assert steps(want, have, written=render(want)) == [
        f"wg set pr0 peer {NEW} endpoint {INNER} allowed-ips 10.77.1.3/32"
    ]


def test_an_inner_endpoint_that_goes_is_left():
    have = running([running_peer(p, endpoint=INNER) for p in PEERS])
    assert steps(wanted(), have, written=render(wanted(with_inner()))) == [
        f"wg set pr0 peer {RELAY} endpoint {ENDPOINT} peer {NAS} endpoint {ENDPOINT}"
    ]


def test_the_inner_endpoint_is_a_comment_to_wg_quick():
    text = render(wanted(with_inner(inner="[FD00::10]:40000")))
    assert read_back(text).endpoints == dict.fromkeys((RELAY, NAS), (ENDPOINT, "[fd00::10]:40000"))
    assert all(line.startswith("#") for line in text.splitlines() if "fd00" in line)


def test_an_exit_node_comes_routes_first_rules_last():
    exit_peers = [PEERS[0], peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24", "0.0.0.0/0", "::/0")]
    assert steps(wanted(exit_peers), running()) == [
        "wg set pr0 fwmark 28786",
        f"wg set pr0 peer {NAS} allowed-ips 10.77.1.2/32,192.168.1.0/24,0.0.0.0/0,::/0",
        "ip -4 route replace 0.0.0.0/0 table 28786 metric 65535 protocol kernel dev lo",
        "ip -6 route replace ::/0 table 28786 metric 65535 protocol kernel dev lo",
        "ip -4 route replace 0.0.0.0/0 table 28786 dev pr0",
        "ip -6 route replace ::/0 table 28786 dev pr0",
        "ip -4 rule add priority 28785 lookup main suppress_prefixlength 0 protocol kernel",
        "ip -4 rule add priority 28786 not fwmark 28786 lookup 28786 protocol kernel",
        "ip -4 rule add priority 28787 not fwmark 28786 lookup 28786 protocol kernel",
        "ip -6 rule add priority 28785 lookup main suppress_prefixlength 0 protocol kernel",
        "ip -6 rule add priority 28786 not fwmark 28786 lookup 28786 protocol kernel",
        "ip -6 rule add priority 28787 not fwmark 28786 lookup 28786 protocol kernel",
    ]


def test_what_the_file_undoes_for_an_exit_node_is_no_hook():
    exit_peers = [PEERS[0], peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24", "0.0.0.0/0")]
    want = wanted(exit_peers, offered_only=True)
    have = running(
        [running_peer(p) for p in exit_peers],
        fwmark=28786,
        prefixes=["192.168.1.0/24", "0.0.0.0/0", "0.0.0.0/0 dev lo", "::/0 dev lo"],
        rules=tuple((version, priority) for version in (4, 6) for priority in range(28783, 28788)),
    )
    assert steps(want, have, written=render(want)) == []


def test_a_family_that_the_exit_node_lacks_goes_nowhere():
    exit_peers = [PEERS[0], peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24", "0.0.0.0/0")]
    lines = [line for line in steps(wanted(exit_peers), running()) if " -6 " in line]
    assert lines == [
        "ip -6 route replace ::/0 table 28786 metric 65535 protocol kernel dev lo",
        "ip -6 rule add priority 28785 lookup main suppress_prefixlength 0 protocol kernel",
        "ip -6 rule add priority 28786 not fwmark 28786 lookup 28786 protocol kernel",
        "ip -6 rule add priority 28787 not fwmark 28786 lookup 28786 protocol kernel",
    ]


def test_rules_that_systemd_networkd_would_remove_are_made_anew():
    exit_peers = [PEERS[0], peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24", "0.0.0.0/0")]
    prefixes = ["192.168.1.0/24", "0.0.0.0/0", "0.0.0.0/0 dev lo"]
    have = running(
        [running_peer(p) for p in exit_peers], fwmark=28786, prefixes=prefixes, rules=((4, 28785), (4, 28786))
    )
    have = dataclasses.replace(have, weak_rules=frozenset({(4, 28786)}))
    want = dataclasses.replace(wanted(exit_peers), families=(4,))
    assert steps(want, have) == [
        "ip -4 rule del priority 28786",
        "ip -4 rule add priority 28786 not fwmark 28786 lookup 28786 protocol kernel",
        "ip -4 rule add priority 28787 not fwmark 28786 lookup 28786 protocol kernel",
    ]


def test_what_is_offered_alone_is_forwarded():
    want = wanted(offered_only=True)
    have = running(rules=((4, 28783), (4, 28784)))
    assert steps(want, have) == [
        "ip -6 rule add priority 28783 iif pr0 fwmark 28787 lookup main protocol kernel",
        "ip -6 rule add priority 28784 iif pr0 prohibit protocol kernel",
    ]
    assert steps(wanted(), have) == [f"ip -4 rule del priority {priority} iif pr0" for priority in (28784, 28783)]


def test_an_exit_node_goes_rules_first():
    have = running(
        fwmark=28786,
        prefixes=("192.168.1.0/24", "0.0.0.0/0"),
        rules=((4, 28785), (4, 28786)),
        peers=[running_peer(PEERS[0]), running_peer(peer("nas", NAS, "10.77.1.2/32", "192.168.1.0/24", "0.0.0.0/0"))],
    )
    assert steps(wanted(), have) == [
        "ip -4 rule del priority 28786",
        "ip -4 rule del priority 28785",
        "ip -4 route del 0.0.0.0/0 table 28786 dev pr0",
        "wg set pr0 fwmark 0",
        f"wg set pr0 peer {NAS} allowed-ips 10.77.1.2/32,192.168.1.0/24",
    ]


def test_a_new_address_brings_the_routes_back():
    assert steps(wanted(addresses=["10.77.9.9/16"]), running()) == [
        "ip address del 10.77.1.1/16 dev pr0",
        "ip address add 10.77.9.9/16 dev pr0",
        "ip -4 route replace 192.168.1.0/24 metric 4096 dev pr0",
    ]


def test_mtu_and_preshared_key():
    have = running([running_peer(PEERS[0]), running_peer(PEERS[1], psk=True)], mtu=1280)
    assert steps(wanted(), have) == [
        f"wg set pr0 peer {NAS} preshared-key /dev/null",
        "ip link set dev pr0 mtu 1420",
    ]


def test_hooks_are_undone_and_done():
    before = wanted(post_up=["a up %i"], pre_down=["a down %i"])
    after = wanted(post_up=["b up %i"], pre_down=["b down %i"])
    assert steps(after, running(), written=render(before)) == ["bash -c a down pr0", "bash -c b up pr0"]


def test_another_private_key():
    (step,) = plan(wanted(), running(), read_back(render(wanted())), NEW, NOW, lambda host: [host])
    assert " ".join(step.command) == (
        f"wg set pr0 private-key /etc/wireguard/pr0.key peer {RELAY} persistent-keepalive 25"
    )


def test_routes_of_others_are_left_alone():
    link = {"ifname": "pr0", "mtu": 1420, "addr_info": [{"local": "fe80::1", "prefixlen": 64, "scope": "link"}]}
    routes = [
        {"family": 4, "dst": "10.77.0.0/16", "protocol": "kernel"},
        {"family": 4, "dst": "192.168.1.0/24", "metric": 4096},
        {"family": 4, "dst": "192.168.2.0/24", "metric": 100},
        {"family": 4, "dst": "default", "table": "28786"},
        {"family": 6, "dst": "default", "table": "28786", "metric": 1024},
        {"family": 6, "dst": "default", "table": "99"},
    ]
    rules = {
        4: [
            {"priority": 28784, "iif": "pr1", "action": "prohibit", "protocol": "kernel"},
            {"priority": 28786, "table": "28786", "protocol": "kernel"},
            {"priority": 28785, "table": "99", "protocol": "kernel"},
        ],
        6: [{"priority": 28786, "table": "28786", "protocol": "unspec"}],
    }
    found = running_from(running().wireguard, link, routes, rules)
    assert found.addresses == set()
    assert found.prefixes == {"192.168.1.0/24", "0.0.0.0/0", "::/0"}
    assert found.rules == {(4, 28786), (6, 28786)}
    assert found.weak_rules == {(6, 28786)}


def test_the_file_holds_no_secret_and_starts_at_once():
    text = render(wanted())
    assert "PrivateKey" not in text
    assert "PersistentKeepalive" not in text, "wireguard-go would send a handshake before it has the key"
    assert f"PostUp = wg set %i private-key /etc/wireguard/pr0.key peer {RELAY} persistent-keepalive 25" in text
    assert "PostUp = ip -4 route replace 192.168.1.0/24 dev %i metric 4096" in text
    assert read_back(text).endpoints == {RELAY: (ENDPOINT, ""), NAS: (ENDPOINT, "")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a name"}, "interface name"),
        ({"mtu": 1000}, "mtu 1000"),
        ({"listen_port": 65536}, "listen_port 65536"),
        ({"addresses": ["10.77.1.1/99"]}, "addresses: '10.77.1.1/99'"),
        ({"peers": [peer("nas", "AAAA", "10.77.1.2/32")]}, "peer nas: public_key 'AAAA'"),
        ({"peers": [peer("nas", NAS, "10.77.1.2/16")]}, "peer nas: allowed_ips: '10.77.1.2/16'"),
        ({"peers": [peer("nas", NAS, endpoint="relay")]}, "endpoint 'relay'"),
        ({"peers": [peer("nas", NAS, inner="192.168.7.10")]}, "endpoint '192.168.7.10'"),
        ({"peers": [peer("nas", NAS, inner="nas:1")]}, "peer nas: inner_endpoint: 'nas' is wrong"),
        ({"peers": [peer("nas", NAS, keepalive=-1)]}, "peer nas: persistent_keepalive -1"),
        ({"peers": [peer("n\nas", NAS)]}, "control characters"),
        ({"peers": [peer("a", NAS), peer("b", NAS)]}, "a and b have the same public_key"),
        ({"peers": [peer("a", NAS, "10.0.0.0/8"), peer("b", NEW, "10.0.0.0/8")]}, "a and b both have 10.0.0.0/8"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(WireGuardError, match=message):
        wanted(**options)


def test_a_file_of_somebody_else_is_shown_without_its_keys():
    text = "[Interface]\r\nprivatekey=SECRET1\n\tPrivateKey = SECRET2 # mine\nMTU = 1420\n[Peer]\nPresharedKey =SECRET3"
    shown = without_keys(text)
    assert "SECRET" not in shown
    assert "mine" not in shown
    assert shown.count("(hidden)") == 3
    assert "\nMTU = 1420\n[Peer]\n" in shown
    assert without_keys(render(wanted())) == render(wanted())
