# Copyright: The homelab.peer_relay contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent as a program: it restarts, reloads, sleeps; its interface goes; the other device has none."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest
from harness.paths import Figure, Journey, Paths, Watched
from harness.processes import wait_until
from harness.topology import Lab
from harness.wireguard import Device

_ASLEEP = 3600.0  # seconds


def test_restarts(journey: Journey) -> None:
    paths, agent = journey.paths, journey.paths.agents[0]

    def restart(number: signal.Signals) -> None:
        agent.stop(number)
        agent.start()
        wall = time.time()
        wait_until("it has heard of the other", lambda: (agent.path(paths.bob) or {}).get("agent"), 10)
        paths.wait("direct")
        assert agent.path(paths.bob)["since"] <= wall + 1, "it began with another path"

    journey.undisturbed("agent restarts", lambda: restart(signal.SIGTERM), 6)
    journey.undisturbed("agent is killed and starts", lambda: restart(signal.SIGKILL), 6)


def test_the_agent_has_no_rights_over_wireguard(paths: Paths, figure: Figure) -> None:
    """Beside a helper that has them, as fast as with them; with a mark on its packets, and when the helper dies."""
    for agent in paths.agents:
        agent.apart = True
    paths.up(agents=False)
    for device in paths.devices:
        device.host.run("wg", "set", device.interface, "fwmark", "0x7072")
    paths.start_agents()
    paths.wait("direct")
    agent, (home, away) = paths.agents[0], paths.sites
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    assert int(re.search(r"CapEff:\s*(\w+)", status)[1], 16) == 1 << 13, "CAP_NET_RAW"
    with Watched(paths.ann, paths.bob) as watched:
        journey = Journey(paths, watched, figure)
        journey.change("direct path cut, agent apart", lambda: home.partition_from(away.wan_v4), "relay", 2)
        journey.change("direct path back, agent apart", home.heal, "direct", 2, lost=False)
        journey.undisturbed("the helper dies", agent.kill_helper, 6)
    assert not agent.status()["problems"]


def test_reloads(journey: Journey, lab: Lab) -> None:
    paths, agent = journey.paths, journey.paths.agents[0]
    stranger = Device(lab, lab.site().host("cat"), "cat", ["10.77.1.3/32"])

    def reload(others: list[Device], relays: list[dict]) -> None:
        agent.others, agent.relays = others, relays
        agent.reload()
        names = [other.name for other in others], [relay["name"] for relay in relays]

        def taken_over() -> bool:
            status = agent.status()
            found = [peer["name"] for peer in status["peers"]], [relay["name"] for relay in status["relays"]]
            return found == names and agent.path(paths.bob)["agent"]

        wait_until("the settings are taken over", taken_over, 10)
        paths.wait("direct")

    both, one = paths.tables, paths.tables[:1]
    journey.undisturbed("reload: a device more", lambda: reload([paths.bob, stranger], both))
    journey.undisturbed("reload: a device less", lambda: reload([paths.bob], both))
    journey.undisturbed("reload: a relay less", lambda: reload([paths.bob], one))
    journey.undisturbed("reload: a relay more", lambda: reload([paths.bob], both))

    good = agent.settings.read_text()

    def spoil() -> None:
        agent.settings.write_text(good + "nonsense = 1\n")
        agent.process.send_signal(signal.SIGHUP)
        wait_until("it says what is wrong", lambda: "nonsense" in str(agent.status()["problems"]), 5)

    journey.undisturbed("reload: settings with an error", spoil)


def test_a_device_without_an_agent_stays_on_the_relay(paths: Paths, figure: Figure) -> None:
    paths.up(agents=False)
    agent = paths.agents[0]
    with Watched(paths.ann, paths.bob) as watched:
        journey = Journey(paths, watched, figure)

        def start() -> None:
            agent.start()
            agent.wait_path(paths.bob, "relay", "one")

        journey.undisturbed("the other has no agent", start, 12)
        path = agent.path(paths.bob)
        assert (path["path"], path["why_not"], path["agent"]) == ("relay", "other_has_no_agent", False)

        paths.agents[1].start()
        paths.wait("direct")
        moment = time.monotonic()
        paths.agents[1].stop()
        agent.wait_path(paths.bob, "relay", "one", seconds=10)
        time.sleep(2)
        gap, lost = watched.since(moment)
        figure("path: the other's agent ends for good", f"gap {gap * 1000:.0f} ms, {lost} lost", "none lost")
        assert not lost


def test_an_interface_goes_and_comes(paths: Paths) -> None:
    paths.up()
    paths.wait("direct")
    ann, agent = paths.ann, paths.agents[0]
    ann.process.stop()
    wait_until("the agent says so", lambda: agent.status()["problems"], 10)
    assert not agent.status()["peers"]
    paths.agents[1].wait_path(ann, "relay", seconds=20)
    ann.start()
    paths.connect(ann)
    ann.up()
    paths.wait("direct", seconds=30)
    assert not agent.status()["problems"]
    with Watched(ann, paths.bob) as watched:
        watched.connection.check()


def test_the_agent_alone_is_stopped_for_a_while(journey: Journey) -> None:
    """What happens meanwhile is the others' business; it finds its way when it goes on."""
    paths, (home, away) = journey.paths, journey.paths.sites
    agent = paths.agents[0]

    def stand_still() -> None:
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        home.partition_from(away.wan_v4)
        time.sleep(8)
        home.heal()
        time.sleep(6)
        agent.process.send_signal(signal.SIGCONT)

    journey.change("agent stopped for 16 s, path cut meanwhile", stand_still, "direct", 4, wait=40)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_device_sleeps(paths: Paths, lab: Lab, figure: Figure, elsewhere: bool) -> None:
    agent, ann, home = paths.agents[0], paths.ann, paths.sites[0]
    agent.jump()
    paths.up()
    paths.wait("direct")
    place = lab.site()
    with Watched(ann, paths.bob) as watched:
        stopped = [agent.process, ann.process]
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        home.new_ports()  # NATs forget who sleeps
        if elsewhere:
            place.welcome(ann.host, home)
        time.sleep(8)
        agent.jump(_ASLEEP, _ASLEEP)
        moment = time.monotonic()
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)
        watched.stream.wait_flowing(20)
        back = watched.stream.back_after(moment)
        where = "elsewhere" if elsewhere else "behind a NAT that forgot it"
        figure(f"path: wakes up {where}", f"data flows after {back:.1f} s", "< 5 s")
        paths.wait("direct", seconds=40)
        watched.connection.check()
        assert back < 5


def test_the_time_of_day_is_set(paths: Paths, figure: Figure) -> None:
    for agent in paths.agents:
        agent.jump()
    paths.up()
    paths.wait("direct")
    with Watched(paths.ann, paths.bob) as watched:
        journey = Journey(paths, watched, figure)
        year = 365 * 86400.0
        journey.undisturbed("time of day set forward by a year", lambda: paths.agents[0].jump(0, year), 6)
        journey.undisturbed("and back by two", lambda: paths.agents[0].jump(0, -year), 6)
        paths.sites[0].partition_from(paths.sites[1].wan_v4)
        paths.wait("relay")
