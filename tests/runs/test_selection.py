"""Runs are written as the Trainer leaves them: a recipe, logged rows, checkpoints."""

import json
import math
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lejepa_hf.cli import main
from lejepa_hf.runs.selection import Candidate, find_candidates, format_candidates, rank_correlation
from lejepa_hf.system.run_folder import RunFolder
from lejepa_hf.training_args import LeJEPATrainingArguments

RECIPE = {"dataset": "digits", "eval_split": "test", "eval_strategy": "steps", "statistic": "epps_pulley"}
RECIPE |= {"projector_dims": [64, 16], "num_global_views": 2, "sigreg_weight": 0.1, "backbone_config": {}}


def write_run(run: Path, losses: dict[int, float], accuracies: dict[int, float] | None = None, **recipe) -> str:
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | recipe))
    rows = [{"step": step, "eval_loss": loss} for step, loss in losses.items()]
    for row in rows if accuracies else []:
        row["eval_knn_top1"] = accuracies[row["step"]]
    training = {"step": 5, "prediction_loss": 0.1, "sigreg_loss": 1.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [training, *rows]))
    return str(run)


def test_the_last_evaluation_and_those_of_checkpoints(tmp_path):
    run = write_run(tmp_path / "a", {10: 3.0, 20: 2.0, 30: 1.0}, {10: 0.5, 20: 0.6, 30: 0.7})
    for name in ("checkpoint-20", "checkpoint-25", "checkpoint-30"):
        (tmp_path / "a" / name).mkdir()
    (tmp_path / "a" / "results.json").write_text(json.dumps({"encoder": {"eval_linear_top1": 0.8}}))
    weight = RECIPE["sigreg_weight"]
    assert find_candidates([run]) == [
        Candidate("a", 30, True, weight, 1.0, 0.7, 0.8),
        Candidate("a", 20, False, weight, 2.0, 0.6),
    ]


def test_the_weight_is_corrected_for(tmp_path):
    # The raw loss prefers the smaller weight, the corrected one does not.
    runs = [
        write_run(tmp_path / "light", {10: 1.0}, sigreg_weight=0.01),
        write_run(tmp_path / "heavy", {10: 2.0}, sigreg_weight=0.1),
    ]
    best, other = find_candidates(runs)
    assert (best.run, other.run) == ("heavy", "light")
    assert best.score == pytest.approx(2.0 / 10**-0.4)
    assert other.score == pytest.approx(1.0 / 10**-0.8)


def test_runs_of_the_same_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / seed / "digits", {10: 1.0}) for seed in ("0", "1")]
    assert {one.run for one in find_candidates(runs)} == set(runs)


def test_shares_of_other_images_are_not_compared(tmp_path):
    runs = [write_run(tmp_path / name, {10: 1.0}, eval_split=name) for name in ("5%", "5 %")]
    assert len(find_candidates(runs)) == 2
    runs.append(write_run(tmp_path / "other", {10: 1.0}, eval_split="5%", train_split="train[:50%]"))
    with pytest.raises(ValueError, match="`eval_split` is '5% of train' there and '5% of train.:50%.' here"):
        find_candidates(runs)
    groups = write_run(tmp_path / "groups", {10: 1.0}, eval_split="5%", group_column="patient")
    with pytest.raises(ValueError, match="`group_column` is None there and 'patient' here"):
        find_candidates([runs[0], groups])


def candidates(scores: list[float], accuracies: list[float | None]) -> list[Candidate]:
    return [Candidate(f"{n}", 1, True, 1.0, *pair) for n, pair in enumerate(zip(scores, accuracies, strict=True))]


def test_rank_correlation():
    assert rank_correlation(candidates([1, 2, 3, 9], [0.9, 0.8, 0.3, None])) == (pytest.approx(1.0), 3)
    assert rank_correlation(candidates([1, 2, 3], [0.1, 0.2, 0.3])) == (pytest.approx(-1.0), 3)
    for scores, accuracies in (([1, 2], [0.5, 0.5]), ([1], [0.5])):
        correlation, number = rank_correlation(candidates(scores, accuracies))
        assert math.isnan(correlation) and number == len(scores)


def test_weights_far_apart(tmp_path):
    runs = {weight: write_run(tmp_path / str(weight), {10: 1.0}, sigreg_weight=weight) for weight in (0.01, 0.1, 0.2)}
    assert "far apart" not in format_candidates(find_candidates([runs[0.01], runs[0.1]]))
    assert "Weights of 0.01 to 0.2 are far apart" in format_candidates(find_candidates(list(runs.values())))


def test_the_table_says_what_the_correlation_is_worth():
    table = format_candidates(candidates([1, 2, 3], [0.9, 0.8, 0.75]))
    header, _, first, *_ = table.splitlines()
    assert header.startswith("| run | step")
    assert [cell.strip() for cell in first.split("|")[1:-1]] == ["0", "1 (last)", "1", "1.0000", "1.0000", "90.0", ""]
    assert table.endswith("1.00 over 3 candidates with labels.")
    assert "2 candidates with labels; below 3 it is meaningless" in format_candidates(candidates([1, 2], [0.9, 0.8]))
    assert "over 1 candidate with labels, which do not differ" in format_candidates(candidates([1], [0.9]))
    assert "the score alone ranks" in format_candidates(candidates([1, 2], [None, None]))


