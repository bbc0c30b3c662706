# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plugins say of themselves is whole, and their examples are right."""

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

PLUGINS = Path(__file__).resolve().parents[3] / "plugins"
COLLECTION = "homelab.peer_relay."
KINDS = {"modules": "module", "filter": "filter", "lookup": "lookup", "test": "test"}
FILES = [path for folder in KINDS for path in sorted((PLUGINS / folder).glob("*.py"))]
# An example that is a value of variables, with what comes out of it.
SHOWN = re.compile(r"^\w+: (.*?)^# => ([^\n]+)$", re.MULTILINE | re.DOTALL)
of_each = pytest.mark.parametrize("file", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")


@functools.cache
def strings(file: Path) -> dict[str, str]:
    """The documentation's strings of a plugin."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    }


def fragments(names: str | list[str]) -> Iterator[dict[str, Any]]:
    for name in [names] if isinstance(names, str) else names:
        text = (PLUGINS / f"doc_fragments/{name.removeprefix(COLLECTION)}.py").read_text(encoding="utf-8")
        yield yaml.safe_load(text.partition('DOCUMENTATION = r"""')[2].partition('"""')[0])


def options(file: Path) -> dict[str, Any]:
    """A plugin's options, those of its fragments included."""
    documentation = yaml.safe_load(strings(file)["DOCUMENTATION"])
    found = documentation.get("options") or {}
    for fragment in fragments(documentation.get("extends_documentation_fragment", [])):
        found = fragment.get("options", {}) | found
    return found


def without_sample(returned: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """What a page would show no value of: a sample of the whole serves its parts."""
    for name, value in returned.items():
        if "sample" in value:
            continue
        if "contains" in value:
            yield from without_sample(value["contains"], f"{prefix}{name}.")
        else:
            yield prefix + name


@of_each
def test_each_returned_value_has_a_sample(file):
    assert not list(without_sample(yaml.safe_load(strings(file)["RETURN"])))


@of_each
def test_each_plugin_says_what_to_see_as_well(file):
    entries = yaml.safe_load(strings(file)["DOCUMENTATION"])["seealso"]
    own = f"{COLLECTION}{file.stem}"
    assert own not in [entry.get("module", entry.get("plugin")) for entry in entries]


def tasks(examples: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for task in yaml.safe_load(examples):
        for name, arguments in task.items():
            if name.startswith(COLLECTION):
                yield name.removeprefix(COLLECTION), arguments or {}


def misfits(arguments: Any, specs: dict[str, Any]) -> Iterator[str]:
    """What a module would refuse, as far as it is no template."""
    if isinstance(arguments, list):
        for entry in arguments:
            yield from misfits(entry, specs)
    elif isinstance(arguments, dict):
        yield from (f"{name} is unknown" for name in arguments.keys() - specs.keys())
        yield from (f"{name} is missing" for name in specs if specs[name].get("required") and name not in arguments)
        for name in arguments.keys() & specs.keys():
            if "choices" in specs[name]:
                given = arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
                yield from (f"{name} is {value}" for value in given if value not in specs[name]["choices"])
            if "suboptions" in specs[name]:
                yield from misfits(arguments[name], specs[name]["suboptions"])


@pytest.mark.parametrize("file", [path for path in FILES if path.parent.name in ("modules", "lookup")], ids=str)
def test_examples_of_modules_are_two_or_more_and_fit(file):
    examples = list(tasks(strings(file)["EXAMPLES"]))
    assert len(examples) > 1 or not options(file)
    for name, arguments in examples:
        assert not list(misfits(arguments, options(PLUGINS / f"modules/{name}.py"))), (name, arguments)


def environment() -> jinja2.Environment:
    made = jinja2.Environment(autoescape=False)
    for file in PLUGINS.glob("filter/*.py"):
        module = importlib.import_module(f"ansible_collections.{COLLECTION}plugins.filter.{file.stem}")
        for name, function in module.FilterModule().filters().items():
            made.filters[COLLECTION + name] = function
    return made


def came_out(text: str) -> Any:
    """What Ansible makes of a template: the expression's own value where it is nothing else."""
    whole = re.fullmatch(r"\{\{((?:(?!\}\}).)*)\}\}", text, re.DOTALL)
    return environment().compile_expression(whole[1])() if whole else environment().from_string(text).render()


def test_values_that_examples_show_come_out():
    shown = [(path.stem, *found) for path in FILES for found in SHOWN.findall(strings(path)["EXAMPLES"])]
    assert len(shown) >= 10
    for name, text, value in shown:
        if "hostvars" not in text:
            assert came_out(yaml.safe_load(text)) == yaml.safe_load(value), name
