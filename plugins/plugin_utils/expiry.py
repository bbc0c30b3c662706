# Copyright: The homelab.peer_relay contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When guests have to go: peer_expires of the inventory."""

from __future__ import annotations

import datetime
import re

from .names import OverlayError

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def parse_expiry(value, host: str) -> datetime.datetime | None:
    """The moment from which on a device is none, in UTC; None for one that stays.

    A date is the end of that day in UTC. YAML makes dates and times of what looks like them.
    """
    if value in (None, ""):
        return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = value.isoformat()
    text = str(value).strip()
    try:
        if _DATE.fullmatch(text):
            day = datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)
            return day + datetime.timedelta(days=1)
        # Python 3.10 does not know the letter.
        moment = datetime.datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text))
    except (ValueError, OverflowError):
        raise OverlayError(
            f"{host}: peer_expires is {text!r}: give a date, such as 2026-12-31, or a date and time with its zone, "
            "such as 2026-12-31T18:00:00+01:00"
        ) from None
    if moment.tzinfo is None:
        raise OverlayError(
            f"{host}: peer_expires is {text!r}, without a zone: write {moment.isoformat()}+00:00 for UTC, or another "
            "zone"
        )
    return moment.astimezone(datetime.timezone.utc)


def has_expired(value, host: str) -> bool:
    moment = parse_expiry(value, host)
    return moment is not None and moment <= datetime.datetime.now(datetime.timezone.utc)
