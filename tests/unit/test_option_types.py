# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""INI inventories and `-e` give text: every use of an option that is a truth or a number converts it.

Ansible checks such an option against the role's argument specs, and leaves it the text that it was.
"""

import warnings
from pathlib import Path

import jinja2
import jinja2.nodes
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
CONVERSIONS = {"bool": {"bool"}, "int": {"int", "string"}, "float": {"int", "float"}}
EXPRESSIONS = {"when", "that", "until", "failed_when", "changed_when"}
WORDS = {"name", "msg", "fail_msg", "success_msg", "label"}  # for people
NO_MODULES = {"ansible.builtin.set_fact", "ansible.builtin.template", "ansible.builtin.copy"}
ENVIRONMENT = jinja2.Environment(trim_blocks=True, extensions=["jinja2.ext.do"])


def options() -> dict[str, str]:
    """The options of all roles that are truths or numbers, with their types."""
    found = {}
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        for spec in specs["argument_specs"].values():
            found |= {name: o["type"] for name, o in spec["options"].items() if o["type"] in CONVERSIONS}
    return found


OPTIONS = options()


def sources():
    """(where, text, whether it is a module's whole argument or words for people) of everything that is templated."""
    for folder in ("roles/*/tasks", "roles/*/defaults", "roles/*/vars", "playbooks"):
        for path in sorted(ROOT.glob(f"{folder}/**/*.yml")):
            where = str(path.relative_to(ROOT))
            yield from walk(where, yaml.safe_load(path.read_text(encoding="utf-8")), False, False)
    for path in [*sorted(ROOT.glob("roles/*/templates/**/*.j2")), *sorted(ROOT.glob("playbooks/templates/*.j2"))]:
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"), False


def walk(where, value, is_argument, is_expression):
    if isinstance(value, dict):
        for key, item in value.items():
            module = "." in str(key) and key not in NO_MODULES and isinstance(item, dict)
            argument = module or (is_argument and key not in ("vars", "loop"))
            yield from walk(
                f"{where}: {key}", item, argument or key in WORDS, key in EXPRESSIONS or (key == "that" and is_argument)
            )
    elif isinstance(value, list):
        for item in value:
            yield from walk(where, item, is_argument, is_expression)
    elif isinstance(value, str) and (is_expression or "{{" in value or "{%" in value):
        yield where, f"{{{{ {value} }}}}" if is_expression else value, is_argument and not is_expression


def raw_uses(text, is_argument):
    """The options that the text uses as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of patterns with a backslash
        tree = ENVIRONMENT.parse(text)
    whole = tree.body[0].nodes if len(tree.body) == 1 and isinstance(tree.body[0], jinja2.nodes.Output) else []
    found = set()

    def visit(node, converted):
        if isinstance(node, jinja2.nodes.Name) and node.name in OPTIONS and node.name not in converted:
            found.add(node.name)
        for child in node.iter_child_nodes():
            below = set()
            if isinstance(node, jinja2.nodes.Test) and node.name in ("defined", "undefined"):
                below = set(OPTIONS)
            if isinstance(node, jinja2.nodes.Filter) and node.name == "default":
                below = converted
            elif isinstance(node, jinja2.nodes.Filter) and child is node.node:
                below = {name for name, kind in OPTIONS.items() if node.name in CONVERSIONS[kind]}
            visit(child, below)

    # A module converts its arguments itself, where they are nothing but the option, and people read either.
    if is_argument and all(isinstance(node, (jinja2.nodes.Name, jinja2.nodes.TemplateData)) for node in whole):
        return found
    visit(tree, set())
    return found


SOURCES = list(sources())


@pytest.mark.parametrize("file", sorted({where.partition(":")[0] for where, _text, _argument in SOURCES}))
def test_every_use_of_a_truth_or_number_converts_it(file):
    wrong = [
        f"{where}: {name} ({OPTIONS[name]}) in {' '.join(text.split())[:120]}"
        for where, text, is_argument in SOURCES
        if where.partition(":")[0] == file
        for name in sorted(raw_uses(text, is_argument))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "argument", "raw"),
    [
        ("{{ peer_agent }}", False, True),
        ("{{ peer_agent }}", True, False),
        ("{{ peer_agent | bool }}", False, False),
        ("{{ peer_agent | default(true) | bool }}", False, False),
        ("{{ 1 if peer_agent else 2 }}", True, True),
        ("{{ peer_agent is defined }}", False, False),
        ("{% if peer_agent %}{% endif %}", False, True),
        ("{{ [relay_listen_port | int, 1] | max }}", False, False),
        ("{{ relay_listen_port < 1024 }}", False, True),
    ],
)
def test_these_tests_find_them(text, argument, raw):
    assert bool(raw_uses(text, argument)) == raw
