# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings file: what is fine, and that every error names the file, the key, the value and the fix."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from peer_common import toml_table
from peer_common.toml_table import SettingsError
from peer_relay import settings

FILE = Path("/etc/peer-relay/relay.toml")


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


RELAY = {
    "listen_port": "40000",
    "networks": '["10.77.0.0/16", "fd77::/64"]',
    "addresses": '["10.77.0.1", "fd77::1"]',
}
DEVICE = {"name": '"laptop"', "public_key": f'"{key(1)}"', "addresses": '["10.77.0.2"]'}
SECOND = {"name": '"nas"', "public_key": f'"{key(2)}"', "addresses": '["10.77.0.3"]'}


def toml(relay: dict[str, str] | None = None, *devices: dict[str, str], more: str = "") -> str:
    """Return a settings file; a value of "" leaves a key out."""

    def lines(values: dict[str, str]) -> str:
        return "".join(f"{name} = {value}\n" for name, value in values.items() if value)

    text = "[relay]\n" + lines(RELAY | (relay or {}))
    return text + "".join("[[device]]\n" + lines(device) for device in devices or (DEVICE, SECOND)) + more


@pytest.fixture
def load(tmp_path: Path):
    def load_text(text: str | bytes) -> settings.Settings:
        file = tmp_path / "relay.toml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return settings.load(file)

    return load_text


@pytest.fixture
def check_refusal(load, tmp_path: Path):
    def check(text: str | bytes, *parts: str) -> None:
        """A file of this content is refused, by a message that names the file and says all this."""
        with pytest.raises(SettingsError) as error:
            load(text)
        for part in (str(tmp_path / "relay.toml"), *parts):
            assert part in str(error.value)

    return check


def test_defaults(load) -> None:
    config = load(toml())
    assert config.name == "relay"
    assert config.listen == (("0.0.0.0", 40000), ("::", 40000))
    assert config.private_key_file == Path("/etc/peer-relay/private.key")
    assert config.state_file == Path("/var/lib/peer-relay/state.json")
    assert config.status_socket == Path("/run/peer-relay/status.sock")
    assert config.metrics_listen is None
    assert config.public_endpoint == ""
    assert config.relay_ports == {40000}
    assert config.addresses == {ip_address("10.77.0.1"), ip_address("fd77::1")}
    laptop, nas = config.devices
    assert (laptop.name, laptop.public_key, laptop.rate_limit) == ("laptop", b"\1" * 32, 0)
    assert laptop.groups == nas.groups == {"default"}


def test_everything(load) -> None:
    config = load(
        toml(
            {
                "name": '"home"',
                "listen_addresses": '["192.0.2.1", "fe80::1%2"]',
                "private_key_file": '"/k"',
                "state_file": '"/s"',
                "status_socket": '"/r"',
                "metrics_listen": '"[::1]:9586"',
                "public_endpoint": '"home.example:41000"',
                "relay_ports": "[42000, 42001]",
            },
            DEVICE | {"groups": '["a", "b"]', "rate_limit_mbit": "2.5"},
        )
    )
    assert config.listen == (("192.0.2.1", 40000), ("fe80::1%2", 40000))
    assert config.metrics_listen == ("::1", 9586)
    assert config.public_endpoint == "home.example:41000"
    assert config.relay_ports == {40000, 41000, 42000, 42001}
    assert config.devices[0].groups == {"a", "b"}
    assert config.devices[0].rate_limit == 312_500


def test_no_devices_yet(load) -> None:
    assert load("[relay]\n" + "".join(f"{name} = {value}\n" for name, value in RELAY.items())).devices == ()


