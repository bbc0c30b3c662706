# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documents link to is there, and what they have people copy works."""

import re
from pathlib import Path

import pytest
from peer_relay import settings

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".", "docs", "examples", "examples/*", "molecule/shared", "roles/*")
DOCUMENTS = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md") if path.name != "CHANGELOG.md")


def anchors(document: Path) -> set[str]:
    """The names of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document):
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    for link in links:
        if ":" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link}"


def test_each_document_is_linked_from_the_readme():
    """Or from one that the README links."""
    reached, new = set(), {ROOT / "README.md"}
    while new:
        reached |= new
        links = {
            (document.parent / link.partition("#")[0]).resolve()
            for document in new
            for link in re.findall(r"\]\(([^)\s:]+)\)", document.read_text(encoding="utf-8"))
        }
        new = {link for link in links if link.suffix == ".md"} - reached
    assert not set(DOCUMENTS) - reached


@pytest.mark.parametrize("document", [*DOCUMENTS, *ROOT.glob("examples/ci/*.yml")], ids=lambda path: path.name)
def test_every_playbook_that_is_named_is_there(document):
    commands = re.findall(r"ansible-playbook .*homelab\.peer_relay\.(\w+)", document.read_text(encoding="utf-8"))
    assert all((ROOT / f"playbooks/{name}.yml").exists() for name in commands), commands


def test_the_readme_is_a_page():
    assert len((ROOT / "README.md").read_bytes()) < 10_000


def test_the_settings_that_the_relays_readme_shows_are_accepted(tmp_path):
    text = (ROOT / "roles/relay/README.md").read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    file = tmp_path / "relay.toml"
    file.write_text(text, encoding="utf-8")
    assert [device.name for device in settings.load(file).devices] == ["laptop"]
