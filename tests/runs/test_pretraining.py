"""The main job as users start it: real processes, real files."""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image
from processes import Script

from lejepa_hf import LeJEPAForPreTraining
from lejepa_hf.data.errors import DataError
from lejepa_hf.evaluation.intervals import is_spread
from lejepa_hf.runs.pretraining import NotTrained, build, main, run
from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.runs.resolving import resolve
from lejepa_hf.system.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
RECIPE = "recipes/digits/resnet_tiny.yaml"
SMALL = [
    "--max_steps", "4", "--save_steps", "2", "--per_device_train_batch_size", "16", "--use_cpu",
    "--projector_dims", "16", "8", "--dataloader_num_workers", "0", "--logging_steps", "1",
    "--monitor_images", "32",
]  # fmt: skip
FEW_DIGITS = ["--train_split", "train[:400]", "--eval_split", "test[:100]"]


def launch(*arguments: str, launcher=("-m", "accelerate.commands.launch")) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *launcher, "train.py", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    done = launch(RECIPE, *SMALL, *FEW_DIGITS, "--eval_protocols", "knn", "--output_dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


@pytest.mark.slow
def test_protocols_of_the_recipe(tmp_path):
    done = launch(RECIPE, *SMALL, "--output_dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())["encoder"]
    top1 = {"eval_linear_top1", "eval_knn_top1", "eval_1shot_top1", "eval_10shot_top1"}
    assert top1 | {"eval_linear_top5"} <= results.keys()
    assert all(0 < value <= 1 for name, value in results.items() if not is_spread(name))


def test_run_folder(finished):
    folder, done = finished
    for name in ("encoder/model.safetensors", "encoder/README.md", "pretraining/model.safetensors", "recipe.yaml",
                 "versions.json", "results.json", "metrics.jsonl", "pictures/losses.png", "pictures/embeddings.png",
                 "pictures/gaussianity.png", "pictures/pca_maps.png",
                 "pictures/neighbours.png", "pictures/confusion.png", "report.html", "statistics.json",
                 "checkpoint-2/trainer_state.json", "checkpoint-4/trainer_state.json"):  # fmt: skip
        assert (folder / name).stat().st_size > 0, name
    for name in ("encoder", "pretraining", "results.json", "statistics.json", "metrics.jsonl", "pictures"):
        assert name in done.stdout.split("Everything is in")[1]
    for row in ("LeJEPA encoder", "same encoder, untrained", "raw pixels"):
        assert row in done.stdout
    assert 0 < json.loads((folder / "results.json").read_text())["encoder"]["eval_knn_top1"] <= 1
    accuracy = RunFolder(folder).read_held_out()[-1]["eval_online_probe_top1"]
    card, page = ((folder / name).read_text(encoding="utf-8") for name in ("encoder/README.md", "report.html"))
    assert f"{100 * accuracy:.1f} % of up to " in card and f"<td>{100 * accuracy:.1f}</td></tr>" in page


@pytest.mark.slow
def test_encoder_works_where_this_package_cannot_be_imported(finished):
    folder, _ = finished
    code = f"""
import sys
sys.modules["lejepa_hf"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline
folder = {str(folder / "encoder")!r}
encoder, processor = AutoModel.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
with torch.no_grad():
    embedding = encoder(**processor(image, return_tensors="pt")).pooler_output.flatten()
piped = torch.tensor(pipeline("image-feature-extraction", model=folder)(image, pool=True)).flatten()
torch.testing.assert_close(piped, embedding)
print(*embedding.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    exported = torch.tensor([float(value) for value in done.stdout.split()])
    from transformers import AutoImageProcessor

    model = LeJEPAForPreTraining.from_pretrained(folder / "pretraining").eval()
    image = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(folder / "encoder")(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model.encoder(pixels).pooler_output.flatten()
    torch.testing.assert_close(exported, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_used_folder_is_refused_and_resume_continues(finished, capsys):
    folder, _ = finished
    again = [RECIPE, *SMALL, *FEW_DIGITS, "--eval_protocols", "knn", "--output_dir", str(folder)]
    assert main(again) == 2
    message = capsys.readouterr().err
    assert "holds another run" in message and "--resume" in message and "--output_dir" in message
    assert main([*again, "--max_steps", "6", "--resume"]) == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 6 and (folder / "checkpoint-6").is_dir()


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    done = launch(
        RECIPE, *SMALL, *FEW_DIGITS, "--output_dir", str(tmp_path / "run"), "--eval_protocols", "knn",
        "--ema_decay", "0.9",
        launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d",
                  "--rdzv-endpoint", "localhost:0"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Training on 2 processes, DDP over gloo on cpu, fp32." in done.stdout
    assert done.stdout.count("Everything is in") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["run"]["global_batch"] == 32 and results["run"]["epochs"] == pytest.approx(4 * 32 / 400)
    # Averaged weights stand beside the raw ones everywhere.
    assert "averaged encoder" in done.stdout and "encoder_averaged" in done.stdout.split("Everything is in")[1]
    assert results["averaged_encoder"] == results["rows"]["averaged encoder"]
    raw, averaged = (tmp_path / "run" / name for name in ("encoder", "encoder_averaged"))
    assert (raw / "model.safetensors").read_bytes() != (averaged / "model.safetensors").read_bytes()
    cards = [(folder / "README.md").read_text() for folder in (raw, averaged)]
    assert [text.count("moving average, decay 0.9.") for text in cards] == [0, 1]


def test_own_images_without_labels(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for number, mode in enumerate(["RGB", "L", "RGBA", "CMYK", "P", "RGB", "L", "RGB", "I;16", "RGB", "LA", "1"] * 2):
        noise = torch.randint(0, 256, (20 + number, 30, 3), generator=generator, dtype=torch.uint8).numpy()
        image = Image.fromarray(noise).convert("L" if mode == "I;16" else mode)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image
        image.save(images / f"{number}.{'tiff' if mode in ('CMYK', 'I;16') else 'png'}")
    folder = tmp_path / "run"
    small = [*SMALL, "--dataset", str(images), "--eval_split", "null", "--output_dir", str(folder)]
    assert main([RECIPE, *small]) == 0
    assert (folder / "encoder" / "model.safetensors").is_file() and not (folder / "results.json").exists()
    assert str(tmp_path) not in (folder / "encoder" / "README.md").read_text()
    found = RunFolder(folder).read_images()
    assert found.startswith("24 images; 24 were read: 20 PNG, 4 TIFF; 30 x 20 to 30 x 43 pix")
    assert f"<p>Training images: {found}.</p>" in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "statistics.json").read_text())["num_images"] == len(list(images.iterdir()))
    for name in ("gaussianity", "pca_maps"):
        assert (folder / "pictures" / f"{name}.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sigreg_weight", "1.5"], "`sigreg_weight` must be in [0, 1], got 1.5"),
        (["--num_global_views", "0"], "`num_global_views`"),
        (["--per_device_train_batch_size", "1"], "undefined for a single image"),
        (["--dataset", "./no/such/folder"], "no such folder"),
        (["--image_column", "picture"], "its columns are: image: Image, label: ClassLabel"),
        (["--train_split", "validation"], "has the splits train and test, got 'validation'"),
        (["--pooling", "cls"], "'cls' cannot be made from a resnet backbone"),
        (["--eval_protocols", "knn", "clustering"], "clustering unknown; known are linear, knn, few-shot"),
        (
            ["--eval_protocols", "knn", "fine-tune"],
            "fine-tune cannot run at the end of training: use `lejepa evaluate`",
        ),
        (["--local_crop_size", "64"], "`local_crop_size` 64 is larger than `global_crop_size` 24"),
        (["--resume", "runs/none"], "is not a complete checkpoint"),
        (["--backbone_config", "{model_type: resnet, num_channels: 1}"], "`backbone_config.num_channels` is 1"),
        (["--num_slice", "5"], "Did you mean `num_slices`"),
        (["--max_steps", "0"], "`max_steps` must be at least 1, got 0"),
        (["--dataloader_num_workers", "-1"], "`dataloader_num_workers` must be at least 0, got -1"),
        (["--fp16", "--bf16"], "`fp16` and `bf16` are both true: choose one"),
        (["--dataset"], "`--dataset` on the command line has no value"),
        (["--learning_rate", "--seed", "1"], "`--learning_rate` on the command line has no value"),
        (["--dataset", "/proc/cpuinfo"], "`dataset` '/proc/cpuinfo' is a single file: name the folder"),
        (["--dataset", "recipes/digits/"], "`dataset` 'recipes/digits/' holds no images: found 2 .yaml"),
        (["--report_to", "clearml"], "`report_to` 'clearml': its package is not installed"),
    ],
)
def test_bad_input_ends_in_one_line_before_training(tmp_path, capsys, arguments, message):
    folder = tmp_path / "run"
    assert main([str(ROOT / RECIPE), *SMALL, "--output_dir", str(folder), *arguments]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1] and errors[-1].startswith("error: ")
    assert not folder.exists() or not any(folder.iterdir())


def test_secret_labels_are_told_before_training(tmp_path, capsys):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, label in (("train", 0), ("test", -1)):
        rows = {"image": [Image.new("L", (8, 8), number) for number in range(4)], "label": [label] * 4}
        file = tmp_path / "images" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    arguments = ["--dataset", str(tmp_path / "images"), "--output_dir", str(tmp_path / "run")]
    assert main([str(ROOT / RECIPE), *SMALL, *arguments]) == 2
    assert "4 of 4 images have -1 or nothing as class in `label_column` 'label'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_diverging_run_ends_with_step_component_and_checkpoint(tmp_path, capsys):
    folder = tmp_path / "run"
    diverge = ["--learning_rate", "1e30", "--lr_scheduler_type", "constant", "--lr_scheduler_kwargs", "{}"]
    diverge += ["--save_steps", "1", "--warmup_steps", "0", "--projector_norm", "none"]
    diverge += ["--weight_decay", "0", "--eval_strategy", "no"]
    assert main([RECIPE, *SMALL, *diverge, "--output_dir", str(folder)]) == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "Step " in error and "`prediction_loss` is" in error and "--resume" in error
    assert not (folder / "encoder").exists()


def test_a_run_without_a_step_publishes_nothing(tmp_path):
    """Random weights were exported, evaluated and given a card."""
    folder = tmp_path / "run"
    resolved = resolve(parse_recipe(RECIPE, [*SMALL, "--output_dir", str(folder)]))
    trainer, held_out = build(resolved)
    trainer.get_batch_samples = lambda *arguments: ([], None)  # as if its data were empty
    with pytest.raises(NotTrained, match="ended before its first step, so nothing is exported"):
        run(resolved, trainer, held_out)
    assert not any((folder / name).exists() for name in ("pretraining", "encoder", "results.json"))
    RunFolder(folder).claim()  # the next start need not be told to continue


def test_a_start_that_failed_before_its_first_step_leaves_its_folder_free(tmp_path, capsys):
    for number in range(20):
        path = tmp_path / "photos" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (24, 24), (number, 0, 0)).save(path)
    arguments = [RECIPE, *SMALL, "--dataset", str(tmp_path / "photos"), "--eval_split", "null"]
    arguments += ["--output_dir", str(tmp_path / "run"), "--learning_rate", "1e-3"]
    resolved = resolve(parse_recipe(arguments[0], arguments[1:]))
    trainer, held_out = build(resolved)
    for path in (tmp_path / "photos").iterdir():
        path.write_bytes(b"broken since it was found")
    with pytest.raises(DataError), RunFolder(resolved.folder).held():
        run(resolved, trainer, held_out)
    assert not {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}


def test_usage():
    assert main(["--help"]) == 0 and main([]) == 2


@pytest.mark.parametrize("module", ["lejepa_hf.train", "lejepa_hf.runs.pretraining", "lejepa_hf"])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning", "ignore:lejepa_hf.train is now")
def test_modules_that_are_run_train(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, *(["train"] if module == "lejepa_hf" else []), "missing.yaml"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert ended.value.code == 2 and "No recipe 'missing.yaml'" in capsys.readouterr().err


def test_a_run_in_the_folder_of_one_that_runs_is_refused(tmp_path, capsys):
    folder = tmp_path / "run"
    arguments = [RECIPE, *SMALL, "--output_dir", str(folder), "--resume", "--max_steps", "2"]
    other = subprocess.Popen(
        [sys.executable, "-c", f"import time\nfrom lejepa_hf.system.run_folder import RunFolder\n"
         f"with RunFolder({str(folder)!r}).held():\n    print('held', flush=True)\n    time.sleep(100)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with other:
        assert other.stdout.readline() == "held\n"
        assert main(arguments) == 2
        assert f"is being written by process {other.pid} on" in capsys.readouterr().err
        other.kill()
    assert not (folder / "recipe.yaml").exists()


@pytest.mark.slow
def test_a_folder_that_goes_away_is_made_again_and_the_run_ends_complete(tmp_path):
    folder, output = tmp_path / "run", tmp_path / "output.txt"
    arguments = [ROOT / RECIPE, *SMALL, "--max_steps", "20", "--save_steps", "1000", "--eval_strategy", "no"]
    process = Script(ROOT / "train.py", [*arguments, "--eval_split", "null", "--output_dir", folder], output)
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None, output.read_text()[-3000:]
        time.sleep(0.01)
    folder.rename(tmp_path / "moved")
    assert process.wait(100) == 0, output.read_text()[-3000:]
    said = output.read_text()
    assert said.count("was deleted or moved while the run trains") == 1 and "Traceback" not in said
    for name in ("recipe.yaml", "run.json", "versions.json", "encoder/README.md", "report.html", "checkpoint-20"):
        assert (folder / name).exists(), name
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    for folder in (str(tmp_path / "file"), str(tmp_path / "file" / "run"), "/proc/run"):
        assert main([RECIPE, *SMALL, "--output_dir", folder]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "cannot be written to" in line