@pytest.mark.parametrize("accuracies", [None, {10: 0.5}])
def test_command_and_picture(tmp_path, capsys, accuracies):
    runs = [write_run(tmp_path / name, {10: loss}, accuracies) for name, loss in (("a", 2.0), ("b", 1.0))]
    assert main(["select", *runs]) == 0
    printed = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in printed.splitlines()[2:4]] == ["b", "a"]
    assert main(["select", *runs, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{printed}\n{tmp_path / 'out' / 'select.png'}\n"
    with Image.open(tmp_path / "out" / "select.png") as image:
        assert 400 <= image.width <= 2400


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"statistic": "jarque_bera"}, "`statistic` is 'epps_pulley' there and 'jarque_bera' here"),
        ({"projector_dims": [64, 32]}, r"`projector_dims` is \[64, 16\] there and \[64, 32\] here"),
        ({"num_global_views": 3}, "`num_global_views` is 2 there and 3 here"),
        ({"dataset": "me/photos"}, "`dataset` is 'digits' there and 'me/photos' here"),
        ({"per_device_train_batch_size": 64}, "`per_device_train_batch_size` is 8 there and 64 here"),
        ({"sigreg_weight": 0.0}, "has `sigreg_weight` 0.0: without SIGReg there is no corrected loss"),
    ],
)
def test_what_cannot_be_compared_is_named(tmp_path, recipe, message):
    runs = [write_run(tmp_path / "a", {10: 1.0}), write_run(tmp_path / "b", {10: 1.0}, **recipe)]
    with pytest.raises(ValueError, match=message):
        find_candidates(runs)


def test_a_default_may_be_stated(tmp_path):
    default = LeJEPATrainingArguments.per_device_train_batch_size
    runs = [write_run(tmp_path / "a", {10: 1.0}), write_run(tmp_path / "b", {10: 1.0})]
    runs.append(write_run(tmp_path / "stated", {10: 1.0}, per_device_train_batch_size=default))
    recorded = write_run(tmp_path / "recorded", {10: 1.0})
    RunFolder(recorded).record.write_text(json.dumps({"arguments": {"per_device_train_batch_size": default}}))
    assert len(find_candidates([*runs, recorded])) == 4


def test_keys_that_an_earlier_version_did_not_have(tmp_path):
    runs = [write_run(tmp_path / "old", {10: 1.0}), write_run(tmp_path / "new", {10: 2.0}, rotate90_probability=0.0)]
    assert len(find_candidates(runs)) == 2
    other = write_run(tmp_path / "turned", {10: 1.0}, rotate90_probability=1.0)
    with pytest.raises(ValueError, match=r"`rotate90_probability` is 0\.0 there and 1\.0 here"):
        find_candidates([runs[0], other])


def test_a_path_may_be_written_in_other_ways(tmp_path):
    names = ("data/photos", "./data/photos/", "data//photos")
    runs = [write_run(tmp_path / str(number), {10: 1.0}, dataset=name) for number, name in enumerate(names)]
    assert len(find_candidates(runs)) == 3


def test_what_may_differ(tmp_path):
    other = {"backbone_config": {"model_type": "vit"}, "seed": 3, "learning_rate": 1.0, "projector_dims": [512, 16]}
    runs = [write_run(tmp_path / "a", {10: 1.0}), write_run(tmp_path / "b", {10: 1.0}, **other)]
    assert len(find_candidates(runs)) == 2


def test_folders_that_cannot_be_ranked(tmp_path, capsys):
    assert main(["select", str(tmp_path)]) == 2
    assert "is not a run: no recipe.yaml there" in capsys.readouterr().err
    run = write_run(tmp_path / "a", {}, eval_split=None)
    assert main(["select", run]) == 2
    assert "train with `eval_split` set and `eval_strategy` not 'no' (they are None and 'steps')" in (
        capsys.readouterr().err
    )


def test_losses_that_are_not_finite(tmp_path):
    run = write_run(tmp_path / "a", {10: 3.0, 20: math.nan, 30: math.inf})
    with pytest.raises(ValueError, match=r"NaN or infinite: 2 of 3, the first one at step 20\. Leave this run out"):
        find_candidates([run])


def test_losses_of_training_images_are_named(tmp_path):
    run, other = (write_run(tmp_path / name, {10: 3.0}) for name in "ab")
    path = tmp_path / "a" / "metrics.jsonl"
    path.write_text(path.read_text().replace('"eval_loss"', '"eval_shared_images": 5, "eval_loss"'))
    text = format_candidates(find_candidates([run, other]))
    assert "a: 5 of its held-out images are also training images, so that its losses are not held out." in text
    assert "b: " not in text
