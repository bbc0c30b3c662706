from __future__ import annotations

import json

import pytest
from lab import run


@pytest.mark.parametrize(
    ("name", "backend", "external", "inner"),
    [
        ("relay", "nftables", ("198.51.100.21", 51820), ("192.168.1.10", 40000)),
        ("relay-b", "openwrt", ("198.51.100.22", 40000), ("192.168.2.10", 40000)),
    ],
)
def test_what_the_role_says(name: str, backend: str, external: tuple[str, int], inner: tuple[str, int]) -> None:
    result = json.loads(run(name, "cat /root/port_forward_result.json"))
    assert (result["backend"], result["nat"], result["hairpin"]) == (backend, "public", True)
    assert (result["external_address"], result["external_port"]) == external
    assert (result["inner_address"], result["inner_port"]) == inner
