"""Runs that are killed and go on, in processes of their own."""

import itertools
import json
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import data_run
import pytest
from processes import run_script

from lejepa_hf.data.sources import load_source


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """60 digits in four uneven shards: a run of 10 steps at 8 passes over them once and goes on."""
    folder = tmp_path_factory.mktemp("shards")
    images = load_source("digits").dataset.select(range(60))
    for number, (first, last) in enumerate(itertools.pairwise((0, 11, 30, 37, 60))):
        images.select(range(first, last)).to_parquet(folder / f"{number}.parquet", batch_size=1000)
    return folder


def run(shards: Path, folder: Path, *arguments: str, processes: int = 1, killed=False, maybe_killed=False) -> str:
    output = folder.parent / f"{folder.name}.txt"
    codes = run_script(Path(data_run.__file__), [shards, folder, *arguments], output, processes)
    said = output.read_text()
    assert maybe_killed or (-signal.SIGKILL in codes if killed else codes == [0] * processes), said[-6000:]
    return said


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def weights(folder: Path) -> bytes:
    return (folder / "final" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "deaths", "processes"),
    [
        ([], [5], 1),  # map-style
        # Mid-epoch, then wrapped around.
        (["--streaming", "--buffer", "7"], [4, 8], 1),
        (["--streaming", "--workers", "2", "--buffer", "500", "--accumulation", "2"], [5], 1),
        (["--streaming", "--workers", "2"], [8], 2),
        (["--balanced", "--workers", "1"], [4, 8], 2),
    ],
    ids=["map-style", "stream", "stream, workers, accumulation", "stream, two processes", "balanced, two processes"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(shards, tmp_path, settings, deaths, processes):
    run(shards, tmp_path / "whole", *settings, processes=processes)
    for number, step in enumerate(deaths):
        resume = ["--resume"] if number else []
        run(shards, tmp_path / "torn", *settings, "--die", str(step), *resume, processes=processes, killed=True)
    run(shards, tmp_path / "torn", *settings, "--resume", processes=processes)
    assert [step for step, _ in losses(tmp_path / "whole")] == list(range(1, 11))
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")
    positions = {path.name for path in (tmp_path / "torn" / "checkpoint-9").glob("data_position_*")}
    assert positions == {f"data_position_{rank}.json" for rank in range(processes)}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_moments_again_and_again(shards, tmp_path, processes):
    """Between steps and in them, while a checkpoint is written and before there is one."""
    settings = ["--streaming", "--workers", "1", "--save", "1", "--steps", "30"]
    run(shards, tmp_path / "whole", *settings, processes=processes)
    moments = random.Random()
    for _ in range(10 if processes == 1 else 5):
        later = ["--resume", "--die-after", f"{moments.uniform(0.05, 1.5):.3f}"]
        run(shards, tmp_path / "torn", *settings, *later, processes=processes, maybe_killed=True)
    run(shards, tmp_path / "torn", *settings, "--resume", processes=processes)
    assert losses(tmp_path / "torn") == losses(tmp_path / "whole")
    assert weights(tmp_path / "torn") == weights(tmp_path / "whole")


@pytest.mark.slow
def test_other_numbers_of_workers_and_processes(shards, tmp_path):
    whole = ["--streaming", "--workers", "2"]
    run(shards, tmp_path / "whole", *whole)
    for workers in ("0", "1", "3"):
        again = tmp_path / f"again{workers}"
        again.mkdir()
        shutil.copytree(tmp_path / "whole" / "checkpoint-6", again / "checkpoint-6")
        said = run(shards, again, "--streaming", "--workers", workers, "--resume")
        assert losses(again) == losses(tmp_path / "whole")[6:]
        assert ("2 data workers instead of `dataloader_num_workers` 3" in said) == (workers == "3")


@pytest.mark.slow
def test_a_stream_read_by_two_goes_on_with_one_and_leaves_nothing_out(shards, tmp_path):
    folder = tmp_path / "run"
    run(shards, folder, "--streaming", "--note", "--steps", "3", processes=2)
    before = [Path(f"{folder}-rows-{rank}.jsonl").read_text(encoding="utf-8").splitlines() for rank in range(2)]
    assert [len(rows) for rows in before] == [24, 24]
    said = run(shards, folder, "--streaming", "--note", "--steps", "8", "--batch", "16", "--resume")
    after = Path(f"{folder}-rows-0.jsonl").read_text(encoding="utf-8").splitlines()[24:]
    assert "read by 2 processes" not in said or "too few" not in said
    rows = Counter(tuple(json.loads(row)) for row in [*before[0], *before[1], *after])
    assert set(rows.values()) == {1}
    assert sum(epoch == 0 for epoch, _ in rows) == 60


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_and_each_class_alike(shards, tmp_path):
    """The global batches of two processes are those of one, and each class passes over its images on its own."""
    settings = ["--balanced", "--note", "--steps", "25"]
    run(shards, tmp_path / "two", *settings, processes=2)
    run(shards, tmp_path / "one", *settings, "--batch", "16")
    first, second, whole = (
        [tuple(json.loads(row)) for row in Path(f"{tmp_path}/{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("two-rows-0", "two-rows-1", "one-rows-0")
    )
    assert len(first) == len(second) == 200
    assert [row for n in range(0, 200, 8) for rows in (first, second) for row in rows[n : n + 8]] == whole
    labels = load_source("digits").dataset[:60]["label"]
    drawn = Counter(labels[index] for _, index in whole)
    assert set(drawn) == set(labels) and max(drawn.values()) < 2 * min(drawn.values())
    assert len(set(whole)) == len(whole), "an image twice in a pass over its class"


@pytest.mark.slow
def test_a_balanced_run_does_not_go_on_unbalanced(shards, tmp_path):
    run(shards, tmp_path / "run", "--steps", "3")
    codes = run_script(
        Path(data_run.__file__), [shards, tmp_path / "run", "--balanced", "--resume"], tmp_path / "said.txt", 1
    )
    assert codes != [0]
    assert "`class_balanced` was False, is 'label'" in (tmp_path / "said.txt").read_text()
