# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the agent with rights over WireGuard, and with nobody to talk to but the agent.

Whoever may set an endpoint may also read the interface's private key: the kernel tells it to all that have
CAP_NET_ADMIN, wireguard-go to all that reach its socket. So what speaks with the world has neither, and asks this one:

    show                     -> {"port": 51820, "mark": 0, "peers": [[key, preshared or not, endpoint, ...], ...]}
    endpoint KEY HOST:PORT   -> {}
    renew KEY HOST:PORT      -> {}
    bind                     -> {}

or {"error": text}, with "unchangeable" for Unchangeable; each a line. No key but public ones leaves it, and it does
nothing else: to one interface, and to [Peer]s that are there.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from typing import Any

from peer_agent.endpoints import Endpoint
from peer_agent.wireguard.client import WireGuard
from peer_agent.wireguard.interface import Client, Interface, Peer, Unchangeable, WireGuardError

log = logging.getLogger("peer_agent")

_MAX_QUESTION = 256
_MAX_ANSWER = 16 << 20
_TIMEOUT = 8.0  # seconds: more than `wg` gets; twice of it is less than the watchdog gives the agent


class _Lines:
    """Lines over a stream; raises OSError for one that is too long or cut off."""

    def __init__(self, stream: socket.socket, longest: int):
        self._stream, self._longest = stream, longest
        self._rest = b""

    def read(self) -> bytes:
        """Return the next line; an empty one at the end."""
        while b"\n" not in self._rest:
            part = self._stream.recv(1 << 16)
            if not part and not self._rest:
                return b""
            self._rest += part
            if not part or len(self._rest) > self._longest:
                raise OSError("a line that does not end")
        line, _, self._rest = self._rest.partition(b"\n")
        return line


class Helper:
    """Answers the agent."""

    def __init__(self, wireguard: Client):
        self._wireguard = wireguard
        self._lock = threading.Lock()
        self._keys: frozenset[str] = frozenset()  # of the [Peer]s, when last looked

    def serve(self, listener: socket.socket) -> None:
        """Answer whoever connects, for ever: an agent that starts anew need not wait for the end of the one before."""
        while True:
            connection, _ = listener.accept()
            try:
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()
            except RuntimeError as error:  # the unit bounds the threads
                connection.close()
                log.warning("one connection too many: %s", error)

    def _attend(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.converse(connection)
            except OSError as error:
                log.info("the agent's connection has ended: %s", error)

    def converse(self, connection: socket.socket) -> None:
        lines = _Lines(connection, _MAX_QUESTION)
        while question := lines.read():
            connection.sendall(json.dumps(self.answer(question), separators=(",", ":")).encode() + b"\n")

    def answer(self, question: bytes) -> dict[str, Any]:
        try:
            with self._lock:
                return self._do(*question.decode("ascii").split(" "))
        except Unchangeable as error:
            return {"error": str(error), "unchangeable": True}
        except (WireGuardError, OSError) as error:
            return {"error": str(error)}
        except (ValueError, TypeError):
            return {"error": f"no question that is known: {question!a:.80}"}

    def _do(self, verb: str, *words: str) -> dict[str, Any]:
        if verb == "show" and not words:
            running = self._show()
            return {"port": running.port, "mark": running.mark, "peers": [*running.peers.values()]}
        if verb == "bind" and not words:
            self._wireguard.bind_again(self._show().port)
        elif verb in ("endpoint", "renew"):
            key, endpoint = words
            if key not in self._keys and key not in self._show().peers:
                raise WireGuardError("no [Peer] has this key")
            do = self._wireguard.set_endpoint if verb == "endpoint" else self._wireguard.renew
            do(key, Endpoint.parse(endpoint))
        else:
            raise ValueError(verb)
        return {}

    def _show(self) -> Interface:
        running = self._wireguard.show()
        self._keys = frozenset(running.peers)
        return running


class Remote:
    """WireGuard, by way of the helper: what `WireGuard` does."""

    problem = staticmethod(WireGuard.problem)

    def __init__(self, name: str, path: str):
        self.name = name
        self._path = path
        self._connection: socket.socket | None = None

    def show(self) -> Interface:
        """Return the interface; raise WireGuardError when it is not there."""
        answer = self._ask("show")
        try:
            peers = [Peer(*peer) for peer in answer["peers"]]
            peers = [peer._replace(endpoint=peer.endpoint and Endpoint.of(*peer.endpoint)) for peer in peers]
            return Interface(answer["port"], answer["mark"], {peer.public_key: peer for peer in peers})
        except (KeyError, TypeError, ValueError):
            raise WireGuardError("the helper's answer is not in the form that is known") from None

    def set_endpoint(self, public_key: str, endpoint: Endpoint) -> None:
        self._ask(f"endpoint {public_key} {endpoint}")

    def renew(self, public_key: str, endpoint: Endpoint) -> None:
        self._ask(f"renew {public_key} {endpoint}")

    def bind_again(self, _port: int) -> None:
        self._ask("bind")

    def close(self) -> None:
        if self._connection:
            self._connection.close()
        self._connection = None

    def _ask(self, question: str) -> dict[str, Any]:
        for again in (True, False):  # it may have started anew
            try:
                answer = json.loads(self._exchange(question.encode() + b"\n"))
                break
            except (OSError, ValueError, RecursionError) as error:
                self.close()
                if not again:
                    raise WireGuardError(f"{self._path}: {error}: is peer-agent-wireguard@{self.name} there?") from None
        if not isinstance(answer, dict):
            raise WireGuardError("no answer of the helper")
        if "error" in answer:
            raise (Unchangeable if answer.get("unchangeable") else WireGuardError)(str(answer["error"]))
        return answer

    def _exchange(self, question: bytes) -> bytes:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            connection.settimeout(_TIMEOUT)
            self._connection = connection
            connection.connect(self._path)
        self._connection.sendall(question)
        line = _Lines(self._connection, _MAX_ANSWER).read()
        if not line:
            raise ConnectionResetError("the helper has closed the connection")
        return line
