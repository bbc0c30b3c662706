# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A name server that knows what a test tells it."""

from __future__ import annotations

import contextlib
import socket
import threading

import dnslib

from harness.netns import Namespace


class NameServer:
    """Answers on port 53 of a namespace, from its own threads."""

    def __init__(self, host: Namespace, address: str):
        self.addresses: dict[str, str] = {}  # name -> address
        self.asked = 0
        with host.inside():
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((address, 53))
        self._socket.settimeout(0.2)
        self._done = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done:
            with contextlib.suppress(OSError):
                packet, source = self._socket.recvfrom(4096)
                self.asked += 1
                self._socket.sendto(self._answer(dnslib.DNSRecord.parse(packet)), source)

    def _answer(self, question: dnslib.DNSRecord) -> bytes:
        answer = question.reply()
        address = self.addresses.get(str(question.q.qname).rstrip("."))
        if address:
            kind, data = ("AAAA", dnslib.AAAA) if ":" in address else ("A", dnslib.A)
            if question.q.qtype == getattr(dnslib.QTYPE, kind):
                answer.add_answer(dnslib.RR(question.q.qname, question.q.qtype, rdata=data(address), ttl=1))
        else:
            answer.header.rcode = dnslib.RCODE.NXDOMAIN
        return answer.pack()

    def close(self) -> None:
        self._done = True
        self._thread.join(5)
        self._socket.close()
