# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a stranger's XML is read, and what is refused."""

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping import words
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import markup
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp.oddities import noting

BILLION_LAUGHS = b"""<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<root>&c;</root>"""
OUTSIDE_ENTITY = b"""<!DOCTYPE root [<!ENTITY x SYSTEM "file:///etc/passwd">]><root>&x;</root>"""
OUTSIDE_TYPE = b"""<!DOCTYPE root SYSTEM "http://192.0.2.1/evil.dtd"><root/>"""


@pytest.mark.parametrize(
    "document",
    [
        b"<root><service><name> x </name></service></root>",
        b'<root xmlns="urn:a"><service><name>x</name></service></root>',
        b'<u:root xmlns:u="urn:a"><u:service><u:name>x</u:name></u:service></u:root>',
        b"<u:root><service><v:name>x</v:name></service></u:root>",  # prefixes that are declared nowhere
        b"\r\n<?xml version='1.0'?><root><service><name>x</name></service></root>\r\n\0",
        b"<?xml version='1.0' encoding='iso-8859-1'?><root><!-- \xe4 --><service><name>x</name></service></root>",
    ],
)
def test_local_names_whatever_the_prefixes_and_encoding(document):
    (service,) = markup.parse(document).iter("service")
    assert markup.text(service, "name") == "x"


def test_ampersands_that_nobody_escaped():
    assert markup.parse(b"<a>A&B &amp; &lt; &#65; &nbsp;&</a>").text == "A&B & < A &nbsp;&"


@pytest.mark.parametrize("encoding", ["cp1251", "latin-1", "gb2312", "gb18030", "shift_jis", "utf-8"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0" encoding="{}"?>', "<?xml version='1.0'?>"])
def test_cosmetic_text_in_any_encoding(encoding, declared):
    words = {"cp1251": "Роутер", "latin-1": "Größe", "utf-8": "Größe"}.get(encoding, "路由器")
    document = (declared.format(encoding) + f"<a><b>{words}</b><c>/ctl</c></a>").encode(encoding)
    with noting() as noted:
        root = markup.parse(document)
    assert markup.text(root, "c") == "/ctl"
    assert markup.text(root, "b") == words if encoding == "utf-8" else "\ufffd" in markup.text(root, "b")
    assert noted == (set() if encoding == "utf-8" else {"sends text that is not UTF-8"})


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\0", b"\x1b[2J", b"\xed\xa0\x80", b"&#0;", b"&#x1b;", b"&#xD800;", b"&#9999999;"]
)
def test_what_no_document_can_hold_is_replaced(bad):
    text = markup.parse(b"<a>x" + bad + b"y</a>").text
    assert text[0] == "x" and "\ufffd" in text and text[-1] == "y"
    assert not set(text) & set("\0\x1b")


def test_a_number_of_a_character_that_is_too_long_is_text():
    assert markup.parse(b"<a>&#" + b"9" * 5000 + b";</a>").text.startswith("&#999")


def test_bounded_in_elements():
    with pytest.raises(Malformed, match="more than 10000 elements"):
        markup.parse(b"<a>" + b"<b/>" * 10_000 + b"</a>")


def test_text_that_is_not_there():
    assert markup.text(markup.parse(b"<a><b/></a>"), "b") == ""
    assert markup.text(markup.parse(b"<a><b/></a>"), "c") == ""


@pytest.mark.parametrize("document", [BILLION_LAUGHS, OUTSIDE_ENTITY, OUTSIDE_TYPE])
def test_refuses_a_document_type(document):
    with pytest.raises(Malformed, match="document type"):
        markup.parse(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\0\0",
        b"404 Not Found",
        b"<a>",
        b"<a></b>",
        b"<a/><a/>",
        b"<?xml version='1.0' encoding='no-such'?><a/>",
        b"<?xml version='1.0' encoding='utf-7'?><a/>",
    ],
)
def test_refuses_what_is_not_xml(document):
    with pytest.raises(Malformed, match="what should be XML is not"):
        markup.parse(document)


def test_bounded_in_depth():
    markup.parse(b"<a>" * 32 + b"</a>" * 32)
    with pytest.raises(Malformed, match="nested more than 32 deep"):
        markup.parse(b"<a>" * 33 + b"</a>" * 33)


def test_bounded_in_size():
    with pytest.raises(Malformed, match="more than 262144"):
        markup.parse(b"<a>" + b" " * 262144 + b"</a>")


def test_words_fit_for_a_message():
    assert words.printable(" no\x1b[31m\nway\0 ") == "no [31m way"
    assert words.printable("ä" * 200, 5) == "ääää…"
