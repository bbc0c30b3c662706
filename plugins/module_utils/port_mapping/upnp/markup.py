# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XML from a stranger: small, shallow and without a document type, or not at all.

Entities, and with them every bomb made of them, need a document type; the formats of UPnP have none. Namespaces are
dropped: routers differ in their prefixes, some never declare them, and the local names are unambiguous. It is UTF-8, as
UPnP has it, whatever it declares; what is none is replaced: all that matters, names and numbers, is ASCII in each
encoding that is taken.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..mapping import Malformed
from .oddities import note

_MAX_BYTES = 256 * 1024  # the longest descriptions of real routers have 30 KiB
_MAX_DEPTH = 32  # real ones have 12
_MAX_ELEMENTS = 10_000  # real ones have 600
# What people call their mappings is passed on as it is by some programs (upnpc) and routers (miniupnpd).
_BARE_AMPERSAND = re.compile(r"&(?!(?:amp|lt|gt|quot|apos|#[0-9]{1,7}|#x[0-9A-Fa-f]{1,6});)")
_REFERENCE = re.compile(r"&#(?:([0-9]{1,7})|x([0-9A-Fa-f]{1,6}));")
_ENCODING = re.compile(rb"<\?xml\b[^>]{1,60}?\bencoding\s*=\s*[\"']([\w.-]{1,40})")
_ASCII = "\t\n\r" + "".join(map(chr, range(32, 127)))
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_REPLACEMENT = "\ufffd"


class _Reader:
    """Builds the tree from the parser's events."""

    def __init__(self) -> None:
        self._builder = TreeBuilder()
        self._depth = 0
        self._elements = 0

    def read(self, data: bytes) -> Element:
        parser = expat.ParserCreate("utf-8")
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
        self._elements += 1
        if self._depth > _MAX_DEPTH:
            raise Malformed(f"the XML is nested more than {_MAX_DEPTH} deep")
        if self._elements > _MAX_ELEMENTS:
            raise Malformed(f"the XML has more than {_MAX_ELEMENTS} elements")
        self._builder.start(name.rpartition(":")[2], {})

    def _end(self, name: str) -> None:
        self._depth -= 1
        self._builder.end(name.rpartition(":")[2])


def parse(data: bytes) -> Element:
    """Return the root of the document; tags are local names, attributes are left out."""
    if len(data) > _MAX_BYTES:
        raise Malformed(f"the XML has {len(data)} bytes, more than {_MAX_BYTES}")
    try:
        return _Reader().read(_characters(data).encode())
    except expat.ExpatError as error:
        raise Malformed(f"what should be XML is not: {error}") from error


def _characters(data: bytes) -> str:
    """Return the text with a replacement for whatever no XML document can hold."""
    data = data.strip(b"\0\t\r\n ")  # some routers send the end of their C string along
    declared = _ENCODING.match(data)
    if declared and not _extends_ascii(declared[1].decode("latin-1")):
        raise Malformed(f"what should be XML is not: it is in {declared[1]!r}, which is no UTF-8")
    words = data.decode("utf-8-sig", "replace")
    clean = _NOT_XML.sub(_REPLACEMENT, words)
    clean = _BARE_AMPERSAND.sub("&amp;", _REFERENCE.sub(_referred, clean))
    if _REPLACEMENT in clean:
        note("sends text that is not UTF-8")
    return clean


def _referred(match: re.Match[str]) -> str:
    number = int(match[1]) if match[1] else int(match[2], 16)
    return match[0] if number <= 0x10FFFF and not _NOT_XML.match(chr(number)) else _REPLACEMENT


def _extends_ascii(encoding: str) -> bool:
    """Tell whether markup cannot hide in it, as it can in UTF-7 and UTF-16."""
    try:
        return _ASCII.encode(encoding) == _ASCII.encode("ascii")
    except (LookupError, UnicodeError):
        return False


def text(element: Element, name: str) -> str:
    """Return the text of the child `name`; "" when there is none."""
    return (element.findtext(name) or "").strip()
