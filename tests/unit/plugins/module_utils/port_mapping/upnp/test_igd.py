# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Descriptions of Internet gateways, and SOAP."""

import re

import pytest
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.mapping import Malformed, Refused
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import errors as upnp_errors
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp import igd, markup
from ansible_collections.homelab.peer_relay.plugins.module_utils.port_mapping.upnp.http import Url

URN = "urn:schemas-upnp-org:service:"


def device(*services, base="", prefix=""):
    """A description: three devices inside each other, as the specification has it."""
    listed = "".join(
        f"<service><serviceType>{kind}</serviceType><serviceId>urn:upnp-org:serviceId:x</serviceId>"
        f"<SCPDURL>/x.xml</SCPDURL><controlURL>{control}</controlURL><eventSubURL>/e</eventSubURL></service>"
        for kind, control in services
    )
    text = (
        '<?xml version="1.0"?>\n<root xmlns="urn:schemas-upnp-org:device-1-0">'
        f"<specVersion><major>1</major><minor>0</minor></specVersion>{base}"
        "<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><deviceList>"
        "<device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList>"
        "<device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>"
        f"<serviceList>{listed}</serviceList></device></deviceList></device></deviceList></device></root>"
    )
    return re.sub(r"<(/?)(?=\w)", rf"<\1{prefix}", text).encode()


MINIUPNPD = device(
    (f"{URN}WANIPConnection:2", "/ctl/IPConn"),
    (f"{URN}WANIPv6FirewallControl:1", "/ctl/IP6FCtl"),
)
AT = Url("192.168.7.1", 46691, "/rootDesc.xml")
SERVICE = igd.Service(f"{URN}WANIPConnection:1", Url("192.168.7.1", 5000, "/ctl/IPConn"))


def controls(description, kinds=igd.MAPPINGS, at=AT):
    return [(service.kind.removeprefix(URN), str(service.control)) for service in igd.services(description, at, kinds)]


def test_services_of_miniupnpd():
    assert controls(MINIUPNPD) == [("WANIPConnection:2", "http://192.168.7.1:46691/ctl/IPConn")]
    assert controls(MINIUPNPD, igd.PINHOLES) == [("WANIPv6FirewallControl:1", "http://192.168.7.1:46691/ctl/IP6FCtl")]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        # A DSL router: the IP connection before the PPP connection, whatever their order.
        (
            device((f"{URN}WANPPPConnection:1", "/ppp"), (f"{URN}WANIPConnection:1", "/ip")),
            [
                ("WANIPConnection:1", "http://192.168.7.1:46691/ip"),
                ("WANPPPConnection:1", "http://192.168.7.1:46691/ppp"),
            ],
        ),
        # FRITZ!Box style: an absolute path, several services of one kind.
        (
            device((f"{URN}WANIPConnection:1", "/igdupnp/control/WANIPConn1"), (f"{URN}WANIPConnection:1", "/b")),
            [
                ("WANIPConnection:1", "http://192.168.7.1:46691/igdupnp/control/WANIPConn1"),
                ("WANIPConnection:1", "http://192.168.7.1:46691/b"),
            ],
        ),
        # UPnP 1.0: relative to URLBase, with another port, or without it.
        (
            device((f"{URN}WANIPConnection:1", "ctl?a=1"), base="<URLBase>http://192.168.7.1:2828/upnp/</URLBase>"),
            [("WANIPConnection:1", "http://192.168.7.1:2828/upnp/ctl?a=1")],
        ),
        (
            device((f"{URN}WANIPConnection:1", "/ctl"), base="<URLBase>http://192.168.7.1</URLBase>"),
            [("WANIPConnection:1", "http://192.168.7.1:80/ctl")],
        ),
        (
            device((f"{URN}WANIPConnection:1", " ctl\n"), base="<URLBase></URLBase>"),
            [("WANIPConnection:1", "http://192.168.7.1:46691/ctl")],
        ),
        (
            device((f"{URN}WANIPConnection:1", "http://192.168.7.1:49000/up/ctl")),
            [("WANIPConnection:1", "http://192.168.7.1:49000/up/ctl")],
        ),
        (
            device((f"{URN}WANIPConnection:1", "/ctl"), prefix="d:"),
            [("WANIPConnection:1", "http://192.168.7.1:46691/ctl")],
        ),
        # Nothing for us.
        (device((f"{URN}Layer3Forwarding:1", "/l3"), ("urn:schemas-microsoft-com:service:OSInfo:1", "/os")), []),
        (device(), []),
        (b"<html><body>Welcome</body></html>", []),
    ],
)
def test_descriptions_of_other_vendors(description, expected):
    assert controls(description) == expected


