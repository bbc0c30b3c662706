# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mutate known inputs, keep those that reach new lines, and report what a parser did not expect.

Written for the purpose, so that it runs with every Python and on every machine that the collection supports. As many
targets at once as there are processors. Prints a line for each target when it is done; exits with 1, and prints the
input in hexadecimal, when one raised what it must not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import targets

_MOST = 4096  # bytes of an input
_HANGS_AFTER = 10  # seconds
_ROOT = Path(__file__).resolve().parents[2]
_WATCHED = (str(_ROOT / "roles"), str(_ROOT / "plugins"))
_NUMBERS = [n.to_bytes(size, "big") for size in (1, 2, 4, 8) for n in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1))]


class Coverage:
    """The lines of the code under test that have been reached."""

    def __init__(self) -> None:
        self.lines: set[tuple[CodeType, int]] = set()
        self.grown = False

    def enter(self, frame: FrameType, _event: str, _argument: Any) -> Callable | None:
        return self.line if frame.f_code.co_filename.startswith(_WATCHED) else None

    def line(self, frame: FrameType, _event: str, _argument: Any) -> Callable:
        where = frame.f_code, frame.f_lineno
        if where not in self.lines:
            self.lines.add(where)
            self.grown = True
        return self.line


def mutate(chance: random.Random, corpus: list[bytes], words: list[bytes]) -> bytes:
    """Return a known input with a few changes."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 8))):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.choice((1, 2, 4, 16, 64)))
        match chance.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[at % len(data)] = chance.randrange(256)
            case 2:
                del data[at:to]
            case 3:
                data[at:at] = data[at:to] * chance.choice((1, 1, 2, 20))
            case 4:
                number = chance.choice(_NUMBERS)
                data[at : at + len(number)] = number if chance.random() < 0.5 else number[::-1]
            case 5:
                other = chance.choice(corpus)
                cut = chance.randrange(len(other) + 1)
                data[at:to] = other[cut : cut + chance.choice((4, 32, 256))]
            case _ if words:
                data[at : chance.choice((at, to))] = chance.choice(words)
    return bytes(data[:_MOST])


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"not done after {_HANGS_AFTER} s")


def execute(target: targets.Target, data: bytes, coverage: Coverage | None = None) -> str | None:
    """Run one input; return the traceback of what must not happen."""
    signal.alarm(_HANGS_AFTER)
    sys.settrace(coverage.enter if coverage else None)
    try:
        target.run(data)
    except target.expected:
        pass
    except Exception:
        sys.settrace(None)
        return traceback.format_exc()
    finally:
        sys.settrace(None)
        signal.alarm(0)
    return None


def fuzz(target: targets.Target, seconds: float) -> tuple[int, int, str | None, bytes]:
    """Return (executions, lines reached, the traceback of a crash, its input)."""
    chance, coverage, count = random.Random(), Coverage(), 0
    corpus = list(target.corpus)
    fresh = list(corpus)
    end = time.monotonic() + seconds
    while fresh or time.monotonic() < end:
        data = fresh.pop() if fresh else mutate(chance, corpus, target.words)
        coverage.grown = False
        crash = execute(target, data, coverage)
        count += 1
        if crash:
            return count, len(coverage.lines), crash, data
        if coverage.grown:
            corpus.append(data)
    return count, len(coverage.lines), None, b""


def report(name: str, seconds: float) -> tuple[str, bool]:
    """Fuzz one target; return what to print, and whether all is fine."""
    start = time.monotonic()
    count, lines, crash, data = fuzz(targets.TARGETS[name], seconds)
    took = time.monotonic() - start
    text = f"{name:20} {count:10} {lines:6} {took:8.1f}  {'CRASHED' if crash else 'fine'}"
    if crash:
        text += f"\n{crash}\nRun it again: tests/fuzz/run --input {name} {data.hex()}\n"
    return text, not crash


def fuzz_all(names: list[str], seconds: float) -> bool:
    """Return whether all is fine."""
    print(f"{'target':20} {'executions':>10} {'lines':>6} {'seconds':>8}  result", flush=True)
    fine = True
    processors = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(processors, multiprocessing.get_context("fork")) as pool:
        for done in as_completed([pool.submit(report, name, seconds) for name in names]):
            text, passed = done.result()
            print(text, flush=True)
            fine = fine and passed
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz/run", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=5.0, help="for each target (default 5)")
    parser.add_argument("targets", nargs="*", metavar="target", help=", ".join(targets.TARGETS))
    parser.add_argument("--input", nargs=2, metavar=("TARGET", "HEX"), help="run one input")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, _hang)
    if arguments.input:
        crash = execute(targets.TARGETS[arguments.input[0]], bytes.fromhex(arguments.input[1]))
        print(crash or "nothing happened")
        return 1 if crash else 0
    return 0 if fuzz_all(arguments.targets or list(targets.TARGETS), arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
