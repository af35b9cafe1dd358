"""Runs that are killed, lose their data or meet broken images, in processes of their own."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import data_run
import datasets
import pytest
from range_server import serve

from lejepa_hf.checkpoints import complete_checkpoints
from lejepa_hf.data.sources import load_source

ROOT = Path(__file__).parent.parent
# Every run is a process of its own, forked from one that has only imported: that costs seconds each time.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["data_run", "range_server", "transformers.trainer"])


def write_digits(folder: Path, ends: list[int], broken: list[int] = ()) -> Path:
    """Digits in Parquet files that end before these rows; of some rows only half a PNG is there."""
    folder.mkdir()
    digits = load_source("digits").dataset
    rows = digits.select(range(ends[-1])).to_list()
    for number in broken:
        rows[number]["image"]["bytes"] = rows[number]["image"]["bytes"][:50]
    for shard, (first, last) in enumerate(itertools.pairwise([0, *ends])):
        file = folder / f"{shard:02}.parquet"
        datasets.Dataset.from_list(rows[first:last], features=digits.features).to_parquet(file, batch_size=1000)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """
    60 digits in four uneven shards, two of them broken: row 3 of shard 1 and row 20 of shard 3. A run of 10 steps at
    8 images passes over them once and goes on.
    """
    return write_digits(tmp_path_factory.mktemp("data") / "shards", [11, 30, 37, 60], broken=[14, 57])


def run(job: str, output: Path, *arguments: str, processes: int = 1, status: int = 0) -> str:
    """A job of `data_run` in one process or as several ranks, which must end as said; what the first one wrote."""
    environment = {}
    if processes > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    ranks = []
    for rank in range(processes):
        own = environment | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        name = output.with_name(f"{output.name}-{rank}")
        ranks.append(FRESH.Process(target=data_run.main, args=(job, list(map(str, arguments)), name, own)))
        ranks[-1].start()
    for process in ranks:
        process.join(200)
        process.kill()
        process.join()
    said = [output.with_name(f"{output.name}-0{ending}").read_text() for ending in (".out", ".err")]
    assert status in {process.exitcode for process in ranks} <= {status, 1}, "".join(said)[-6000:]
    assert status or not any(process.exitcode for process in ranks), "".join(said)[-6000:]
    return "".join(said)


def trainer_run(shards: Path, folder: Path, *arguments: str, killed: bool = False, **kwargs) -> str:
    return run("trainer", folder, shards, folder, *arguments, status=-signal.SIGKILL if killed else 0, **kwargs)


def logged(folder: Path) -> list[tuple[int, float, int]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row.get("broken_images", 0)) for row in rows if "loss" in row]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def noted(folder: Path, rank: int = 0) -> list[tuple[int, int]]:
    """(epoch, index) of the rows a process has cut views of."""
    return [tuple(json.loads(row)) for row in Path(f"{folder}-rows-{rank}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("settings", "deaths", "processes"),
    [
        ([], [5], 1),  # mid-epoch
        (["--streaming", "--buffer", "7"], [4, 8], 1),  # mid-epoch, then wrapped around
        (["--streaming", "--workers", "2", "--buffer", "500", "--accumulation", "2"], [5], 1),
        (["--streaming", "--workers", "2"], [8], 2),
        (["--workers", "2", "--accumulation", "2"], [8], 2),
    ],
    ids=["map", "stream", "stream, workers, accumulation", "stream, 2 processes", "map, workers, 2 processes"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(shards, tmp_path, settings, deaths, processes):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    said = trainer_run(shards, whole, *settings, processes=processes)
    for number, step in enumerate(deaths):
        resume = ["--resume"] if number else []
        trainer_run(shards, torn, *settings, "--die", str(step), *resume, processes=processes, killed=True)
    trainer_run(shards, torn, *settings, "--resume", processes=processes)
    assert [step for step, _, _ in logged(whole)] == list(range(1, 11))
    assert logged(torn) == logged(whole)
    assert weights(torn / "final") == weights(whole / "final")
    for folder, step in itertools.product([whole, torn], [3, 6, 9, 10]):
        positions = {path.name for path in (folder / f"checkpoint-{step}").glob("data_position_*")}
        assert positions == {f"data_position_{rank}.json" for rank in range(processes)}
    if processes == 1:
        assert logged(whole)[-1][2] >= 2
        places = r"row 3 of shard 1 of 4|row 20 of shard 3 of 4" if "--streaming" in settings else r"row (?:14|57)"
        found = re.findall(rf"^broken image replaced by the next good one: ({places}): OSError", said, re.MULTILINE)
        assert len(found) == logged(whole)[-1][2] and len(set(found)) == 2


def test_other_numbers_of_workers(shards, tmp_path):
    """Also of one process instead of two workers: what counts is the number of lanes."""
    trainer_run(shards, tmp_path / "whole", "--streaming", "--workers", "2")
    for workers in ("0", "1", "3"):
        again = tmp_path / f"again{workers}"
        shutil.copytree(tmp_path / "whole" / "checkpoint-6", again / "checkpoint-6")
        said = trainer_run(shards, again, "--streaming", "--workers", workers, "--resume")
        assert logged(again) == logged(tmp_path / "whole")[6:]
        assert weights(again / "final") == weights(tmp_path / "whole" / "final")
        warned = "2 data workers instead of `dataloader_num_workers` 3: the run began with 2, and its order" in said
        assert warned == (workers == "3")


def test_a_stream_read_by_two_goes_on_with_one_and_leaves_nothing_out(shards, tmp_path):
    folder = tmp_path / "run"
    trainer_run(shards, folder, "--streaming", "--note", "--steps", "3", processes=2)
    assert [len(noted(folder, rank)) for rank in range(2)] == [24, 24]
    said = trainer_run(shards, folder, "--streaming", "--note", "--steps", "12", "--resume")
    assert "read by 2 processes, now by 1: each row still once an epoch" in said
    rows = Counter(noted(folder, 0) + noted(folder, 1))
    assert rows.total() == 2 * 24 + 9 * 8 and set(rows.values()) == {1}
    assert sum(epoch == 0 for epoch, _ in rows) == 60


def test_a_checkpoint_counts_only_once_every_process_has_saved_its_part(shards, tmp_path):
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    trainer_run(shards, whole, "--streaming", processes=2)
    trainer_run(shards, torn, "--streaming", "--die-saving", "6", processes=2, killed=True)
    assert [path.name for path in complete_checkpoints(torn)] == ["checkpoint-3"]
    trainer_run(shards, torn, "--streaming", "--resume", processes=2)
    assert logged(torn) == logged(whole)


# Through a recipe


@pytest.fixture
def recipe(tmp_path, tiny_resnet):
    """A function: a recipe that reads a dataset as a stream."""

    def write(dataset: str | Path) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(
            f"dataset: {dataset}\nstreaming: true\nuse_cpu: true\nbackbone_config: {json.dumps(tiny_resnet)}\n"
            "projector_dims: [16, 8]\nnum_slices: 16\nnum_local_views: 2\nglobal_crop_size: 16\nlocal_crop_size: 8\n"
            "blur_kernel_size: 5\nmax_steps: 6\nlogging_steps: 1\nsave_steps: 100\nper_device_train_batch_size: 8\n"
            "shuffle_buffer_size: 7\ndataloader_num_workers: 1\nmax_network_retries: 1\nseed: 0\n"
        )
        return str(path)

    return write


def errors(output: str) -> list[str]:
    """What comes behind the progress bar."""
    assert "Traceback" not in output
    return [line for line in output.splitlines() if "error: " in line]


def test_too_many_broken_images_end_a_run_with_one_line(shards, tmp_path, recipe):
    command = [recipe(f"{shards}/*.parquet"), "--max_bad_fraction", "0.001", "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "train.py", *command, "--max_steps", "10"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr
    (line,) = errors(done.stderr)
    place = r"(row 3 of shard 1|row 20 of shard 3) of 4"
    assert re.match(
        rf"error: 2 of \d+ images are broken, more than `max_bad_fraction` 0.001 allows. The last one: {place}", line
    )
    assert len(re.findall(rf"^broken image replaced by the next good one: {place}: ", done.stdout, re.MULTILINE)) == 2
    assert not (tmp_path / "run" / "encoder").exists()


@pytest.fixture
def web():
    """A function: a server of a folder for a while, its port; it dies at the first request for one file too many."""

    @contextmanager
    def start(folder: Path, port: int = 0, max_files: float = float("inf")):
        receive, send = FRESH.Pipe(duplex=False)
        process = FRESH.Process(target=serve, args=(folder, port, max_files, send), daemon=True)
        process.start()
        try:
            assert receive.poll(60)
            yield receive.recv()
        finally:
            process.kill()
            process.join()

    return start


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_whose_server_dies_saves_stops_and_goes_on_when_it_is_back(tmp_path, recipe, web, workers):
    data = write_digits(tmp_path / "data", list(range(4, 49, 4)))  # 12 shards, four are read side by side
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    with web(data) as port:
        path = recipe(f"http://127.0.0.1:{port}/{{00..11}}.parquet")
        arguments = [path, "--dataloader_num_workers", workers, "--output_dir"]
        run("recipe", whole, *arguments, whole)
    with web(data, port, max_files=10):
        said = run("recipe", torn, *arguments, torn, status=1)
    (line,) = errors(said)
    assert re.match(
        r"error: shard \d+ of 12: the connection was lost and 1 retries did not bring it back .* with `--resume`", line
    )
    steps = [step for step, _, _ in logged(torn)]
    assert 0 < steps[-1] < 6
    assert [path.name for path in complete_checkpoints(torn)] == [f"checkpoint-{steps[-1]}"]
    with web(data, port):
        run("recipe", torn, *arguments, torn, "--resume")
    assert logged(torn) == logged(whole)
    assert weights(torn / "pretraining") == weights(whole / "pretraining")


def test_a_checkpoint_without_a_place_in_the_data_is_refused_in_one_line(shards, tmp_path, recipe):
    arguments = [recipe(f"{shards}/*.parquet"), "--output_dir", tmp_path / "run"]
    run("recipe", tmp_path / "run", *arguments, "--max_steps", "2")
    (tmp_path / "run" / "checkpoint-2" / "data_position_0.json").unlink()
    (line,) = errors(run("recipe", tmp_path / "run", *arguments, "--resume", status=2))
    assert re.match(r"error: `resume` '.*checkpoint-2' does not say .* data_position_0.json is missing", line)