# Each with what the message must say: the key, the value, and a word of the fix.
BAD_RELAY = [
    ("listen_port", "", "is missing", "UDP port"),
    ("listen_port", "0", "0", "from 1 to 65535"),
    ("listen_port", "65536", "65536", "from 1 to 65535"),
    ("listen_port", '"40000"', "'40000'", "UDP port"),
    ("listen_port", "true", "True", "UDP port"),
    ("listen_port", "40000.0", "40000.0", "UDP port"),
    ("listen_port", "0x" + "f" * 5000, "thousands of digits", "UDP port"),
    ("listen_addresses", "[]", "[]", "literals"),
    ("listen_addresses", '["example.org"]', "example.org", "literals"),
    ("listen_addresses", '["::", "0::0"]', "0::0", "different"),
    ("listen_addresses", '["fe80::1%eth0"]', "eth0", "literals"),
    ("listen_addresses", "[1]", "1", "literals"),
    ("listen_addresses", "[[]]", "[[]]", "literals"),
    ("networks", '["10.77.0.1/16"]', "10.77.0.1/16", "without host bits"),
    ("networks", "[]", "[]", "networks"),
    ("networks", '"10.77.0.0/16"', "10.77.0.0/16", "a list"),
    ("networks", "", "is missing", "a list"),
    ("addresses", '["10.78.0.1"]', "10.78.0.1", "outside the networks 10.77.0.0/16, fd77::/64"),
    ("addresses", '["10.77.0.1/16"]', "10.77.0.1/16", "a list of overlay addresses"),
    ("addresses", '["fd77::1%1"]', "fd77::1%1", "a list of overlay addresses"),
    ("name", '""', "''", "one word"),
    ("name", '"two words"', "two words", "one word"),
    ("name", '"' + "x" * 65 + '"', "xxx", "at most 64"),
    ("private_key_file", '"private.key"', "private.key", "absolute path"),
    ("state_file", '"/a\\u0000b"', "\\x00", "absolute path"),
    ("status_socket", '"/' + "x" * 107 + '"', "xxx", "at most 107 bytes"),
    ("metrics_listen", '"9586"', "9586", "an address and a port"),
    ("metrics_listen", '"localhost:9586"', "localhost", "an address and a port"),
    ("metrics_listen", '"127.0.0.1:0"', "127.0.0.1:0", "an address and a port"),
    ("relay_ports", "[40000, 0]", "[40000, 0]", "the UDP ports of all relays"),
    ("relay_ports", '["40000"]', "['40000']", "the UDP ports of all relays"),
    ("relay_ports", "[true]", "[True]", "the UDP ports of all relays"),
    ("relay_ports", "40000", "40000", "the UDP ports of all relays"),
    ("public_endpoint", '"192.0.2.1"', "192.0.2.1", "where devices reach the relay"),
    ("public_endpoint", '"2001:db8::1:40000"', "2001:db8::1:40000", "where devices reach the relay"),
    ("public_endpoint", '"home.example:0"', "home.example:0", "where devices reach the relay"),
    ("public_endpoint", '":40000"', ":40000", "where devices reach the relay"),
    ("listen_prot", "40000", "40000", "unknown key"),
]


@pytest.mark.parametrize(("name", "value", "shown", "fix"), BAD_RELAY)
def test_bad_relay_setting_is_named_with_its_cure(check_refusal, name, value, shown, fix) -> None:
    check_refusal(toml({name: value}), "[relay]", name, shown, fix)


BAD_DEVICE = [
    ("name", "", "is missing", "one word"),
    ("name", '"relay"', "relay", "already the name of the relay"),
    ("name", '"nas"', "nas", "already the name of nas"),
    ("name", "5", "5", "one word"),
    ("public_key", "", "is missing", "wg pubkey"),
    ("public_key", '"AAAA"', "AAAA", "32 bytes"),
    ("public_key", f'"{key(0)}"', key(0), "wg pubkey"),
    ("public_key", '"not base64!"', "not base64!", "32 bytes"),
    ("public_key", f'"{key(9)[:-2]}F="', "F=", "32 bytes"),
    ("public_key", f'"{key(2)}"', key(2), "already the key of nas"),
    ("addresses", "", "is missing", "a list"),
    ("addresses", "[]", "[]", "a list"),
    ("addresses", '["192.0.2.1"]', "192.0.2.1", "outside the networks"),
    ("addresses", '["10.77.0.1"]', "10.77.0.1", "already an address of the relay"),
    ("addresses", '["10.77.0.3"]', "10.77.0.3", "already an address of nas"),
    ("groups", "[]", "[]", "at least one"),
    ("groups", '[""]', "['']", "group names"),
    ("groups", '"default"', "default", "a list"),
    ("rate_limit_mbit", "-1", "-1", "Mbit/s"),
    ("expires", "2026-12-31T18:00:00", "2026-12-31T18:00:00", "a time with its zone"),
    ("expires", "2026-12-31", "2026", "a time with its zone"),
    ("expires", '"2026-12-31T18:00:00Z"', "2026-12-31T18:00:00Z", "a time with its zone"),
    ("expires", "1798740000", "1798740000", "a time with its zone"),
    ("rate_limit_mbit", "nan", "nan", "Mbit/s"),
    ("rate_limit_mbit", "inf", "inf", "Mbit/s"),
    ("rate_limit_mbit", "true", "True", "Mbit/s"),
    ("adresses", "[]", "[]", "unknown key"),
]


