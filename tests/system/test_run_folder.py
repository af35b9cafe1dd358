import json
import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from test_trainer import model_for, trainer_for

from lejepa_hf.runs.pretraining import main
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.system.run_folder import RunFolder

MARKS = ["recipe.yaml", "metrics.jsonl", "results.json", "encoder/", "pretraining/", "checkpoint-100/"]


def put(folder, mark: str):
    path = folder / mark
    path.mkdir(parents=True) if mark.endswith("/") else (folder.mkdir(exist_ok=True), path.touch())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mark", MARKS)
def test_another_run_is_never_written_over(tmp_path, mark):
    put(tmp_path / "run", mark)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"'.*run' holds another run \({mark.rstrip('/')}\)\..*`--resume`"):
        run.claim()
    with pytest.raises(ValueError, match=r"run' holds another run .*, and `resume` '.*other/checkpoint-2' is not one"):
        run.claim(tmp_path / "other" / "checkpoint-2")
    run.claim("auto")
    run.claim(tmp_path / "run" / "checkpoint-100")


def test_free_folders(tmp_path):
    RunFolder(tmp_path / "missing").claim()
    RunFolder(tmp_path).claim()
    RunFolder(tmp_path).claim(tmp_path / "other" / "checkpoint-2")
    (tmp_path / "notes.txt").touch()
    RunFolder(str(tmp_path)).claim()


def test_what_a_run_that_has_begun_may_find(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.write_start({"dataset": "digits"})
    run.claim(is_started=True)
    run.checkpoint(2).mkdir()
    with pytest.raises(ValueError, match="holds another run"):
        run.claim(is_started=True)


def checkpoint_of(run: RunFolder, step: int) -> Path:
    written = run.path / "aside" / f"checkpoint-{step}"
    written.mkdir(parents=True)
    run.add_checkpoint(written)
    return run.checkpoint(step)


def test_a_checkpoint_is_known_by_the_identity_of_its_run(tmp_path):
    run, other = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "other")
    for one in (run, other):
        one.write_start({"dataset": "digits"})
        checkpoint_of(one, 2)
    run.checkpoint(2).rename(tmp_path / "kept")
    run.claim(tmp_path / "kept")
    with pytest.raises(ValueError, match="holds another run"):
        other.claim(tmp_path / "kept")
    run.write_start({"dataset": "digits"})  # a resumed run keeps it
    run.claim(tmp_path / "kept")


def test_a_run_that_began_with_a_checkpoint_of_another_can_begin_again(tmp_path):
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    first.write_start({"dataset": "digits"})
    start = checkpoint_of(first, 2)
    second.write_start({"dataset": "digits"}, resume=start)
    second.claim(start)
    checkpoint_of(second, 4)
    with pytest.raises(ValueError, match="holds another run"):  # it would begin again from the older one
        second.claim(start)
    second.claim("auto")


def test_names_of_checkpoints(tmp_path):
    run = RunFolder(tmp_path)
    for name in ("checkpoint-100", "checkpoint-20", "checkpoint-best", "_checkpoint-7_to_push", "encoder-20"):
        (tmp_path / name).mkdir()
    assert [path.name for path in run.checkpoints()] == ["checkpoint-20", "checkpoint-100"]
    assert run.exported(run.checkpoint(20)) == tmp_path / "encoder-20"
    assert run.exported(run.checkpoint(20), averaged=True) == tmp_path / "encoder_averaged-20"
    assert run.waiting_pushes() == [run.waiting_push(run.checkpoint(7))]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, request):
    """Run A of 4 steps with checkpoint-2 and checkpoint-4, and a finished run C with other settings."""
    folder = tmp_path_factory.mktemp("runs")
    backbone = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16]}
    backbone |= {"depths": [1, 1]}
    torch.set_num_threads(1)
    for name in ("a", "c"):
        trainer_for(folder / name, model_for(backbone), max_steps=4, save_steps=2, save_total_limit=2).train()
    (folder / "c" / "encoder").mkdir()
    return folder, backbone


def test_python_does_not_continue_one_run_in_the_folder_of_another(two_runs):
    folder, backbone = two_runs
    before = contents(folder / "c")
    trainer = trainer_for(folder / "c", model_for(backbone), max_steps=6, save_steps=2, save_total_limit=1)
    with pytest.raises(
        ValueError, match=r"c' holds another run .*`resume` '.*a/checkpoint-2'.*resume_from_checkpoint"
    ):
        trainer.train(resume_from_checkpoint=folder / "a" / "checkpoint-2")
    with pytest.raises(ValueError, match="c' holds another run"):
        trainer.train()
    assert contents(folder / "c") == before


def test_the_command_line_does_not_either(two_runs, capsys):
    folder, _ = two_runs
    before = contents(folder / "c")
    arguments = ["recipes/digits/resnet_tiny.yaml", "--output_dir", str(folder / "c"), "--use_cpu"]
    assert main([*arguments, "--resume", str(folder / "a" / "checkpoint-2")]) == 2
    error = capsys.readouterr().err
    assert "holds another run (metrics.jsonl, encoder, checkpoint-2, checkpoint-4), and `resume`" in error
    assert "Continue that run with `--resume`" in error and "another `--output_dir`" in error
    assert contents(folder / "c") == before


