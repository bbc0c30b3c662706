from pathlib import Path

import pytest
from lab import fails, play, run

SNAPSHOT = (Path(__file__).parent.parent / "files" / "snapshot").read_text()


@pytest.mark.parametrize("name", ["relay", "laptop", "home"])
def test_the_machine_is_as_it_was(name):
    before = run(name, "cat /run/lab-snapshot").splitlines()
    after = run(name, SNAPSHOT).splitlines()
    assert sorted(set(after) - set(before)) == [], "left behind"
    assert sorted(set(before) - set(after)) == [], "taken away with it"


def test_the_exit_nodes_user_reaches_the_network_without_it():
    assert not fails("laptop", "ping -n -q -c 1 -W 2 198.51.100.10")


def test_removing_again_changes_nothing():
    stats = play("homelab.peer_relay.remove")
    assert {host: result["changed"] for host, result in stats.items()} == dict.fromkeys(["home", "laptop", "relay"], 0)
