# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
import sys

from peer_relay.cli import main

sys.exit(main())
