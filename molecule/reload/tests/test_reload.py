import json
import time

from lab import fails, run, status, wait_for


def receivers_report():
    wait_for("iperf3 has written its result", lambda: not fails("right", "test -s /run/iperf3.json"))
    return json.loads(run("right", "cat /run/iperf3.json"))


def dropped_by_receiver():
    """What reached the receiver's socket while a busy machine did not let iperf3 read: not the relay's loss."""
    return json.loads(run("right", "nstat -asj UdpRcvbufErrors"))["kernel"].get("UdpRcvbufErrors", 0)


def losses(report):
    """What was lost when, and where the machines dropped something: to be read next to the journals."""
    start = report["start"]["timestamp"]["timesecs"]
    for interval in report["intervals"]:
        if lost := interval["sum"]["lost_packets"]:
            second = time.gmtime(start + interval["sum"]["start"])
            yield f"{lost} in the second from {time.strftime('%H:%M:%S', second)}"
    for name in ["left", "relay", "right"]:
        yield f"{name}: {' '.join(run(name, 'nstat -asz UdpRcvbufErrors UdpNoPorts').split()[1:])}"
        yield f"{name}: {run(name, 'ip -stats link show')}"


def test_no_packet_is_lost_while_devices_and_the_service_come_and_go():
    report = receivers_report()
    intervals = [interval["sum"] for interval in report["intervals"]]
    seconds = sum(interval["seconds"] for interval in intervals)
    packets = sum(interval["packets"] for interval in intervals)
    # Of what the receiver dropped last, nothing came after it that would have told iperf3.
    lost = max(0, sum(interval["lost_packets"] for interval in intervals) - dropped_by_receiver())
    assert packets > 0.9 * seconds * 5e6 / 8 / 1300, f"{packets} packets in {seconds:.0f} s are too few to tell"
    assert lost == 0, "\n".join([f"{lost} of {packets} packets lost in {seconds:.0f} s", *losses(report)])


def test_settings_did_not_restart_the_service():
    journal = run("relay", "journalctl -b --no-pager -u peer-relay")
    assert "Reloaded" in journal
    # At first, by hand, and after it was killed.
    assert journal.count("Started") == 3
    assert run("relay", "systemctl show --property NRestarts --value peer-relay").strip() == "1"


def test_the_kernel_forwards():
    told = status()
    assert (told["data_plane"], told["data_plane_reason"]) == ("kernel", None)
    assert {pair["plane"] for pair in told["pairs"] if pair["state"] == "up"} == {"kernel"}
    assert told["kernel"]["interfaces"]


def test_the_service_may_do_no_more_than_that():
    process = run("relay", "systemctl show --property MainPID --value peer-relay").strip()
    lines = run("relay", f"grep Cap /proc/{process}/status").splitlines()
    # CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF.
    assert {line.split()[1] for line in lines} == {f"{1 << 12 | 1 << 13 | 1 << 39:016x}"}


def test_nobody_remembers_the_device_that_left():
    assert {device["name"] for device in status()["devices"]} == {"left", "right"}
    key = run("late", "cat /run/public-key").strip()
    for name in ["left", "right"]:
        assert key not in run(name, "wg show pr0 peers")
        assert key not in run(name, "cat /etc/wireguard/pr0.conf")
