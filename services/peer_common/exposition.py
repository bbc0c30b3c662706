# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prometheus' text form, version 0.0.4: a family of samples as lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

GAUGE, COUNTER = "gauge", "counter"
Sample = tuple[Mapping[str, str], float]  # labels and value
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    """Return the lines of one family; a counter's name ends in _total."""
    yield f"# HELP {name} {text}\n"
    yield f"# TYPE {name} {kind}\n"
    for labels, value in samples:
        inner = ",".join(f'{label}="{shown.translate(_ESCAPED)}"' for label, shown in labels.items())
        yield f"{name}{{{inner}}} {value}\n" if inner else f"{name} {value}\n"