@pytest.mark.parametrize(("name", "value", "shown", "fix"), BAD_DEVICE)
def test_bad_device_setting_is_named_with_its_cure(check_refusal, name, value, shown, fix) -> None:
    label = {"": "number 2", "5": "number 2"}.get(value, value.strip('"')) if name == "name" else "laptop"
    check_refusal(toml(None, SECOND, DEVICE | {name: value}), f"[[device]] {label}:", name, shown, fix)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"\xff\xfe", ["not TOML"]),
        ("[relay\n", ["not TOML", "line 1"]),
        ("x = " + "1" * 5000, ["not TOML"]),
        ("x = " + "[" * 5000, ["not TOML"]),
        ("", ["relay is missing", "[relay] table"]),
        ("relay = 5", ["relay = 5", "[relay] table"]),
        (toml(more="[extra]\n"), ["extra", "unknown key"]),
        ("device = 3\n" + toml().split("[[device]]")[0], ["device = 3", "[[device]] tables"]),
        ("device = [3]\n" + toml().split("[[device]]")[0], ["[[device]] number 1: is 3", "table"]),
    ],
)
def test_file_of_another_shape(check_refusal, text, parts: list[str]) -> None:
    check_refusal(text, *parts)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere: No such file .*: create it"):
        settings.load(tmp_path / "nowhere")


# --- keys -------------------------------------------------------------------------------------------------------------


@given(st.binary(min_size=32, max_size=32))
def test_keys_of_32_bytes_are_read(value: bytes) -> None:
    assume(any(value))
    assert toml_table.key(base64.b64encode(value).decode()) == value


@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda value: base64.b64encode(value).decode())))
def test_a_key_is_canonical_base64_of_32_bytes_or_refused(text: str) -> None:
    try:
        value = toml_table.key(text)
    except ValueError:
        return
    assert len(value) == 32
    assert base64.b64encode(value).decode() == text


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"", "0 bytes"),
        (b"AAAA\n", "3 bytes"),
        (b"\xff" * 44, "not text"),
        (b"SECRET-but-not-base64-at-all", "not base64"),
    ],
)
def test_bad_private_key_is_named_but_never_shown(tmp_path: Path, content: bytes, fix: str) -> None:
    file = tmp_path / "private.key"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as error:
        settings.read_private_key(file)
    assert str(file) in str(error.value)
    assert fix in str(error.value)
    assert f"remove it and run peer-relay keygen {file}" in str(error.value)
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_missing_private_key_says_how_to_make_one(tmp_path: Path) -> None:
    file = tmp_path / "private.key"
    with pytest.raises(SettingsError, match=f"peer-relay keygen {file} makes one"):
        settings.read_private_key(file)


def test_an_expiry_is_a_moment(load):
    (device,) = load(toml(None, DEVICE | {"expires": "2026-12-31T19:00:00+01:00"})).devices
    assert device.expires == 1_798_740_000.0
    (device,) = load(toml(None, DEVICE)).devices
    assert device.expires == float("inf")


def test_metrics_may_listen_on_an_address_without_brackets_as_up_to_1_2(load):
    assert load(toml({"metrics_listen": '"::1:9586"'})).metrics_listen == ("::1", 9586)
