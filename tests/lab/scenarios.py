# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run Molecule on scenarios, one more at once than there are processors, since each often waits; the largest first.

Scenarios share nothing but the machine: containers, networks and files carry the scenario's name. What one says is
printed when it ends; a single one speaks at once. One that failed beside others is tried once more with the machine to
itself, and counts as failed when it fails again; what happened the first time is said all the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import yaml

_LOGS = Path("build/lab")
_COMMAND = ["tests/lab/cell", "molecule", os.environ.get("MOLECULE_COMMAND", "test"), "--scenario-name"]
_INSTANCES_OF_CONTAINER = 8  # inotify instances that systemd and what it starts take, at most
_OF_INTEREST = re.compile(r"peer-|wg-quick|wireguard|nft|ufw|firewalld|[Ff]ail")
_END_OF_JOURNAL = 30  # lines
# What Ansible and pytest start a line with where something fails; before it, Molecule's and Ansible's colours.
_REASON = re.compile(r"^(\x1b\[[\d;]*m)*(fatal:|failed:|FAILED (?!- RETRYING)|ERROR|\[ERROR\]|CRITICAL|\*  =>|E   )")
_REASONS = 12  # lines a scenario
_WIDTH = 500  # characters of a line


def say(text: str) -> None:
    print(f"molecule: {text}", flush=True)


def containers(scenario: str) -> int:
    """How many containers the scenario starts."""
    return len(yaml.safe_load(Path(f"molecule/{scenario}/molecule.yml").read_text())["platforms"])


def most_containers() -> int:
    """How many systemds the kernel lets watch their files at once."""
    return int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) // _INSTANCES_OF_CONTAINER


def run(scenario: str, log: Path | None) -> tuple[bool, float]:
    """Return whether it passed, and the seconds it took."""
    for journal in (_LOGS / scenario).glob("*.journal"):
        journal.unlink()
    start = time.monotonic()
    if log is None:
        result = subprocess.run([*_COMMAND, scenario], check=False)
    else:
        with log.open("w") as output:
            result = subprocess.run(
                [*_COMMAND, scenario], check=False, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
    return result.returncode == 0, time.monotonic() - start


def tell(scenario: str, passed: bool, seconds: float, log: Path | None) -> None:
    if log is not None:
        print(log.read_text(errors="replace"), flush=True)
    if not passed:
        for journal in sorted((_LOGS / scenario).glob("*.journal")):
            say(f"from {journal}:")
            lines = journal.read_text(errors="replace").splitlines()
            lines = [line for line in lines if " ansible-" not in line and _OF_INTEREST.search(line)]
            print("\n".join(lines[-_END_OF_JOURNAL:]), flush=True)
    say(f"{scenario} {'passed' if passed else 'FAILED'} in {seconds:.0f} s")


def reasons(log: Path) -> list[str]:
    """Return the lines of the log that say why the scenario failed."""
    lines = log.read_text(errors="replace").splitlines()
    return [line[:_WIDTH] for line in lines if _REASON.match(line)][-_REASONS:]


def run_all(scenarios: list[str], at_once: int, most: int) -> list[str]:
    """Return those that failed."""
    sizes = {scenario: containers(scenario) for scenario in scenarios}
    waiting = sorted(sizes, key=lambda scenario: -sizes[scenario])
    running: dict[Future, str] = {}
    failed = []
    with ThreadPoolExecutor(at_once) as pool:
        while waiting or running:
            for scenario in list(waiting):
                taken = sum(sizes[other] for other in running.values())
                if len(running) < at_once and (not running or taken + sizes[scenario] <= most):
                    waiting.remove(scenario)
                    say(f"{scenario} starts, {len(waiting)} more to come")
                    running[pool.submit(run, scenario, _LOGS / f"{scenario}.log")] = scenario
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                scenario = running.pop(future)
                passed, seconds = future.result()
                tell(scenario, passed, seconds, _LOGS / f"{scenario}.log")
                if not passed:
                    failed.append(scenario)
    return failed


def passes_alone(scenario: str) -> bool:
    """Say why the scenario failed beside others, and whether it passes by itself."""
    log = _LOGS / f"{scenario}.log"
    say(f"why {scenario} failed:")
    print("\n".join(reasons(log)), flush=True)
    say(f"{scenario} once more, alone")
    passed, seconds = run(scenario, log)
    if passed:
        say(f"{scenario} FAILED beside others, passed alone in {seconds:.0f} s")
    else:
        tell(scenario, passed, seconds, log)
        say(f"why {scenario} failed alone too:")
        print("\n".join(reasons(log)), flush=True)
    return passed


def main(scenarios: list[str]) -> int:
    scenarios = scenarios or sorted(path.parent.name for path in Path("molecule").glob("*/molecule.yml"))
    _LOGS.mkdir(parents=True, exist_ok=True)
    if len(scenarios) == 1:
        passed, seconds = run(scenarios[0], None)
        tell(scenarios[0], passed, seconds, None)
        failed = [] if passed else scenarios
    else:
        failed = [
            scenario
            for scenario in run_all(scenarios, len(os.sched_getaffinity(0)) + 1, most_containers())
            if not passes_alone(scenario)
        ]
    if failed:
        say(f"failed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
