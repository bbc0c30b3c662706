import pytest
from lab import device, is_bound, overlay, ping, reaches, run, status, wait_for

SIX = ["tower", "cabin"]
DEVICES = [*SIX, "phone"]
PAIRS = [(a, b) for a in DEVICES for b in DEVICES if a != b]


@pytest.mark.parametrize("name", SIX)
def test_the_device_has_no_ipv4_but_the_overlays(name):
    addresses = run(name, "ip -4 -brief address show scope global").splitlines()
    assert [line.split()[0] for line in addresses] == ["pr0"]
    assert not reaches(name, "198.51.100.10")


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [("tower", "[2001:db8:a::20]"), ("cabin", "[2001:db8:ff::30]"), ("phone", "198.51.100.40")],
)
def test_the_relay_sees_the_devices_own_address(name, endpoint):
    wait_for(f"{name} is bound", lambda: is_bound(name))
    assert device(name)["endpoint"].rpartition(":")[0] == endpoint


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_pair_pings(source, destination, version):
    ping(source, overlay(destination, version))


@pytest.mark.parametrize("name", SIX)
def test_a_pair_across_the_two_protocols_is_relayed(name):
    # However long ago it was: the cabin and the phone have a common network, and meet there as soon as they can.
    met = [pair for pair in status()["pairs"] if {pair["from"], pair["to"]} == {name, "phone"}]
    assert any(pair["responses"] for pair in met)
