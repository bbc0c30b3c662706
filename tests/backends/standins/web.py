# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An HTTPS server, and the proxy by which clients with fixed addresses come to it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

NAMES = [
    "localhost",
    "api.hetzner.cloud",
    "compute.googleapis.com",
    "login.microsoftonline.com",
    "management.azure.com",
    "oauth2.googleapis.com",
]


class Authority:
    """A certificate authority, and one certificate of its for every name in use."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "ca.pem"
        self.chain = folder / "server.pem"
        self.key = folder / "server.key"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        names = ",".join(["IP:127.0.0.1", *(f"DNS:{name}" for name in NAMES)])
        self._openssl(*key, "-x509", "-subj", "/CN=ca", "-keyout", folder / "ca.key", "-out", self.certificate)
        self._openssl(
            *(*key, "-x509", "-CA", self.certificate, "-CAkey", folder / "ca.key", "-subj", "/CN=server"),
            *("-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", self.key, "-out", self.chain),
        )

    @staticmethod
    def _openssl(*arguments: object) -> None:
        subprocess.run(["openssl", "req", *map(str, arguments)], check=True, capture_output=True)

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


@dataclass(frozen=True)
class Request:
    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes

    def json(self) -> dict:
        return json.loads(self.body) if self.body else {}

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))

    def basic(self) -> str:
        """The user and password of basic authentication."""
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return base64.b64decode(value).decode() if kind == "Basic" else ""

    def bearer(self) -> str:
        kind, _, value = self.headers.get("authorization", "").partition(" ")
        return value if kind == "Bearer" else ""


@dataclass(frozen=True)
class Answer:
    status: int
    content: object = b""  # text as it is, or what JSON can say

    def body(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()


class Web:
    """Serves one application: a function from a request to an answer."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.application: Callable[[Request], Answer] = lambda request: Answer(404, {"error": request.path})
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Web:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        """Lead a program's requests here, and let it trust what answers."""
        certificate = str(self.authority.certificate)
        proxy = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "http_proxy": proxy,
            "HTTPS_PROXY": proxy,
            "NO_PROXY": "127.0.0.1",
            "REQUESTS_CA_BUNDLE": certificate,
            "SSL_CERT_FILE": certificate,
        }

    def answer(self, request: Request) -> Answer:
        with self._lock:
            return self.application(request)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                # A client of the proxy speaks plain text first, every other TLS at once.
                if self.request.recv(1, socket.MSG_PEEK) == b"\x16":  # how a TLS handshake begins
                    self._encrypt()
                super().setup()

            def do_CONNECT(self) -> None:
                self.send_response(200)
                self.end_headers()
                super().finish()
                self._encrypt()
                super().setup()
                self.close_connection = False  # whatever HTTP/1.0, which CONNECT comes in, says

            def _encrypt(self) -> None:
                self.request = web.authority.context().wrap_socket(self.request, server_side=True)

            def finish(self) -> None:
                super().finish()
                self.request.close()  # the server knows the plain socket alone

            def _serve(self) -> None:
                address = urlsplit(self.path)
                answer = web.answer(
                    Request(
                        host=self.headers["Host"].split(":")[0],
                        method=self.command,
                        path=address.path,
                        query=dict(parse_qsl(address.query, keep_blank_values=True)),
                        headers={name.lower(): value for name, value in self.headers.items()},
                        body=self.rfile.read(int(self.headers.get("Content-Length", 0))),
                    )
                )
                body = answer.body()
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
