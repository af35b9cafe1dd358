"""One of two processes is killed: the other one ends soon, with one line."""

import socket
import time
from pathlib import Path

import pytest
from processes import Script

ROOT = Path(__file__).parent.parent
TRAIN = ["digits/resnet_tiny", "--max_steps", "3000", "--save_steps", "1000", "--per_device_train_batch_size", "8"]
TRAIN += [
    "--use_cpu",
    "--eval_strategy",
    "no",
    "--eval_split",
    "null",
    "--logging_steps",
    "1",
    "--projector_dims",
    "8",
]


def start_two(folder: Path, arguments: list) -> list[tuple[Script, Path]]:
    """The command in two ranks, each with the file of its output."""
    command = folder / "command.py"
    in_a_terminal = "from lejepa_hf.system import progress_bars\nprogress_bars.are_drawn = lambda: True\n"
    command.write_text(f"import sys\nfrom lejepa_hf.cli import main\n{in_a_terminal}sys.exit(main())\n")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    outputs = [folder / f"{rank}.txt" for rank in range(2)]
    return [
        (Script(command, arguments, output, {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared}), output)
        for rank, output in enumerate(outputs)
    ]


def check_the_other(ranks: list[tuple[Script, Path]], killed: int) -> None:
    ranks[killed][0].kill()
    other, output = ranks[1 - killed]
    try:
        assert other.wait(60) == 1, output.read_text(encoding="utf-8")[-3000:]
    finally:
        other.kill()
    said = output.read_text(encoding="utf-8")
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert f"rank {1 - killed} stops, because another process has ended" in error and "Traceback" not in said


def wait_for(output: Path, word: str) -> None:
    end = time.monotonic() + 100
    while not output.exists() or word not in output.read_text(encoding="utf-8", errors="replace"):
        assert time.monotonic() < end, output.read_text(encoding="utf-8")[-3000:]
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_training(tmp_path, killed):
    ranks = start_two(tmp_path, ["train", *TRAIN, "--output_dir", tmp_path / "run"])
    wait_for(ranks[0][1], "prediction")
    check_the_other(ranks, killed)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_evaluation(tmp_path, tiny_resnet, killed):
    from transformers import AutoConfig, AutoModel

    from lejepa_hf.hub.export import build_processor

    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet)).save_pretrained(tmp_path / "encoder")
    build_processor(16, crop_ratio=1.0).save_pretrained(tmp_path / "encoder")
    arguments = ["evaluate", tmp_path / "encoder", "--dataset", "digits", "--protocol", "knn", "--no_cache"]
    ranks = start_two(tmp_path, [*arguments, "--batch_size", "1"])
    wait_for(ranks[0][1], "embedding")
    check_the_other(ranks, killed)
