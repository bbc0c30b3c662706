# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML from a stranger: small, shallow and without a document type, or not at all.

Entities, and with them every bomb made of them, need a document type; the formats of UPnP have none. Namespaces are
dropped: routers differ in their prefixes, some never declare them, and the local names are unambiguous.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .mapping import Malformed

_MOST_BYTES = 256 * 1024  # the longest descriptions of real routers have 30 KiB
_MOST_DEPTH = 32  # real ones have 12
# What people call their mappings is passed on as it is by some programs (upnpc) and routers (miniupnpd).
_BARE_AMPERSAND = re.compile(rb"&(?!(?:amp|lt|gt|quot|apos|#\w{1,8});)")


class _Reader:
    """Builds the tree from the parser's events."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._depth = 0

    def read(self, data: bytes) -> Element:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._builder.data
        parser.Parse(data, True)
        return self._builder.close()

    def _doctype(self, *_: object) -> None:
        raise Malformed("the XML declares a document type, which no router needs")

    def _start(self, name: str, _attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise Malformed(f"the XML is nested more than {_MOST_DEPTH} deep")
        self._builder.start(name.rpartition(":")[2], {})

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._builder.end(name.rpartition(":")[2])


def parse(data: bytes) -> Element:
    """Return the root of the document; tags are local names, attributes are left out."""
    if len(data) > _MOST_BYTES:
        raise Malformed(f"the XML has {len(data)} bytes, more than {_MOST_BYTES}")
    data = _BARE_AMPERSAND.sub(b"&amp;", data.strip(b"\0\t\r\n "))  # some routers send the end of their C string along
    try:
        return _Reader().read(data)
    except (expat.ExpatError, LookupError, ValueError) as error:  # the latter two: an unknown character encoding
        raise Malformed(f"what should be XML is not: {error}") from error


def text(element: Element, name: str) -> str:
    """Return the text of the child `name`; "" when there is none."""
    return (element.findtext(name) or "").strip()
