"""Sphinx's settings: the collection as it lies in the repository, beside the pages that antsibull-docs writes.

tests/checks/docs runs it. It needs no network: what belongs to Ansible itself is linked by its address, which is known.
"""

import re

from docutils import nodes

project = "homelab.peer_relay"
project_copyright = "The homelab.peer_relay contributors"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
include_patterns = [
    "*.md",
    "docs/*.md",
    "examples/README.md",
    "examples/*/README.md",
    "molecule/shared/README.md",
    "reference/*.rst",
    "roles/*/README.md",
]
nitpicky = True
default_role = "any"
highlight_language = "YAML+Jinja"
# Links to a heading, as repositories' web pages make them: docs/paths.md#several-relays.
myst_heading_anchors = 4

html_theme = "sphinx_ansible_theme"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_use_index = False

_ANSIBLE = "https://docs.ansible.com/ansible/latest"
# Labels of Ansible's own pages that each page of a module or action may refer to.
_PAGES = {
    "action_plugins": "plugins/action.html",
    "common_return_values": "reference_appendices/common_return_values.html",
}
_PLUGIN = re.compile(r"ansible_collections\.(?P<page>(?:\w+\.){2}\w+_[a-z]+)(?:__(?P<part>[\w/-]+))?")
_PLUGIN_SOURCE = re.compile(r"\]\((?:\.\./)*plugins/(?P<kind>module|filter|lookup|test)s?/(?P<name>\w+)\.py\)")


def _link_pages_of_plugins(app, docname, source):
    """Where the repository's own pages link a plugin's source, link its page."""
    up = "../" * docname.count("/")
    source[0] = _PLUGIN_SOURCE.sub(rf"]({up}reference/\g<name>_\g<kind>.rst)", source[0])


def _link_ansible(app, env, node, content):
    """Link a page of Ansible's, or an option there; None leaves the reference unresolved, which is an error."""
    page = _PAGES.get(node["reftarget"])
    match = _PLUGIN.fullmatch(node["reftarget"])
    if match and not match["page"].startswith(f"{project}."):
        part = f"#{match['part']}" if match["part"] else ""
        page = f"collections/{match['page'].replace('.', '/')}.html{part}"
    return page and nodes.reference("", "", content, internal=False, refuri=f"{_ANSIBLE}/{page}")


def setup(app):
    app.connect("source-read", _link_pages_of_plugins)
    app.connect("missing-reference", _link_ansible)
