import os
from pathlib import Path

import pytest
import torch

from lejepa_hf.system.devices import computes_in_bf16, cores_of_this_process, default_device, memory_of, threads_for

CPU = torch.device("cpu")


def machine(root: Path, groups: str, **files: str) -> Path:
    """A root folder with the control groups of a process; a file's name has `__` for each `/`."""
    for path, text in {"proc/self/cgroup": groups, **files}.items():
        file = root / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    return root


@pytest.fixture
def sixteen_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def test_something_can_be_computed_there():
    assert torch.ones(2, device=default_device()).sum() == 2
    assert (default_device().type == "cpu") == (not torch.accelerator.is_available())


def test_small_steps_get_one_thread():
    torch.set_num_threads(2)
    with threads_for(1000):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with threads_for(2**30):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("cpu", "is_faster"),
    [("avx512f avx512_bf16 amx_tile", True), ("amx_bf16", True), ("avx512f avx512_vnni", False), (None, False)],
)
def test_bf16_is_for_cpus_with_instructions_for_it(tmp_path, cpu, is_faster):
    if cpu is not None:
        machine(tmp_path, "0::/", proc__cpuinfo=f"processor\t: 0\nflags\t\t: fpu sse {cpu}")
    assert computes_in_bf16(CPU, tmp_path) is is_faster
    assert not computes_in_bf16(torch.device("mps"), tmp_path)


def test_cores_of_a_machine_without_control_groups(tmp_path, sixteen_cores):
    assert cores_of_this_process(tmp_path) == 16


def test_cores_are_shared_by_the_processes_of_a_machine(tmp_path, sixteen_cores, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cores_of_this_process(tmp_path) == 2
    quota = {"sys/fs/cgroup/cpu.max": "400000 100000"}
    assert cores_of_this_process(machine(tmp_path, "0::/", **quota)) == 1  # half a core each is still one


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 16), ("350000 100000", 3), ("50000 100000", 1), ("9900000 100000", 16)]
)
def test_quota_of_version_2(tmp_path, sixteen_cores, text, cores):
    assert cores_of_this_process(machine(tmp_path, "0::/", **{"sys/fs/cgroup/cpu.max": text})) == cores


def test_the_smallest_quota_of_all_groups_above_holds(tmp_path, sixteen_cores):
    folder = "sys/fs/cgroup/slurm/job_7"
    quotas = {f"{folder}/step/cpu.max": "max 100000", f"{folder}/cpu.max": "600000 100000"}
    root = machine(tmp_path, "0::/slurm/job_7/step", **quotas, **{"sys/fs/cgroup/slurm/cpu.max": "800000 100000"})
    assert cores_of_this_process(root) == 6


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("400000", 4)])
@pytest.mark.parametrize("group", ["", "docker/abc"])  # a container does not see the path on its host
def test_quota_of_version_1(tmp_path, sixteen_cores, quota, cores, group):
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": quota, "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    assert cores_of_this_process(machine(tmp_path, f"3:cpu,cpuacct:/{group}\n2:memory:/", **files)) == cores


def test_memory_without_a_limit_is_that_of_the_machine(tmp_path):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory_of(CPU, tmp_path) == physical
    assert memory_of(CPU, machine(tmp_path, "0::/", **{"sys/fs/cgroup/memory.max": "max"})) == physical
    unlimited = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}  # as version 1 writes it
    assert memory_of(CPU, machine(tmp_path, "4:memory:/", **unlimited)) == physical


def test_limit_of_memory(tmp_path):
    second = machine(tmp_path / "2", "0::/pod/c", **{"sys/fs/cgroup/pod/memory.max": "1073741824"})
    assert memory_of(CPU, second) == 2**30
    files = {"sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "536870912"}
    assert memory_of(CPU, machine(tmp_path / "1", "4:memory:/pod\n0::/", **files)) == 2**29


def test_memory_of_other_devices():
    assert memory_of(torch.device("meta")) is None
    if torch.cuda.is_available():
        assert memory_of(torch.device("cuda")) == torch.cuda.mem_get_info()[1]
