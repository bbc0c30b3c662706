# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's modules, run as a host of the lab."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from harness.netns import Namespace

ROOT = Path(__file__).parents[3]
# As Ansible does on a host, without the way there.
_RUN = """
import importlib, json, runpy, sys
from ansible.module_utils.testing import patch_module_args
runpy.run_path(sys.argv[1])
module = importlib.import_module("ansible_collections.homelab.peer_relay.plugins.modules." + sys.argv[2])
with patch_module_args(json.load(sys.stdin)):
    module.main()
"""


def run_module(host: Namespace, name: str, **options: Any) -> dict[str, Any]:
    """Run a module of the collection and return its result."""
    words = [sys.executable, "-c", _RUN, str(ROOT / "tests/unit/conftest.py"), name]
    return json.loads(host.run(*words, stdin=json.dumps(options), timeout=60))
