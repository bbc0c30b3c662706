from lab import run, status


def test_the_kernel_forwards_for_the_relay():
    assert status()["data_plane"] == "kernel"
    assert " - bpf " in run("relay", "grep /run/peer-relay-bpf /proc/self/mountinfo")
