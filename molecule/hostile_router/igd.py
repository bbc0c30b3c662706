"""A router with UPnP whose external address is what a file says; it maps whatever it is asked for."""

import http.server
import re
import socket
import struct
import threading
from pathlib import Path

INSIDE = "192.168.1.1"
ADDRESS = Path("/run/igd-address")  # as it is put into the answer
GROUP = ("239.255.255.250", 1900)
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"
DESCRIPTION = f"""<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><modelName>Lab</modelName><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType><deviceList><device>
<deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType><serviceList><service>
<serviceType>{SERVICE}</serviceType><controlURL>/control</controlURL></service></serviceList></device></deviceList>
</device></deviceList></device></root>"""
ANSWERS = {
    "GetExternalIPAddress": lambda: f"<NewExternalIPAddress>{ADDRESS.read_text()}</NewExternalIPAddress>",
    "GetStatusInfo": lambda: (
        "<NewConnectionStatus>Connected</NewConnectionStatus>"
        "<NewLastConnectionError>ERROR_NONE</NewLastConnectionError><NewUptime>4711</NewUptime>"
    ),
    "GetSpecificPortMappingEntry": lambda: "",
    "AddPortMapping": lambda: "",
    "AddAnyPortMapping": lambda: "<NewReservedPort>40000</NewReservedPort>",
    "DeletePortMapping": lambda: "",
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, DESCRIPTION)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        action = re.search(r'#(\w+)"?$', self.headers["soapaction"])[1]
        if action == "GetSpecificPortMappingEntry" or action not in ANSWERS:
            code = 714 if action in ANSWERS else 401
            fault = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode></UPnPError>'
            self._soap(500, f"<s:Fault><faultcode>s:Client</faultcode><detail>{fault}</detail></s:Fault>")
            return
        self._soap(200, f'<u:{action}Response xmlns:u="{SERVICE}">{ANSWERS[action]()}</u:{action}Response>')

    def _soap(self, status: int, body: str) -> None:
        envelope = 'xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
        self._answer(status, f'<?xml version="1.0"?><s:Envelope {envelope}><s:Body>{body}</s:Body></s:Envelope>')

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


def search() -> None:
    """Answer those who look for a router."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ear.bind(("", GROUP[1]))
    ear.setsockopt(
        socket.IPPROTO_IP,
        socket.IP_ADD_MEMBERSHIP,
        struct.pack("4s4s", socket.inet_aton(GROUP[0]), socket.inet_aton(INSIDE)),
    )
    while True:
        data, source = ear.recvfrom(2048)
        wanted = re.search(rb"(?i)^ST: *(\S+)", data, re.MULTILINE)
        if data.startswith(b"M-SEARCH") and wanted:
            ear.sendto(
                b"HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=1800\r\nEXT:\r\nSERVER: Lab/1 UPnP/1.1 Lab/1\r\n"
                b"LOCATION: http://%s:5000/root.xml\r\nST: %s\r\nUSN: uuid:1::%s\r\n\r\n"
                % (INSIDE.encode(), wanted[1], wanted[1]),
                source,
            )


threading.Thread(target=search, daemon=True).start()
http.server.ThreadingHTTPServer((INSIDE, 5000), Handler).serve_forever()
