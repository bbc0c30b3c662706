# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles' options as somebody has set them, against the roles' argument specs: before anything is changed by them.

Ansible compares them too, but only when it comes to the role, and takes more: text for a list, any character in text.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.homelab.peer_relay.plugins.module_utils.written import one_line, shown
from jinja2 import Undefined

from .hosts import fact_fault

_SECRET = re.compile("password|secret|token|opnsense_key")  # of these, no message shows the value
ROLES = Path(__file__).resolve().parents[2] / "roles"


@cache
def specs(role: str) -> dict[str, dict]:
    """The options of a role."""
    text = (ROLES / role / "meta/argument_specs.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["argument_specs"]["main"]["options"]


def faults(variables, roles) -> list[str]:
    """What is wrong with the options that a host's variables set: sentences with the option, its value and the fix."""
    host = str(variables.get("inventory_hostname") or "host")
    reported = fact_fault(host, variables)
    found = [reported] if reported else []
    for role in roles:
        for name, spec in specs(role).items():
            value = _value(variables, name)
            found += [f"{host}: {fault}" for fault in (() if value is None else _faults(name, spec, value))]
    return found


def _value(variables, name: str) -> Any:
    """The variable's value; None where it has none, or none yet, such as one that is made of facts."""
    try:
        value = variables.get(name)
    except AnsibleError:
        return None
    return None if isinstance(value, Undefined) or "{{" in str(value) else value


def _faults(name: str, spec: dict, value: Any) -> list[str]:
    if value is None:
        return []
    if _SECRET.search(name) and isinstance(value, str):
        return [] if value.isprintable() else [f"{name} has characters that are no text"]
    if value in ("", []) and spec.get("default") and spec["type"] in ("str", "list"):
        return [f"{name} is empty: leave it out for its default, {spec['default']!r}"]
    return _KINDS[spec["type"]](name, spec, value)


def _text(name: str, spec: dict, value: Any) -> list[str]:
    if isinstance(value, (dict, list)):
        return [f"{name} is {shown(value)}: give text"]
    if "choices" in spec and value not in spec["choices"]:
        return [f"{name} is {shown(value)}: give one of {', '.join(spec['choices'])}"]
    try:
        one_line(value)
    except ValueError as error:
        return [f"{name} is {error}"]
    return []


def _truth(name: str, _spec: dict, value: Any) -> list[str]:
    try:
        boolean(value)
    except TypeError:
        return [f"{name} is {shown(value)}: give true or false"]
    return []


def _number(name: str, spec: dict, value: Any) -> list[str]:
    kind = {"int": int, "float": float}[spec["type"]]
    try:
        good = not isinstance(value, bool) and (value == "" or kind(str(value)) == float(value))
    except (ValueError, TypeError, OverflowError):
        good = False
    return [] if good else [f"{name} is {shown(value)}: give a {'whole ' if kind is int else ''}number"]


def _list(name: str, spec: dict, value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)):
        return [f"{name} is {shown(value)}: give a list, such as [{spec.get('elements', 'str')}, ...]"]
    element = (
        {"type": spec["elements"], "choices": spec["choices"]} if "choices" in spec else {"type": spec["elements"]}
    )
    element |= {"options": spec["options"]} if "options" in spec else {}
    return [fault for number, item in enumerate(value) for fault in _faults(f"{name}[{number}]", element, item)]


def _table(name: str, spec: dict, value: Any) -> list[str]:
    if not isinstance(value, dict):
        return [f"{name} is {shown(value)}: give a dictionary"]
    unknown = sorted(map(str, set(value) - set(spec["options"])))
    if unknown:
        return [f"{name} has {shown(', '.join(unknown))}: known are {', '.join(spec['options'])}"]
    return [
        fault
        for key, option in spec["options"].items()
        if key in value
        for fault in _faults(f"{name}.{key}", option, value[key])
    ]


_KINDS = {"str": _text, "path": _text, "bool": _truth, "int": _number, "float": _number, "list": _list, "dict": _table}
