import json
import shutil
import subprocess
import sys

import pytest
import torch
from error_line import one_line
from photo_tables import write_photos, write_table
from PIL import Image
from transformers import AutoConfig, AutoModel

from lejepa_hf import export_encoder
from lejepa_hf.cli import main
from lejepa_hf.evaluation import compare_encoders
from lejepa_hf.hub.export import build_processor


def test_export(run, capsys):
    assert main(["export", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'encoder'}\n"
    assert AutoModel.from_pretrained(run / "encoder").config.model_type == "resnet"
    assert main(["export", str(run), str(run / "elsewhere")]) == 0
    assert (run / "elsewhere" / "model.safetensors").is_file()


def test_export_of_a_checkpoint(run, tmp_path, capsys):
    (run / "pretraining").rename(run / "checkpoint-400")
    for folder, found in (([], run / "encoder-400"), ([str(tmp_path / "mine")], tmp_path / "mine")):
        assert main(["export", str(run / "checkpoint-400"), *folder]) == 0
        assert capsys.readouterr().out == f"{found}\n"
        assert AutoModel.from_pretrained(found).config.model_type == "resnet"


def test_export_without_rights(run, capsys):
    assert main(["export", str(run), "/proc/encoder"]) == 2
    assert "could not be written into '/proc/encoder'" in one_line(capsys.readouterr().err)


def test_export_of_nothing(run, tmp_path, capsys):
    assert main(["export", str(run), "--averaged"]) == 2
    assert "no averaged encoder" in one_line(capsys.readouterr().err)
    assert main(["export", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert "holds neither pretraining/ nor a checkpoint" in one_line(captured.err)
    assert captured.out == ""


def test_evaluate(run, tmp_path, capsys):
    encoder = str(export_encoder(run))
    copy, cache, out = tmp_path / "copy", tmp_path / "cache", tmp_path / "results.json"
    shutil.copytree(encoder, copy)
    command = ["evaluate", encoder, str(copy), "--dataset", "digits", "--protocol", "knn", "few-shot"]
    assert main([*command, "--shots", "1", "all", "--cache_dir", str(cache), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    table, differences, conditions = captured.out.split("\n\n")
    header, _, *rows = table.splitlines()
    assert conditions.startswith("digits: fitted on 1,347 images (train), measured on 450 images (test)")
    assert differences.startswith(f"| points more than {encoder} | {copy} ")
    assert differences.count("+0.0 ± 0.0") == 6 and differences.count("+0.0 ± 0.0, p 1") == 5
    assert header.split("|")[2:4] == [
        f" {name} " for name in (encoder, str(copy).ljust(len(header.split("|")[3]) - 2))
    ]
    names = ["knn10", "knn", "knn100", "knn200", "1shot", "allshot"]
    assert [row.split("|")[1].split()[0] for row in rows] == names
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["encoders"][encoder] == record["encoders"][str(copy)]
    assert len(record["encoders"][encoder]["fingerprint"]) == 8
    assert record["eval"].items() >= {"dataset": "digits", "split": "test", "images": 450}.items()
    assert record["settings"]["shots"] == [1, "all"] and "cache_dir" not in record["settings"]
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    results = {name: found["results"] for name, found in record["encoders"].items()}
    assert all(20 < float(row.split("|")[2].split(" ± ")[0]) <= 100 for row in rows)
    assert f"{100 * results[encoder]['eval_knn_top1_ci95']:.1f}" == rows[1].split("|")[2].split(" ± ")[1].strip()
    # The copy is the same encoder: its embeddings were there.
    assert len(list(cache.iterdir())) == 2 and captured.err.count("images found in") == 2


@pytest.mark.slow
def test_transfer(run, tmp_path, capsys):
    encoder, out = str(export_encoder(run)), tmp_path / "table"
    command = ["transfer", encoder, "--datasets", "digits", "--shots", "1", "1%", "--out", str(out), "--no-cache"]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.out == (out / "table.md").read_text(encoding="utf-8")
    header, _, one, percent = captured.out.splitlines()
    assert header.split() == ["|", "shots", "|", "encoder", "|", "digits", "|", "average", "|"]
    assert one.startswith(f"| 1     | {encoder} | ") and percent.startswith(f"| 1%    | {encoder} | ")
    # One per cent of some 135 images of each digit is one image, in other draws.
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out == captured.out and "digits (1 of 1): found in" in again.err
    assert main([*command, "--datasets", "digits", "/no/such/folder"]) == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith("not evaluated: /no/such/folder: `dataset` '/no/such/folder'")


@pytest.mark.slow
def test_evaluate_with_several_processes(run, tmp_path, capsys):
    encoder = str(export_encoder(run))
    command = ["-m", "lejepa_hf", "evaluate", encoder, "--dataset", "digits", "--protocol", "knn", "--no_cache"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    tables = [
        subprocess.run([sys.executable, *start, *command], capture_output=True, text=True, check=True).stdout
        for start in ([], launcher)
    ]
    assert tables[0] == tables[1] and tables[0].count("knn top1") == 1


@pytest.mark.slow
def test_several_processes_fine_tune_one_network(run, tmp_path):
    encoder, out = str(export_encoder(run)), tmp_path / "results.json"
    command = ["-m", "lejepa_hf", "evaluate", encoder, "--dataset", "digits", "--protocol", "fine-tune", "--no_cache"]
    command += ["--learning_rate", "2e-3", "--num_epochs", "3", "--out", str(out)]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    found = []
    for start in ([], launcher):
        done = subprocess.run([sys.executable, *start, *command], capture_output=True, text=True, check=True)
        assert done.stdout.count("finetune top1") == 1
        record = json.loads(out.read_text(encoding="utf-8"))
        found.append(record["encoders"][encoder]["results"])
    assert [list(one) for one in found] == [list(found[0])] * 2
    # All 450 test images count, and each step sees 64 images: one process or two learn about the same.
    assert found[0]["eval_finetune_top1"] > 0.6
    assert abs(found[0]["eval_finetune_top1"] - found[1]["eval_finetune_top1"]) < 0.1
    assert found[1]["eval_finetune_top1"] * 450 == pytest.approx(round(found[1]["eval_finetune_top1"] * 450))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "/no/such/folder"], "`dataset` '/no/such/folder'"),
        (["--dataset", "digits", "--eval_split", "validation"], "has the splits train and test"),
        (["--dataset", "digits", "--protocol", "knn", "svm"], "`protocols` svm unknown"),
        (["--dataset", "UNLABELLED", "--eval_split", "train"], "has no labels"),
        (["--dataset", "didgits"], "Did you mean 'digits'?"),
        (["--dataset", "digits", "--protocol", "few-shot", "--shots", "1000"], "`shots` 1000 needs more images than"),
        (["--dataset", "digits", "--out", "no/such/folder.json"], "the folder 'no/such' does not exist"),
        (["--dataset", "digits", "--out", "/tmp"], "`--out` '/tmp' is a folder: name a file"),
        (["--dataset", "digits", "--eval_split", "train"], "evaluated on the same images"),
        (["--dataset", "digits", "--metric", "top3"], "`metrics` top3 unknown; known are top1, top5, mean-per-class"),
        (
            ["--dataset", "digits", "--shots", "1"],
            "`shots` [1] is a setting of few-shot, and `protocols` are linear",
        ),
    ],
)
def test_evaluate_refuses_in_one_line(run, tmp_path, capsys, arguments, message):
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    arguments = [str(tmp_path / "images") if argument == "UNLABELLED" else argument for argument in arguments]
    encoder = str(export_encoder(run))
    capsys.readouterr()
    assert main(["evaluate", encoder, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in one_line(captured.err)
    assert captured.out == ""


@pytest.mark.parametrize("option", ["--data_files", "--data-files"])
def test_files_of_tables_to_evaluate_on(run, tmp_path, capsys, option):
    names = write_photos(tmp_path, 12)
    tables = [
        write_table(tmp_path / f"{name}.csv", file=names[half], species=["oak", "fir"] * 3)
        for name, half in (("a", slice(0, 6)), ("b", slice(6, 12)))
    ]
    encoder = str(export_encoder(run))
    command = ["evaluate", encoder, "--dataset", "csv", option, *tables, "--label_column", "species", "--no_cache"]
    assert main([*command, "--protocol", "knn", "--eval-split", "50%"]) == 0
    assert "a.csv: fitted on 6 images" in capsys.readouterr().out
    assert main([*command, "--protocol", "knn", "--folds", "2"]) == 0
    assert "a.csv" in capsys.readouterr().out
    assert main(["evaluate", encoder, "--dataset", "csv", "--eval_split", "50%"]) == 2
    assert "`data_files` is missing" in one_line(capsys.readouterr().err)


def test_all_encoders_are_looked_at_before_the_first_is_evaluated(run, tmp_path, capsys):
    command = ["evaluate", str(export_encoder(run)), str(tmp_path / "missing"), "--dataset", "digits", "--no_cache"]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert "missing' is neither a folder here nor" in errors and "embedding" not in errors


def test_images_are_tried_with_all_encoders_first(run, tmp_path, tiny_resnet, capsys):
    other, out = tmp_path / "five", tmp_path / "results.json"
    AutoModel.from_config(AutoConfig.for_model(**tiny_resnet, num_channels=5)).save_pretrained(other)
    build_processor(16, 1.0, [0.5] * 5).save_pretrained(other)
    encoder = str(export_encoder(run))
    command = ["evaluate", encoder, str(other), "--dataset", "digits", "--protocol", "knn", "--out", str(out)]
    assert main(command) == 2
    captured = capsys.readouterr()
    assert "resnet encoder of 5 channels" in captured.err and "knn:" not in captured.err and not out.exists()


def test_results_before_a_failure_are_kept(run, tmp_path, monkeypatch, capsys):
    first, out = str(export_encoder(run)), tmp_path / "results.json"
    second = str(shutil.copytree(first, tmp_path / "second"))
    measure = compare_encoders.measure

    def fail_at_the_second(encoder, *arguments, **settings):
        if out.exists():
            raise OSError("the disk is gone")
        return measure(encoder, *arguments, **settings)

    monkeypatch.setattr(compare_encoders, "measure", fail_at_the_second)
    command = ["evaluate", first, second, "--dataset", "digits", "--protocol", "knn", "--no_cache", "--out", str(out)]
    assert main(command) == 2
    assert "knn: knn10 top1 " in capsys.readouterr().err
    assert list(json.loads(out.read_text(encoding="utf-8"))["encoders"]) == [first]


def test_evaluate_without_the_encoder(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / "nothing"), "--dataset", "digits"]) == 2
    assert "nothing' is neither a folder here nor a name of a repository" in one_line(capsys.readouterr().err)
