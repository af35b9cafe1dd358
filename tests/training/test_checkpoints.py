from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainerState

from lejepa_hf.data.reader_state import RankState, write_position
from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.training.checkpoints import (
    complete_checkpoints,
    is_complete,
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
    parameter = torch.nn.Parameter(torch.ones(2))
    torch.save(torch.optim.AdamW([parameter]).state_dict(), folder / "optimizer.pt")
    TrainerState(global_step=step, max_steps=1000).save_to_json(str(folder / "trainer_state.json"))
    return folder


def truncate(path: Path, to: float):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * to)])


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
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_never_picked_up(tmp_path, tear):
    good, torn = save(tmp_path, 100), save(tmp_path, 200)
    assert complete_checkpoints(tmp_path) == [torn, good]
    TEARS[tear](torn)
    assert not is_complete(torn)
    assert complete_checkpoints(tmp_path) == [good]
    assert last_finite_checkpoint(tmp_path) == good
    assert resolve_resume("auto", tmp_path) == good
    with pytest.raises(ValueError, match=f"{torn.name}' is not a complete checkpoint.*: checkpoint-100"):
        resolve_resume(str(torn), tmp_path)


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
    assert is_complete(folder)


def test_several_weight_files_must_all_be_whole(tmp_path):
    folder = save(tmp_path, 100)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.ones(100)}, folder / "model-00002-of-00002.safetensors")
    assert is_complete(folder)
    truncate(folder / "model-00002-of-00002.safetensors", 0.8)
    assert not is_complete(folder)


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
        assert not is_complete(folder)
        write_position(folder, rank, RankState([], 0, 0))
    assert is_complete(folder)


def test_published_in_place_of_what_was_there(tmp_path):
    torn, written = save(tmp_path, 100), save(tmp_path / "aside", 100, value=2.0)
    (torn / "optimizer.pt").unlink()
    RunFolder(tmp_path).add_checkpoint(written)
    assert is_complete(torn) and not written.exists()
