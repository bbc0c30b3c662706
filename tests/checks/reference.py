"""Write the README's reference tables from the roles' argument specs: python tests/checks/reference.py [--check]"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
MARKERS = re.compile(r"(<!-- begin reference -->\n).*?(<!-- end reference -->)", re.DOTALL)
# Ansible's markup: B(bold), C(code), V(value), O(option=value), M(module), P(plugin#type), I(italic).
_MARKUP = re.compile(r"\b[BCEIMOPV]+\(([^)]*)\)")


def plain(description: str | list[str]) -> str:
    """Return a description as one line of Markdown."""
    text = description if isinstance(description, str) else " ".join(description)
    return _MARKUP.sub(lambda match: f"`{match[1].partition('#')[0]}`", " ".join(text.split())).replace("|", "\\|")


def kind(option: dict[str, Any]) -> str:
    """Return the type of an option, such as "list of str"."""
    name = option.get("type", "str")
    return f"{name} of {option['elements']}" if "elements" in option else name


def default(option: dict[str, Any]) -> str:
    """Return the default of an option; a computed one is in the description."""
    if option.get("required"):
        return "required"
    return f"`{json.dumps(option['default'])}`" if "default" in option else ""


def rows(options: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a table's row for each option, and for the options inside it."""
    for name, option in options.items():
        choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
        yield f"| `{prefix}{name}` | {kind(option)} | {default(option)} | {plain(option['description'])}{choices} |"
        yield from rows(option.get("options", {}), f"{prefix}{name}[].")


def tables() -> str:
    """Return one section for each role with options."""
    sections = []
    for file in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        spec = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]["main"]
        head = f"### Role `{file.parts[-3]}`\n\n{plain(spec['short_description'])}.\n\n"
        table = "\n".join(
            ["| variable | type | default | meaning |", "|---|---|---|---|", *rows(spec.get("options", {}))]
        )
        sections.append(f"{head}{table}\n\n")
    return "\n" + "".join(sections)


def current(readme: str) -> str:
    """Return the README with tables of today."""
    return MARKERS.sub(lambda match: match[1] + tables() + match[2], readme)


def main(arguments: list[str]) -> int:
    """Rewrite the README, or only tell whether that is needed."""
    readme = README.read_text(encoding="utf-8")
    wanted = current(readme)
    if arguments == ["--check"]:
        if wanted != readme:
            print("README.md: the reference tables are not current: run make reference", file=sys.stderr)
        return int(wanted != readme)
    README.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