def test_control_url_is_relative_to_the_description():
    at = Url("192.168.7.1", 80, "/upnp/desc/root.xml")
    assert controls(device((f"{URN}WANIPConnection:1", "ctl")), at=at)[0][1] == "http://192.168.7.1:80/upnp/desc/ctl"


def test_an_ipv6_router_has_several_addresses():
    at = Url("fe80::1%eth0", 5000, "/rootDesc.xml")
    description = device((f"{URN}WANIPv6FirewallControl:1", "http://[2001:db8::1]:5000/ctl"))
    (service,) = igd.services(description, at, igd.PINHOLES)
    assert service.control == Url("fe80::1%eth0", 5000, "/ctl")


@pytest.mark.parametrize(
    "control",
    [
        "http://192.0.2.1/ctl",
        "http://192.168.7.2:46691/ctl",
        "//192.0.2.1/ctl",
        "http://192.168.7.1@192.0.2.1/ctl",
        "http://router.example/ctl",
        "http://0300.0250.07.01/ctl",
        "https://192.168.7.1/ctl",
        "file:///etc/passwd",
        "http://192.168.7.1:99999/ctl",
        "http://192.168.7.1:x/ctl",
        "http://[/ctl",
        "/ctl with space",
        "/ctl\x80",
    ],
)
def test_refuses_to_be_sent_elsewhere(control):
    with pytest.raises(Malformed, match=r"the router 192\.168\.7\.1 "):
        controls(device((f"{URN}WANIPConnection:1", control)))
    with pytest.raises(Malformed):
        controls(device((f"{URN}WANIPConnection:1", control), base="<URLBase>http://192.0.2.1/</URLBase>"))


@pytest.mark.parametrize("control", ["http://[::1]/ctl", "http://127.0.0.1/ctl", "http://169.254.1.1:80/ctl"])
def test_a_service_at_an_address_that_is_nobody_elses_is_the_routers(control):
    assert controls(device((f"{URN}WANIPConnection:1", control))) == [
        ("WANIPConnection:1", "http://192.168.7.1:80/ctl")
    ]


def test_a_service_elsewhere_does_not_spoil_the_other():
    description = device((f"{URN}WANIPConnection:1", "http://192.0.2.1/ctl"), (f"{URN}WANPPPConnection:1", "/ppp"))
    assert controls(description) == [("WANPPPConnection:1", "http://192.168.7.1:46691/ppp")]


def test_a_model_is_one_clean_line():
    named = "<manufacturer>M\x1b[2J</manufacturer><modelName>Box\n</modelName><modelNumber>7</modelNumber>"
    assert igd.model(f"<root><device>{named}</device></root>".encode()) == "M\ufffd[2J Box 7"
    assert igd.model(b"<root/>") == ""
    long = f"<root><device><modelName>{'x' * 5000}</modelName></device></root>"
    assert len(igd.model(long.encode())) == 40


def test_a_thousand_services_are_none_more_than_a_few():
    assert len(controls(device(*[(f"{URN}WANIPConnection:1", "/ctl")] * 1000))) == 16


def test_request():
    headers, body = igd.request(SERVICE, "AddPortMapping", {"NewRemoteHost": "", "NewPortMappingDescription": "a<&b"})
    assert headers["SOAPAction"] == '"urn:schemas-upnp-org:service:WANIPConnection:1#AddPortMapping"'
    assert b'<u:AddPortMapping xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">' in body
    assert b"<NewRemoteHost></NewRemoteHost><NewPortMappingDescription>a&lt;&amp;b</NewPort" in body
    markup.parse(body)


def envelope(inner, prefix="s:"):
    start = f'<{prefix}Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><{prefix}Body>'
    return f"{start}{inner}</{prefix}Body></{prefix}Envelope>".encode()


def fault(code, words="Words", error_prefix=""):
    return envelope(
        f"<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail><{error_prefix}UPnPError>"
        f"<errorCode>{code}</errorCode><errorDescription>{words}</errorDescription></{error_prefix}UPnPError></detail>"
        "</s:Fault>"
    )