def test_a_start_that_is_forgotten_leaves_the_folder_free(tmp_path):
    run = RunFolder(tmp_path)
    run.write_start({"dataset": "digits"})
    run.metrics.touch()
    (tmp_path / "notes.txt").touch()
    run.forget_start()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    run.write_start({"dataset": "digits"})
    run.checkpoint(2).mkdir()
    run.forget_start()
    assert run.is_begun(), "a run with a checkpoint has begun"


def test_recipe_and_versions_can_be_read_back(tmp_path):
    recipe = {"dataset": "digits", "backbone_config": {"hidden_sizes": [8, 16]}, "learning_rate": 2e-5, "seed": None}
    run = RunFolder(tmp_path / "new" / "run")
    run.write_start(recipe)
    assert yaml.safe_load(run.recipe.read_text()) == recipe == run.read_recipe()
    versions = run.read_versions()
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    assert {"python", "transformers", "accelerate", "datasets", "lejepa-hf"} <= versions.keys()


def test_a_real_recipe_is_written_without_secrets_and_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environmentsecret")
    (tmp_path / "recipe.yaml").write_text(
        "dataset: digits\nbackbone_config: {model_type: resnet}\nmax_steps: 3\nlearning_rate: 2e-3\n"
        "accelerator_config: {split_batches: false}\nreport_to: [none]\nuse_cpu: true\n",
        encoding="utf-8",
    )
    arguments = ["--output_dir", str(tmp_path / "run"), "--hub_token", "hf_commandlinesecret"]
    recipe = parse_recipe(tmp_path / "recipe.yaml", arguments)
    run = RunFolder(tmp_path / "run")
    run.write_start(recipe.resolved(), recipe.training.to_dict())
    for path in run.path.iterdir():
        assert "secret" not in path.read_text()
        assert not re.search(r"token\b", path.read_text())
    again = parse_recipe(run.recipe)
    assert again.model == recipe.model
    assert again.data == recipe.data
    assert again.resolved() == recipe.resolved()
    # Beside the recipe every other argument, transformers' defaults included.
    recorded = run.read_arguments()
    assert (recorded["adam_beta2"], recorded["learning_rate"]) == (0.999, 2e-3)
    assert recorded["per_device_train_batch_size"] == recipe.training.per_device_train_batch_size
    assert recorded.keys() >= {name for name in recipe.training.to_dict() if "token" not in name}


def test_which_names_were_paths_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "data" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    mixture = [{"dataset": "data/photos"}, {"dataset": "user/photos"}]
    for recipe in ({"dataset": "data/photos", "pretrained_backbone": "user/vit"}, {"mixture": mixture}):
        RunFolder("run").write_start(recipe)
        assert RunFolder("run").read_local_paths() == ["data/photos"]
    assert RunFolder(tmp_path).read_local_paths() is None


def write_rows(run, rows: list[dict]):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_rows_by_their_kind(tmp_path):
    training = [{"step": step, "prediction_loss": 1 / step} for step in (10, 20)]
    held_out = [{"step": step, "eval_loss": 2 / step} for step in (10, 20)]
    write_rows(tmp_path, [training[0], held_out[0], training[1], held_out[1], {"step": 20, "train_runtime": 3.0}])
    run = RunFolder(tmp_path)
    assert run.read_metrics() == training
    assert run.read_held_out() == held_out
    assert len(run.read_rows()) == 5
    assert RunFolder(tmp_path / "nothing").read_rows() == []


def test_a_step_repeated_after_a_kill_counts_once(tmp_path):
    write_rows(
        tmp_path, [{"step": 10, "eval_loss": 3.0}, {"step": 20, "eval_loss": 2.0}, {"step": 20, "eval_loss": 1.0}]
    )
    assert [row["eval_loss"] for row in RunFolder(tmp_path).read_held_out()] == [3.0, 1.0]


def test_a_line_torn_by_a_kill_is_left_out(tmp_path):
    write_rows(tmp_path, [{"step": 10, "prediction_loss": 1.0}, {"step": 20, "prediction_loss": 1.0}])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "prediction_lo')
    assert [row["step"] for row in RunFolder(tmp_path).read_metrics()] == [10, 20]


def test_a_checkpoint_kept_on_another_disk_is_still_of_the_run(tmp_path):
    (tmp_path / "archive/old-3").mkdir(parents=True)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.checkpoint(3).symlink_to(tmp_path / "archive/old-3")
    run.claim(run.checkpoint(3))
    with pytest.raises(ValueError, match="is not one of its checkpoints"):
        run.claim(tmp_path / "archive/old-3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not valid YAML"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "recipe.yaml is a git-lfs pointer"),
        ("- 1", "is not a recipe: it has no keys"),
    ],
)
def test_a_recipe_that_is_not_one_is_named(tmp_path, content, message):
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/recipe.yaml' .*{message}"):
        RunFolder(tmp_path).read_recipe()


def test_waiting_pushes_are_in_the_order_of_their_steps(tmp_path):
    for age, step in enumerate((100, 20, 3)):
        (tmp_path / f"_checkpoint-{step}_to_push").mkdir()
        os.utime(tmp_path / f"_checkpoint-{step}_to_push", (age, age))
    assert [path.name for path in RunFolder(tmp_path).waiting_pushes()] == [
        f"_checkpoint-{step}_to_push" for step in (3, 20, 100)
    ]
