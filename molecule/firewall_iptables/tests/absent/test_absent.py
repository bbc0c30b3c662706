from __future__ import annotations

import pytest
from lab import run


@pytest.mark.parametrize(("name", "kind"), [("legacy", "legacy"), ("variant", "nft")])
def test_the_rules_are_as_they_were(name: str, kind: str) -> None:
    save = "; ".join(f"{program}-{kind}-save | grep -v '^#' | sed 's/\\[.*//'" for program in ("iptables", "ip6tables"))
    assert run(name, save) == run(name, "cat /root/somebodys-rules")
