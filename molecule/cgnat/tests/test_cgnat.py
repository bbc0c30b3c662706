"""Where no port can be opened, the playbook site ends with the plain explanation."""

import pytest
from lab import attempt, fails, last_words, run


@pytest.mark.parametrize("address", ["100.64.0.21", "192.168.100.21"], ids=["carrier-grade NAT", "double NAT"])
def test_site_ends_with_the_explanation(address: str) -> None:
    run("router-home", f"ip address flush dev access && ip address add {address}/24 dev access")
    run("router-home", "systemctl restart miniupnpd")
    result = attempt("homelab.peer_relay.site")
    assert result.returncode != 0
    words = last_words(result.stdout)
    assert "no public address" in words
    assert "carrier-grade NAT" in words
    assert "double NAT" in words
    assert "run the relay on a cloud node" in words
    assert fails("relay", "test -e /etc/peer-relay"), "nothing is set up that nobody could reach"