@pytest.mark.parametrize("prefix", ["s:", "SOAP-ENV:", ""])
def test_response(prefix):
    inner = '<u:GetXResponse xmlns:u="urn:x"><NewA> 1 </NewA><NewB/><NewC>c</NewC></u:GetXResponse>'
    results = igd.response(SERVICE, "GetX", 200, envelope(inner, prefix))
    assert results == {"NewA": "1", "NewB": "", "NewC": "c"}


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, b"", "what should be XML"),
        (200, b"<html>Login</html>", "without a SOAP body"),
        (200, envelope(""), "with neither results nor an error"),
        (200, envelope("<u:OtherResponse/>"), "with neither results nor an error"),
        (302, envelope("<u:GetXResponse/>"), "HTTP status 302"),
        (404, b"", "HTTP status 404"),
        (500, b"<html>Internal Server Error</html>", "without a SOAP body"),
        (200, b"<!DOCTYPE a []>" + envelope("<u:GetXResponse/>"), "document type"),
    ],
)
def test_answers_that_are_none(status, body, problem):
    with pytest.raises(Malformed, match=problem):
        igd.response(SERVICE, "GetX", status, body)


DAMAGED = fault(718, "Conflict \u00e4").replace(b"</errorDescription>", b"\xff<\x01/errorDescription")


@pytest.mark.parametrize("status", [200, 400, 404, 500])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (DAMAGED, 718),
        (fault(718)[:-40], 718),
        (b"<html>" + fault(718), 718),
        (DAMAGED + fault(718), 718),
        (envelope("<s:Fault><faultstring>No</faultstring></s:Fault>"), 0),
    ],
)
def test_a_refusal_that_can_be_read_is_one(status, body, code):
    with pytest.raises(upnp_errors.Fault) as caught:
        igd.response(SERVICE, "AddPortMapping", status, body)
    assert caught.value.code == code


@pytest.mark.parametrize("body", [DAMAGED + DAMAGED.replace(b"718", b"714"), DAMAGED.replace(b"718", b"7l8")])
def test_a_code_that_cannot_be_read_is_none(body):
    with pytest.raises(Malformed, match="what should be XML"):
        igd.response(SERVICE, "X", 500, body)


@pytest.mark.parametrize("inner", ["", "<u:Response/>", "<AddPortMapping/>"])
def test_an_answer_without_results_needs_no_name(inner):
    assert igd.response(SERVICE, "AddPortMapping", 200, envelope(inner)) == {}
    with pytest.raises(Malformed, match="with neither results nor an error"):
        igd.response(SERVICE, "AddPinhole", 200, envelope(inner))
    with pytest.raises(Malformed, match="with neither results nor an error"):
        igd.response(SERVICE, "AddPortMapping", 500, envelope(inner))


def test_results_under_another_name():
    inner = "<u:getX_Response><NewA>1</NewA></u:getX_Response>"
    assert igd.response(SERVICE, "GetX", 200, envelope(inner)) == {"NewA": "1"}
    with pytest.raises(Malformed, match="with neither results nor an error"):
        igd.response(SERVICE, "GetX", 200, envelope(inner * 2))


@pytest.mark.parametrize("status", [200, 500])
def test_fault(status):
    with pytest.raises(upnp_errors.Fault) as caught:
        igd.response(SERVICE, "AddPortMapping", status, fault(606, "Action not authorized"))
    assert caught.value.code == 606
    assert isinstance(caught.value, Refused)
    words = str(caught.value)
    assert words.startswith(
        "the router 192.168.7.1 refuses AddPortMapping (606 Action not authorized): its rules do not"
    )
    assert "permit independent port sharing" in words


CODES = [402, 501, 606, *range(701, 710), 713, 714, 715, 716, 718, 724, 725, 726, 727, 728, 729, 732]


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_specifications_is_translated(code):
    with pytest.raises(upnp_errors.Fault) as caught:
        igd.response(SERVICE, "X", 500, fault(code, error_prefix="e:"))
    assert caught.value.code == code
    assert "does not say more" not in str(caught.value)


@pytest.mark.parametrize("code", ["", "899", "-1", "x", "9" * 5000, "\u0663"])
def test_codes_of_nobody(code):
    with pytest.raises(upnp_errors.Fault) as caught:
        igd.response(SERVICE, "X", 500, fault(code, "o" * 5000 + "\n"))
    assert "does not say more" in str(caught.value)
    assert len(str(caught.value)) < 400
