"""Write the tables of variables in the roles' READMEs: python tests/checks/reference.py [--check]"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
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


def table(file: Path) -> str:
    """Return the table of a role's options."""
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]["main"]
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|", *rows(spec["options"])]
    return "\n" + "\n".join(lines) + "\n\n"


def wanted(readme: Path, specs: Path) -> str:
    """Return a role's README with the table of today; raise ValueError when it has no place for it."""
    content, places = MARKERS.subn(lambda match: match[1] + table(specs) + match[2], readme.read_text(encoding="utf-8"))
    if places != 1:
        raise ValueError(f"{readme.relative_to(ROOT)}: {places} pairs of the reference's marks: have one")
    return content


def main(arguments: list[str]) -> int:
    """Rewrite the READMEs, or only tell which ones need it."""
    stale = 0
    for specs in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        readme = specs.parents[1] / "README.md"
        content = wanted(readme, specs)
        if content == readme.read_text(encoding="utf-8"):
            continue
        if arguments == ["--check"]:
            print(f"{readme.relative_to(ROOT)}: the table is not current: run make reference", file=sys.stderr)
            stale = 1
        else:
            readme.write_text(content, encoding="utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
