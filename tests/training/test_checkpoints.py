import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from lejepa_hf.data.reader_state import RankState, write_position
from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.training.checkpoints import (
    complete_checkpoints,
    damage_of_checkpoint,
    delete_older,
    last_finite_checkpoint,
    resolve_resume,
)
from lejepa_hf.training.resume_settings import write_settings


def save(run: Path, step: int, value: float = 1.0) -> Path:
    """What the Trainer leaves behind, as far as resuming needs it."""
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    weights = {"a": torch.ones(64, 64), "b": torch.full((3,), value).bfloat16(), "steps": torch.tensor([step])}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    parameter = torch.nn.Parameter(torch.ones(100))
    parameter.grad = torch.ones(100)
    optimizer = torch.optim.AdamW([parameter])
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    torch.save(torch.optim.lr_scheduler.StepLR(optimizer, 10).state_dict(), folder / "scheduler.pt")
    TrainerState(global_step=step, max_steps=1000).save_to_json(str(folder / "trainer_state.json"))
    return folder


def truncate(path: Path, to: float):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TEARS = {
    "weights cut short": lambda folder: truncate(folder / "model.safetensors", 0.9),
    "weights cut in the header": lambda folder: truncate(folder / "model.safetensors", 0.001),
    "weights empty": lambda folder: truncate(folder / "model.safetensors", 0),
    "weights missing": lambda folder: (folder / "model.safetensors").unlink(),
    "state missing": lambda folder: (folder / "trainer_state.json").unlink(),
    "state empty": lambda folder: truncate(folder / "trainer_state.json", 0),
    "state cut short": lambda folder: truncate(folder / "trainer_state.json", 0.5),
    "state of another kind": lambda folder: (folder / "trainer_state.json").write_text('{"speed": 3}'),
    "state a list": lambda folder: (folder / "trainer_state.json").write_text("[1]"),
    "state no text": lambda folder: (folder / "trainer_state.json").write_bytes(b"\xff\xfe\x00\x80"),
    "optimizer missing": lambda folder: (folder / "optimizer.pt").unlink(),
    "optimizer cut short": lambda folder: truncate(folder / "optimizer.pt", 0.5),
    "optimizer overwritten": lambda folder: overwrite(folder / "optimizer.pt", b"torch._utils"),
    "schedule missing": lambda folder: (folder / "scheduler.pt").unlink(),
    "schedule empty": lambda folder: truncate(folder / "scheduler.pt", 0),
    "schedule a pointer": lambda folder: (folder / "scheduler.pt").write_bytes(POINTER),
    "weights a pointer": lambda folder: (folder / "model.safetensors").write_bytes(POINTER),
    "random numbers damaged": lambda folder: (folder / "rng_state.pth").write_bytes(b"PK\3\4torn"),
    "scaler damaged": lambda folder: (folder / "scaler.pt").write_bytes(b"torn"),
    "settings damaged": lambda folder: (folder / "resume_settings.json").write_text("{"),
    "position damaged": lambda folder: (folder / "data_position_0.json").write_text("{"),
    "a part of the weights missing": lambda folder: name_parts(folder, "model-00002-of-00002.safetensors"),
    "a part of the weights elsewhere": lambda folder: name_parts(folder, "../checkpoint-100/model.safetensors"),
    "no shards in their folder": lambda folder: (folder / "pytorch_model_fsdp_0").mkdir(),
}


def overwrite(path: Path, pattern: bytes):
    """Zeros in the middle, as after a power cut."""
    content = path.read_bytes()
    assert pattern in content
    path.write_bytes(content.replace(pattern, bytes(len(pattern)), 1))


