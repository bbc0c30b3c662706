"""What worked before the bad changes works again."""

from lab import machine, status


def test_the_relay_runs_with_the_good_settings():
    found = status("relay")
    assert found["healthy"]
    assert {address.rpartition(":")[2] for address in found["listen"]} == {"40000"}
    assert found["devices"] == []


def test_the_good_settings_are_in_place():
    settings = machine("relay").file("/etc/peer-relay/relay.toml")
    assert settings.contains("listen_port = 40000")
    assert settings.group == "peer-relay"
    assert settings.mode == 0o640
