from __future__ import annotations

import pytest
from lab import fails, run
from reach import is_closed


@pytest.mark.parametrize("name", ["relay", "fresh"])
def test_the_port_is_closed_again_and_ssh_is_not(name: str) -> None:
    assert is_closed(name)
    assert fails(name, "firewall-cmd --permanent --info-service=peer-relay")
    run(name, "firewall-cmd --reload")
    assert is_closed(name)


def test_the_rules_are_as_they_were() -> None:
    permanent = run("relay", "firewall-cmd --permanent --list-all-zones")
    assert permanent == run("relay", "cat /root/somebodys-rules")
