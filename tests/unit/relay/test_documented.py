# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit test that CONTRIBUTING.md shows."""

from __future__ import annotations

import re
from pathlib import Path


def test_the_unit_test_that_people_start_from_passes() -> None:
    text = (Path(__file__).resolve().parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.search(r"```python\n(# tests/unit/.*?)```", text, re.DOTALL)[1], names)
    (shown,) = (value for name, value in names.items() if name.startswith("test_"))
    shown()
