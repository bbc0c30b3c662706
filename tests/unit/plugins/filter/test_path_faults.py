# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong in a fleet, a line for each cause."""

import re

from ansible_collections.homelab.peer_relay.plugins.filter.path_faults import path_faults
from ansible_collections.homelab.peer_relay.plugins.filter.path_matrix import path_matrix
from ansible_collections.homelab.peer_relay.plugins.filter.path_rows import path_rows

DEVICES = [f"dev{number:02}" for number in range(1, 28)]
PHONES = ["phone1", "phone2", "phone3"]
RELAYS = ["oslo", "rome"]
ANSWERS = {"ok": True, "path": "direct", "reason": "", "cure": "", "why_not": ""}


def silent(reason="the last handshake was 240 s ago", cure="is it still on?"):
    return {"ok": False, "path": "none", "reason": reason, "cure": cure, "why_not": ""}


def fleet(off=(), **wrong):
    """The rows of 2 relays, 27 devices and 3 phones; wrong gives the result of one pair, FROM__TO, or of all to TO."""
    hostvars = {name: {} for name in DEVICES} | {name: {"peer_managed": False} for name in PHONES}
    for number, device in enumerate(DEVICES):
        if device in off:
            continue
        results = [
            {"name": other, **wrong.get(f"{device}__{other}", wrong.get(other, ANSWERS))}
            for other in (*RELAYS, *DEVICES, *PHONES)
            if other != device
        ]
        for result in results:
            if result["name"] in off:
                result.update(silent(f"the last handshake was {200 + number} s ago"))
        hostvars[device]["paths"] = {"paths": results}
    return path_rows([*DEVICES, *PHONES], hostvars, "paths")


def test_a_healthy_fleet_has_nothing_to_say():
    assert path_faults(fleet()) == []


def test_phones_that_sleep_are_one_line_and_no_work_for_site():
    (line,) = path_faults(fleet(**dict.fromkeys(PHONES, silent(cure="Run the site playbook on it"))))
    assert line == "No answer from phone1, phone2, phone3: not managed, so it may be off or asleep, which is no fault."


def test_devices_that_are_off_are_one_line():
    assert path_faults(fleet(off=("dev03", "dev09"))) == [
        "Ansible did not reach dev03, dev09: is it on, and its ansible_host right?"
    ]


def test_a_relay_that_is_off_is_what_the_play_knows():
    firewall = silent("10.77.0.2 gives no echo", "does a firewall on rome drop ping on its overlay interface?")
    assert path_faults(fleet(rome=firewall), ["rome"]) == [
        "Ansible did not reach rome: is it on, and its ansible_host right?"
    ]
    (line,) = path_faults(fleet(), ["rome"])
    assert line.endswith("In the overlay rome answers.")


def test_what_nobody_reaches_is_one_line_whatever_the_ages():
    wrong = {
        f"{device}__dev05": silent(f"the last handshake was {number} s ago") for number, device in enumerate(DEVICES)
    }
    (line,) = path_faults(fleet(**wrong))
    assert line == (
        "dev01, dev02, dev03, dev04, dev06 and 21 more -> dev05: the last handshake was 0 s ago: is it still on?"
    )


def test_who_reaches_nobody_is_one_line():
    wrong = {f"dev05__{other}": silent("no session with the relay") for other in (*RELAYS, *DEVICES)}
    (line,) = path_faults(fleet(**wrong))
    assert line.startswith("dev05 -> dev01, dev02, dev03, dev04, dev06 and 23 more: no session with the relay")


def test_single_pairs_have_their_reason():
    lines = path_faults(fleet(dev01__dev02=silent(), dev07__dev08=silent("10.77.0.9 gives no echo")))
    assert lines == [
        "dev01 -> dev02: the last handshake was 240 s ago: is it still on?",
        "dev07 -> dev08: 10.77.0.9 gives no echo: is it still on?",
    ]


def test_a_device_without_its_interface_says_so():
    hostvars = {name: {"paths": {"failed": True, "msg": "pr0 does not run here"}} for name in ("laptop", "nas")}
    assert path_faults(path_rows(["laptop", "nas"], hostvars, "paths")) == [
        "laptop, nas -> anybody: pr0 does not run here"
    ]


def test_a_matrix_for_thirty():
    lines = path_matrix(fleet(off=("dev03",), dev01__dev02=silent(), phone1=silent()))
    assert len(lines) == 2 + 27
    assert max(map(len, lines)) < 150
    assert lines[0].endswith("1 is oslo, 2 is rome, 3 is phone1, 4 is phone2, 5 is phone3")
    columns = {found[0]: found.start() for found in re.finditer(r"\d+", lines[1])}
    assert list(columns) == [str(number) for number in range(1, 33)]
    first = {number: lines[2].ljust(150)[start] for number, start in columns.items()}
    assert lines[2].split()[:2] == ["6", "dev01"]
    assert (first["1"], first["3"], first["6"], first["7"], first["9"]) == ("D", "x", " ", "x", "D")
    assert lines[4].split() == ["8", "dev03", *["x"] * 31], "it was not reached"
