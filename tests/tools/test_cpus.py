"""A container's CPU quota bounds the threads, whichever way its system writes it down."""

import os

import pytest
from comfyui_tryon import cpus

V1 = "4:cpu,cpuacct:/docker/c0ffee\n3:cpuset:/docker/c0ffee\n1:name=systemd:/docker/c0ffee\n"
V2_HOST = "0::/user.slice/session.scope\n"


def written(root, groups: str, files: dict[str, str]):
    """A made-up /proc and /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    "groups, files, expected",
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "rubbish"}, 8),
        ("0::/\n", {"cpu.max": ""}, 8),
        ("0::/\n", {}, 8),
        (V2_HOST, {"user.slice/session.scope/cpu.max": "max 100000", "user.slice/cpu.max": "300000 100000"}, 3),
        (V2_HOST, {"user.slice/session.scope/cpu.max": "50000 25000", "user.slice/cpu.max": "300000 100000"}, 2),
        ("0::/../../not/mounted\n", {"cpu.max": "400000 100000"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "250000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/docker/c0ffee/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_quota_us": "-1"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, 8),
        ("", {}, 8),
    ],
)
def test_the_smallest_quota_counts_rounded_up(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cpus.available(written(tmp_path, groups, files)) == expected


def test_without_a_quota_the_cores_that_the_process_may_run_on_count(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert cpus.available(tmp_path) == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.available(tmp_path) == 5


def test_the_number_of_threads_is_left_to_the_libraries_where_there_is_no_quota(monkeypatch):
    monkeypatch.setattr(cpus, "available", lambda: 2)
    monkeypatch.setattr(cpus, "_allowed", lambda: 4)
    assert cpus.limit() == 2
    monkeypatch.setattr(cpus, "_allowed", lambda: 2)
    assert cpus.limit() is None
