"""Stands in for the pip installer that ansible-test would download from its own host: the package index will do."""

from __future__ import annotations

import subprocess
import sys

wanted = [option for option in sys.argv[1:] if option not in ("--no-setuptools", "--no-wheel")]
subprocess.check_call([sys.executable, "-m", "ensurepip"])
subprocess.check_call([sys.executable, "-m", "pip", "install", *wanted])
