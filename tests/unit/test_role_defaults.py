# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No tool compares a role's defaults with its argument specs, so this does."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def load(role: str, file: str):
    return yaml.safe_load((ROOT / "roles" / role / file).read_text(encoding="utf-8"))


def options_of(role: str) -> dict:
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


def is_computed(value) -> bool:
    return "{{" in str(value)


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_an_option(role):
    assert not set(load(role, "defaults/main.yml")) - set(options_of(role))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_agree_with_the_specs(role):
    fixed = {name: value for name, value in load(role, "defaults/main.yml").items() if not is_computed(value)}
    specified = {name: option.get("default") for name, option in options_of(role).items()}
    assert fixed == {name: specified[name] for name in fixed}


@pytest.mark.parametrize("role", ROLES)
def test_a_specified_default_is_in_force(role):
    defaults = load(role, "defaults/main.yml")
    specified = {name: option["default"] for name, option in options_of(role).items() if "default" in option}
    assert specified == {name: defaults.get(name) for name in specified}


@pytest.mark.parametrize("role", ROLES)
def test_a_computed_default_is_described(role):
    options = options_of(role)
    for name, value in load(role, "defaults/main.yml").items():
        if is_computed(value):
            assert "efault" in str(options[name]["description"]), f"{name}: say in its description what the default is"


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_roles_prefix(role):
    internal = load(role, "vars/main.yml") if (ROOT / "roles" / role / "vars/main.yml").exists() else {}
    assert all(name.startswith(f"{role}_") for name in options_of(role))
    assert all(name.startswith(f"__{role}_") for name in internal)