def name_parts(folder: Path, *parts: str):
    index = {"metadata": {}, "weight_map": {str(number): part for number, part in enumerate(parts)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_never_picked_up(tmp_path, tear):
    good, torn = save(tmp_path, 100), save(tmp_path, 200)
    assert complete_checkpoints(tmp_path) == [torn, good]
    TEARS[tear](torn)
    assert damage_of_checkpoint(torn)
    assert complete_checkpoints(tmp_path) == [good]
    assert last_finite_checkpoint(tmp_path) == good
    assert resolve_resume("auto", tmp_path) == good
    with pytest.raises(ValueError, match=f"{torn.name}' is not a complete checkpoint.*: checkpoint-100") as error:
        resolve_resume(str(torn), tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_checksums_are_compared_before_training_resumes(tmp_path):
    """No reader of tensors notices other numbers."""
    good, torn = save(tmp_path, 100), save(tmp_path, 200)
    numbers = (0.001 * torch.ones(8)).numpy().tobytes()  # squared gradients
    overwrite(torn / "optimizer.pt", numbers)
    assert damage_of_checkpoint(torn) is None
    assert damage_of_checkpoint(torn, thorough=True) == "optimizer.pt is damaged (its checksums do not match)"
    assert resolve_resume("auto", tmp_path) == good


def test_a_skipped_checkpoint_is_named_with_its_damage(tmp_path, caplog):
    save(tmp_path, 100), (save(tmp_path, 200) / "scheduler.pt").unlink()
    resolve_resume("auto", tmp_path)
    assert (
        "checkpoint-200 is skipped, because scheduler.pt is missing. Training continues from checkpoint-100"
        in caplog.text
    )


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(tmp_path):
    (save(tmp_path, 100) / "scheduler.pt").write_bytes(POINTER)
    with pytest.raises(
        ValueError, match="checkpoint-100 is skipped, because scheduler.pt is a git-lfs pointer.*another `output_dir`"
    ):
        resolve_resume("auto", tmp_path)


def test_deleted_in_the_order_of_their_steps_whatever_the_clock_says(tmp_path):
    folders = {step: save(tmp_path, step) for step in (30, 100, 200, 1000)}
    for age, step in enumerate((1000, 200, 100, 30)):
        os.utime(folders[step], (age, age))
    delete_older(tmp_path, 2, kept={folders[1000]})
    assert RunFolder(tmp_path).checkpoints() == [folders[200], folders[1000]]
    delete_older(tmp_path, None, kept=set())
    delete_older(tmp_path, 0, kept=set())
    assert RunFolder(tmp_path).checkpoints() == [folders[200], folders[1000]]


def test_the_one_just_written_and_the_best_one_are_never_deleted(tmp_path):
    folders = {step: save(tmp_path, step) for step in (100, 200, 300, 400)}
    (folders[400] / "scheduler.pt").unlink()
    written = folders[200]  # by a run that resumed from step 100
    delete_older(tmp_path, 2, kept={written})
    assert RunFolder(tmp_path).checkpoints() == [written, folders[300]]
    delete_older(tmp_path, 1, kept={written, folders[300]})
    assert RunFolder(tmp_path).checkpoints() == [written, folders[300]]


@pytest.mark.parametrize(
    "names",
    [
        {"optimizer.pt": "optimizer.bin"},  # FSDP, FULL_STATE_DICT
        {"optimizer.pt": "optimizer_0", "model.safetensors": "pytorch_model_fsdp_0"},  # SHARDED_STATE_DICT
    ],
)
def test_checkpoints_of_fsdp_are_complete(tmp_path, names):
    folder = save(tmp_path, 100)
    for name, other in names.items():
        (folder / name).rename(folder / other)
    assert damage_of_checkpoint(folder) is None


def test_several_weight_files_must_all_be_whole(tmp_path):
    folder = save(tmp_path, 100)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.ones(100)}, folder / "model-00002-of-00002.safetensors")
    assert damage_of_checkpoint(folder) is None
    truncate(folder / "model-00002-of-00002.safetensors", 0.8)
    assert damage_of_checkpoint(folder)


def test_order_is_by_number_not_by_text(tmp_path):
    steps = [200, 1000, 30]
    folders = {step: save(tmp_path, step) for step in steps}
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-5000").touch()  # no folder
    assert complete_checkpoints(tmp_path) == [folders[step] for step in (1000, 200, 30)]
    assert resolve_resume("auto", tmp_path) == folders[1000]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_last_finite_checkpoint_skips_broken_weights(tmp_path, value):
    good, newer = save(tmp_path, 100), save(tmp_path, 200, value)
    assert resolve_resume("auto", tmp_path) == newer  # complete all the same
    assert last_finite_checkpoint(tmp_path) == good


def test_nothing_finite_is_none(tmp_path):
    assert last_finite_checkpoint(tmp_path) is None
    save(tmp_path, 100, float("nan"))
    assert last_finite_checkpoint(tmp_path) is None


def test_resume_by_name(tmp_path):
    older, _ = save(tmp_path, 100), save(tmp_path, 200)
    assert resolve_resume(str(older), tmp_path) == older
    elsewhere = save(tmp_path / "other", 7)
    assert resolve_resume(str(elsewhere), tmp_path) == elsewhere


@pytest.mark.parametrize("run", ["empty", "missing"])
def test_auto_starts_where_there_is_nothing_yet(tmp_path, run):
    (tmp_path / "empty").mkdir()
    assert resolve_resume("auto", tmp_path / run) is None
    with pytest.raises(ValueError, match="'runs/typo' is not a complete checkpoint; .*: none"):
        resolve_resume("runs/typo", tmp_path / run)


def test_results_without_a_checkpoint_are_not_written_over(tmp_path):
    (tmp_path / "encoder").mkdir()
    with pytest.raises(ValueError, match="no complete checkpoint to continue from: give .* `--continue_from /.*`"):
        resolve_resume("auto", tmp_path)


@pytest.mark.parametrize(("given", "is_told"), [("me/name", True), ("./me/name", False), ("/me/name", False)])
def test_an_id_of_the_hub_is_no_checkpoint(tmp_path, given, is_told):
    with pytest.raises(ValueError, match=f"`resume` '{given}' is not a complete checkpoint; .*: none") as error:
        resolve_resume(given, tmp_path)
    assert ("optimizer state is never published" in str(error.value)) == is_told
    assert str(error.value).endswith("with `--continue_from me/name`.") == is_told


def test_every_process_must_have_left_its_part(tmp_path):
    folder = save(tmp_path, 100)
    write_settings(folder, {}, {}, world_size=2)
    for rank in range(2):
        assert damage_of_checkpoint(folder)
        write_position(folder, rank, RankState([], 0, 0))
    for rank in range(2):
        assert damage_of_checkpoint(folder) == f"rng_state_{rank}.pth is missing"
        torch.save(torch.get_rng_state(), folder / f"rng_state_{rank}.pth")
    assert damage_of_checkpoint(folder) is None


def test_published_in_place_of_what_was_there(tmp_path):
    torn, written = save(tmp_path, 100), save(tmp_path / "aside", 100, value=2.0)
    (torn / "optimizer.pt").unlink()
    RunFolder(tmp_path).add_checkpoint(written)
    assert damage_of_checkpoint(torn) is None and not written.exists()


def test_a_damaged_number_of_processes_costs_no_memory(tmp_path):
    checkpoint = save(tmp_path, 100)
    (checkpoint / "resume_settings.json").write_text(json.dumps({"world_size": 10**12}))
    assert damage_of_checkpoint(checkpoint).endswith(" is missing")
