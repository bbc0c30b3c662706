"""Without these, the tests afterwards would prove nothing."""

from pathlib import Path

import pytest
from lab import overlay, ping, run

SNAPSHOT = (Path(__file__).parent.parent / "files" / "snapshot").read_text()


def test_the_overlay_works():
    ping("laptop", overlay("home", 4))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("relay", ["/etc/peer-relay/private.key", "peer-relay:", "peer-relay.service", ":40000", "homelab.peer_relay"]),
        ("relay", ["/man/man1/peer-relay.1", "/bash-completion/completions/peer-relay"]),
        ("laptop", ["/etc/wireguard/pr0.key", "wg-quick@pr0.service", "interface pr0", "peer-agent@pr0.service"]),
        ("laptop", ["/man/man1/peer-relay.1", "/bash-completion/completions/peer-relay"]),
        ("home", ["/etc/wireguard/pr0.key", "wg-quick@pr0.service", "interface pr0", "masquerade"]),
    ],
)
def test_the_picture_shows_it(name, left):
    picture = run(name, SNAPSHOT)
    assert [what for what in left if what not in picture] == []
