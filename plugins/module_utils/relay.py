# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Questions to the relay service, through its command."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

# Exit codes of the command: fine, and a problem found (the answer is complete in both cases).
_ANSWERED = (0, 1)
_EXPECTED = {"healthy": bool, "name": str, "version": str, "devices": list, "pairs": list, "drops": dict}


class RelayError(Exception):
    """The relay gave no usable answer; the message says what to do."""


def _ask(run: Callable[..., tuple[int, str, str]], word: str) -> dict[str, Any]:
    code, out, err = run(word, "--json")
    if code not in _ANSWERED:
        reason = err.strip() or out.strip()[:200] or f"exit code {code}"
        raise RelayError(f"peer-relay {word}: {reason}")
    try:
        answer = json.loads(out)
    except ValueError as error:
        raise RelayError(
            f"peer-relay {word}: answered {out[:100]!r} instead of JSON: is it this collection's command?"
        ) from error
    if not isinstance(answer, dict):
        raise RelayError(f"peer-relay {word}: answered {type(answer).__name__} instead of an object")
    return answer


def query(run: Callable[..., tuple[int, str, str]]) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Return (status document, findings of doctor).

    `run` takes the command's words and returns (exit code, standard output, standard error).
    """
    status = _ask(run, "status")
    for key, kind in _EXPECTED.items():
        if not isinstance(status.get(key), kind):
            raise RelayError(
                f"peer-relay status: {key} is {status.get(key)!r} instead of {kind.__name__}: "
                "are the service and its command of one version? Restart peer-relay"
            )
    findings = _ask(run, "doctor").get("findings")
    if not isinstance(findings, list):
        raise RelayError(f"peer-relay doctor: findings is {findings!r} instead of a list")
    return status, findings
