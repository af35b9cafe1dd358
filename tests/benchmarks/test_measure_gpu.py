"""The measuring hour's dry run: the same shell script, without a GPU, a network and `datasets`."""

import csv
import importlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "measure_gpu.sh"
PARTS = ("tests", "sigreg", "photometric", "training-vit_s16", "resume", "ranks", "decoding", "cifar10")
DECODED = {"a core decodes and cuts": "", "the device decodes": "0", "the device decodes and cuts": "0"}
HIDES_DATASETS = """
import importlib.machinery as machinery
find = machinery.PathFinder.find_spec.__func__
hidden = ("datasets", "evaluate")
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.split(".")[0] in hidden else find(cls, name, *rest)
)
"""


@pytest.fixture
def part(monkeypatch):
    """Imports a part where its script would find the files it shares code with."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.startswith(("measure", "benchmark_")):
            del sys.modules[name]


def rows_of(file: Path) -> list[dict]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.csv")}


def test_rows_are_kept_and_a_torn_line_is_measured_again(part, tmp_path):
    rows_class, calls = part("measure_rows").Rows, []

    def measured(value):
        calls.append(value)
        return {"ms": 2 * value}

    rows = rows_class(tmp_path / "rows.csv", ("size",), ("ms",))
    for size in (1, 2):
        rows.measure({"size": size}, lambda size=size: measured(size))
    content = rows.file.read_bytes()
    rows.file.write_bytes(content[:-9])  # killed while the second row was written
    again = rows_class(rows.file, ("size",), ("ms",))
    for size in (1, 2):
        again.measure({"size": size}, lambda size=size: measured(size))
    assert calls == [1, 2, 2]
    assert [(row["size"], row["ms"]) for row in again.read()] == [("1", "2"), ("2", "4")] and again.problems() == 0


def test_a_case_that_fails_is_a_row_and_the_others_go_on(part, tmp_path):
    rows = part("measure_rows").Rows(tmp_path / "rows.csv", ("size",), ("ms",))
    rows.measure({"size": 1}, lambda: 1 / 0)
    rows.measure({"size": 2}, lambda: [{"ms": 1}, {"ms": 3}])
    assert "ZeroDivisionError" in rows.read()[0]["problem"] and len(rows.read()) == 3 and rows.problems() == 1


def test_the_floor_counts_bytes_and_operations(part):
    sigreg = part("measure_sigreg")
    case = {"views": 2, "images": 3, "dim": 5, "slices": 7, "knots": 4, "dtype": "float32"}
    moved, operations = sigreg.bytes_and_operations(case)
    assert moved == 3 * 6 * 5 * 4 + 2 * 5 * 7 * 4  # projections twice and their gradient, directions twice
    assert operations == 3 * 2 * 6 * 5 * 7 + 14 * 6 * 7 * 4
    measured = {"forward_backward_ms": 12.0, "queued_ms": 10.0}
    (row,) = sigreg.with_floor([measured], case, (1e3 * moved, operations * 500))
    assert row["floor_ms"] == 2.0 and row["times_floor"] == 5.0


def test_the_goals_size_is_compared_with_the_plain_formula_on_a_gpu(part):
    has_plain, cases = part("benchmark_sigreg").has_plain, part("measure_sigreg").cases(False)
    assert (cases[0]["views"], cases[0]["images"], cases[0]["slices"]) == (8, 512, 4096)
    assert has_plain(cases[0], "cuda", 24 << 30) and not has_plain(cases[0], "cuda", 8 << 30)
    assert all(has_plain(case, "cuda", 139 << 30) for case in cases)  # the one that is lent


def test_steps_in_a_row_are_measured(part):
    benchmark = part("benchmark_sigreg")
    rows = benchmark.measure({**benchmark.BASE, "images": 4, "slices": 4}, "cpu", 1)
    assert {row["implementation"] for row in rows} >= {"eager", "reference"}
    assert all(row["queued_ms"] > 0 for row in rows)


def test_the_floor_of_colours_is_a_copy(part):
    (row,) = part("measure_photometric").with_floor([{"ms_per_view": 6.0}], 10, 1e6)
    assert row["floor_ms"] == 1.5 and row["times_floor"] == 4.0  # 300 values of 5 bytes


@pytest.mark.slow
def test_a_cpu_decodes_photographs_as_pil_does(part):
    files = []
    for photograph in load_sample_images().images:
        for settings in ({"quality": 60, "progressive": True}, {"quality": 95, "subsampling": 0}):
            file = io.BytesIO()
            Image.fromarray(photograph[:160, :200]).save(file, "JPEG", **settings)
            files.append(file.getvalue())
    rows = part("measure_decoding").measure(files, "cpu", 1)
    found = {row["how"]: row for row in rows}
    assert found.keys() == DECODED.keys() and found["a core decodes and cuts"]["cores"] == 1
    assert found["the device decodes"]["largest_difference"] == found["the device decodes"]["mean_difference"] == 0


def test_a_resumed_run_counts_if_it_was_killed_and_goes_on_alike(part):
    problem_of = part("measure_resume").problem_of
    assert problem_of("cpu", 0, -9, 0.0) == problem_of("cuda", 0, 137, 9e-4) == ""
    assert "ended with 1 " in problem_of("cuda", 0, 1, 0.0) and "ended with 0 " in problem_of("cuda", 0, 0, 0.0)
    assert "2 steps are missing" in problem_of("cpu", 2, -9, 0.0)
    for device, difference in (("cpu", 1e-7), ("cuda", 2e-3), ("cuda", float("nan"))):
        assert "differ" in problem_of(device, 0, -9, difference)


def test_rows_and_logs_are_one_archive(tmp_path):
    (tmp_path / "sigreg.csv").write_text("problem\n", encoding="utf-8")
    (tmp_path / "sigreg.done").touch()
    (tmp_path / "work").mkdir()
    for _ in range(2):  # the second does not hold the first
        subprocess.run(
            [SCRIPT, tmp_path, "--device", "cpu", "sigreg"], check=True, env=environment_of(tmp_path / "no")
        )
        with tarfile.open(tmp_path / "all.tar.gz") as archive:
            assert sorted(archive.getnames()) == ["logs", "sigreg.csv", "sigreg.done"]


def test_usage_without_a_folder():
    done = subprocess.run([SCRIPT, "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 2 and "measure_gpu.sh FOLDER" in done.stderr


def environment_of(hidden: Path) -> dict[str, str]:
    paths = [str(hidden), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return environment


def start(folder: Path, hidden: Path) -> subprocess.Popen:
    command = [SCRIPT, folder, "--device", "cpu", "--tiny"]
    return subprocess.Popen(
        command, env=environment_of(hidden), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_all_parts_on_a_cpu_with_a_kill_in_the_middle(tmp_path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(HIDES_DATASETS, encoding="utf-8")
    folder = tmp_path / "measured"
    killed = start(folder, tmp_path / "hidden")
    while killed.poll() is None and not (
        (folder / "sigreg.csv").is_file() and len(rows_of(folder / "sigreg.csv")) > 1
    ):
        time.sleep(0.2)
    killed.send_signal(signal.SIGTERM)
    killed.communicate(timeout=60)
    assert killed.returncode == 143 and (folder / "tests.done").is_file() and not (folder / "resume.done").exists()
    before = contents(folder)

    again = start(folder, tmp_path / "hidden")
    output = again.communicate(timeout=1500)[0]
    logs = "".join(path.read_text(encoding="utf-8")[-2000:] for path in (folder / "logs").iterdir())
    assert again.returncode == 0, output + logs
    assert "tests: finished earlier" in output and {path.stem for path in folder.glob("*.done")} == set(PARTS)
    after = contents(folder)
    assert all(after[name].startswith(rows) for name, rows in before.items())  # nothing measured twice or lost
    assert set(after) == {f"{part}.csv" for part in PARTS}
    with tarfile.open(folder / "all.tar.gz") as archive:
        assert set(after) | {f"{part}.done" for part in PARTS} <= set(archive.getnames())
    check_figures(folder)
    for words in ("losses/test_prediction.py | ", "x the floor", "x the bare loop", "killed after 3 of 6 steps"):
        assert words in output
    assert output.count("\n| ") == 1 + sum(len(rows_of(folder / name)) for name in after)


def check_figures(folder: Path) -> None:
    assert all(row["problem"] == "" for file in folder.glob("*.csv") for row in rows_of(file))
    assert all(int(row["passed"]) > 3 and row["failed"] == "0" for row in rows_of(folder / "tests.csv"))
    assert {row["implementation"] for row in rows_of(folder / "sigreg.csv")} >= {"eager", "reference"}
    photometric = {row["implementation"]: row for row in rows_of(folder / "photometric.csv")}
    assert photometric.keys() >= {"torchvision, uint8", "ours"} and float(photometric["ours"]["times_floor"]) > 0
    assert float(rows_of(folder / "resume.csv")[0]["largest_difference"]) == 0.0
    ranks = {(row["what"], row["kind"]): row for row in rows_of(folder / "ranks.csv")}
    for case in (("equal", "ddp"), ("equal", "fsdp"), ("resharded", "fsdp")):
        assert float(ranks[case]["largest_difference"]) < 1e-4
    assert float(ranks["speed", "ddp"]["efficiency"]) > 0
    steps = rows_of(folder / "training-vit_s16.csv")
    cases = {(row["compiled"], row["images"], row["way"]) for row in steps}
    assert {(compiled, "memory", way) for compiled in ("True", "False") for way in ("ours", "bare loop")} <= cases
    assert ("False", "JPEG", "ours") in cases and all(float(row["images_per_second"]) > 0 for row in steps)
    assert {row["how"]: row["largest_difference"] for row in rows_of(folder / "decoding.csv")} == DECODED
    assert float(rows_of(folder / "cifar10.csv")[0]["images_per_second"]) > 0
