# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module relay_info makes of the answers of the command peer-relay."""

import json

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.relay import RelayError, query

STATUS = {"healthy": True, "name": "relay", "version": "1.0.0", "devices": [], "pairs": [], "drops": {}}
FINDING = {"subject": "laptop", "problem": "silent", "cure": "switch it on"}


class Command:
    """Stands for the command: answers as told, and keeps the words it was called with."""

    def __init__(self, status=STATUS, doctor=None, code=0, doctor_code=0, err=""):
        self.answers = {"status": (code, status), "doctor": (doctor_code, doctor or {"findings": []})}
        self.err = err
        self.calls = []

    def __call__(self, *words):
        self.calls.append(words)
        code, answer = self.answers[words[0]]
        return code, answer if isinstance(answer, str) else json.dumps(answer), self.err


def test_asks_for_status_and_findings():
    command = Command(doctor={"findings": [FINDING]}, doctor_code=1)
    assert query(command) == (STATUS, [FINDING])
    assert command.calls == [("status", "--json"), ("doctor", "--json")]


def test_unhealthy_relay_is_an_answer():
    status = STATUS | {"healthy": False}
    assert query(Command(status=status, code=1))[0] == status


@pytest.mark.parametrize(
    ("code", "out", "err", "said"),
    [
        (3, "", "peer-relay: /run/x: is the service running?\n", "is the service running?"),
        (2, "", "peer-relay: relay.toml: listen_port = 0", "listen_port = 0"),
        (127, "", "", "exit code 127"),
        (139, "dumped", "", "dumped"),
    ],
)
def test_failure_says_why(code, out, err, said):
    with pytest.raises(RelayError, match="peer-relay status: ") as error:
        query(Command(status=out, code=code, err=err))
    assert said in str(error.value)


@pytest.mark.parametrize("out", ["", "fine", "{", "[" * 50])
def test_nonsense_is_refused(out):
    with pytest.raises(RelayError, match="instead of JSON"):
        query(Command(status=out))


@pytest.mark.parametrize("out", ["[]", "5", "null", '"text"'])
def test_answer_of_another_shape(out):
    with pytest.raises(RelayError, match="instead of an object"):
        query(Command(status=out))


@pytest.mark.parametrize("key", list(STATUS))
def test_each_missing_or_ill_typed_key_is_named(key):
    for status in ({name: value for name, value in STATUS.items() if name != key}, STATUS | {key: 5}):
        with pytest.raises(RelayError, match=f"{key} is .* of one version"):
            query(Command(status=status))


def test_findings_of_another_shape():
    with pytest.raises(RelayError, match="findings is 5 instead of a list"):
        query(Command(doctor={"findings": 5}))
