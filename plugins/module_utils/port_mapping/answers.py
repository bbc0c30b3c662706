# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A router's refusal in plain words."""

from __future__ import annotations

from typing import NamedTuple

from .mapping import Wanted


class Answer(NamedTuple):
    """What one result code of a protocol means."""

    name: str  # the standard's
    words: str
    fix: str


UNKNOWN = Answer("unknown to its standard", "it gave no reason that its standard knows", "look into the router's log")


def translate(protocol: str, code: int, answers: dict[int, Answer]) -> str:
    answer = answers.get(code, UNKNOWN)
    return f"{answer.words} ({protocol} result {code}, {answer.name}): {answer.fix}"


def conflict(gateway: str, wanted: Wanted) -> str:
    """Neither PCP nor NAT-PMP tells which of the two it is, nor whose the port is."""
    return (
        f"the router {gateway} does not give external port {wanted.external_port}/{wanted.protocol} to this host: "
        "somebody else has it, or the router's rules deny it: choose another external port, or free it on the router"
    )
