import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from lejepa_hf.runs.initial_model import build_config, build_model
from lejepa_hf.runs.recipes import SECTIONS, known_keys, parse_recipe
from lejepa_hf.runs.resolving import resolve

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "accelerate")
BASE = "dataset: digits\nbackbone_config: {model_type: resnet}\nmax_steps: 5\n"


@pytest.fixture
def recipe(tmp_path):
    def write(text: str = "") -> Path:
        path = tmp_path / "own" / "small.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(BASE + text)
        return path

    return write


# Parameters of the encoder without pooler or head, in millions.
EXPECTED = {
    "digits/resnet_tiny": None,
    "digits/vit_tiny": None,
    "imagenet1k/vit_s16": 21.7,
    "imagenet1k/vit_b16": 85.8,
    "imagenet1k/vit_l14": 303.2,
    "imagenet1k/vit_h14": 630.8,
    "imagenet1k/convnextv2_huge": 657.5,
    "imagenet1k/resnet50": 23.5,
    "imagenet100/resnet50": 23.5,
    "imagenette/vit_s8": 21.4,
    "imagenette/vit_s16": 21.7,
    "cifar10/resnet18": 11.2,
    "cifar10/resnet_small": 1.23,
    "cifar100/resnet18": 11.2,
    "food101/convnextv2_nano": 15.0,
    "flowers102/convnextv2_nano": 15.0,
    "galaxy10/convnextv2_nano": 15.0,
    "stl10/resnet18": 11.2,
    "folder/vit_s16": 21.7,
    "folder/small_cpu": None,
    "folder/small_images": 11.2,
    "folder/laptop": 4.91,
}


def test_recipes_were_found():
    assert {f"{path.parent.name}/{path.stem}" for path in RECIPES} == set(EXPECTED)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if (EXPECTED[name] or 0) > 20 else []) for name in EXPECTED]
)
def test_every_recipe_builds_the_encoder_of_its_name(name):
    path = ROOT / "recipes" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    command = f"accelerate launch train.py recipes/{name}.yaml"
    parsed = parse_recipe(path, ["--use_cpu", "--bf16", "false"])
    with torch.device("meta"):
        encoder = build_model(build_config(parsed.model)).encoder
    assert resolve(parsed).data == parsed.data, "a recipe asks for what its backbone accepts"
    if EXPECTED[name] is None:
        assert text.startswith("# ") and command.split()[0] in text.splitlines()[0]
    else:
        assert text.startswith((f"# not run yet: {command} (", f"# {command}\n# ran: "))
        assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(EXPECTED[name], rel=0.01)


_BATCH = "per_device_train_batch_size"


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.startswith("imagenet1k/")])
def test_steps_of_streams_make_the_epochs_they_say(name):
    text = (ROOT / "recipes" / f"{name}.yaml").read_text()
    per_device, steps = (int(re.search(rf"^{key}: (\d+)", text, re.M)[1]) for key in (_BATCH, "max_steps"))
    gpus = int(re.search(r"\((\d+) GPUs at (\d+) images each", text)[1])
    assert per_device * gpus == 512 and steps == math.ceil(100 * 1_281_167 / 512)
    assert "streaming: true" in text and "dataloader_num_workers" not in text


def test_imagenet_recipe_is_the_published_one():
    parsed = parse_recipe(ROOT / "recipes/imagenet1k/vit_l14.yaml", ["--use_cpu", "--bf16", "false"])
    views = parsed.data
    assert (views.num_global_views, views.global_crop_size) == (2, 224)
    assert (views.num_local_views, views.local_crop_size) == (6, 98)
    assert views.streaming and parsed.training.learning_rate == 5e-4 and parsed.model.sigreg_weight == 0.05
    with torch.device("meta"):
        encoder = build_model(build_config(parsed.model)).encoder
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(304e6, rel=0.01)


OF_OTHERS = [name for name in EXPECTED if not name.startswith(("digits/", "folder/")) and "small" not in name]


@pytest.mark.parametrize("name", OF_OTHERS)
def test_headers_say_what_to_expect_and_values_are_the_public_ones(name):
    path = ROOT / "recipes" / f"{name}.yaml"
    assert path.read_text(encoding="utf-8").splitlines()[2].startswith("# Expected: ")
    parsed = parse_recipe(path, ["--use_cpu", "--bf16", "false"])
    is_resnet, is_vit = "/resnet" in name, "/vit_" in name
    assert parsed.training.weight_decay == (5e-4 if is_resnet else 0.05)
    assert parsed.model.drop_path_rate == (0.1 if is_vit or "huge" in name else 0)
    assert parsed.training.lr_scheduler_kwargs == {"min_lr_rate": 1e-3}


def test_the_papers_settings_for_own_images():
    parsed = parse_recipe(ROOT / "recipes/folder/vit_s16.yaml", ["--use_cpu", "--bf16", "false"])
    assert (parsed.model.drop_path_rate, parsed.model.sigreg_weight, parsed.training.weight_decay) == (0.1, 0.05, 0.05)
    assert (parsed.data.num_global_views, parsed.data.num_local_views) == (2, 6)


def test_imagenette_has_the_weight_of_an_additive_loss_over_pooled_views():
    model = parse_recipe(ROOT / "recipes/imagenette/vit_s16.yaml", ["--use_cpu", "--bf16", "false"]).model
    assert model.sigreg_views == "pooled"
    assert model.sigreg_weight / (1 - model.sigreg_weight) == pytest.approx(0.02, rel=1e-3)


def test_no_key_stands_in_two_dataclasses():
    assert len(known_keys()) == sum(
        sum(item.init for item in section.__dataclass_fields__.values()) for section in SECTIONS
    )


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}", "[]"])
def test_an_empty_recipe(tmp_path, text):
    (tmp_path / "empty.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"empty\.yaml is empty: a recipe holds `key: value` lines"):
        parse_recipe(tmp_path / "empty.yaml")


def test_dashes_and_the_names_of_other_commands(recipe):
    data = parse_recipe(recipe(), ["--dataset-config", "a-b", "--revision=main", "--split", "train[:9]"]).data
    assert (data.dataset_config, data.dataset_revision, data.train_split) == ("a-b", "main", "train[:9]")


def test_the_command_line_wins(recipe):
    path = recipe("learning_rate: 1.0e-3\nprojector_dims: [8, 4]\n")
    parsed = parse_recipe(
        path, ["--learning_rate", "5e-4", "--projector_dims", "16", "8", "--num_slices=32", "--streaming"]
    )
    assert parsed.training.learning_rate == 5e-4
    assert parsed.model.projector_dims == [16, 8] and parsed.model.num_slices == 32
    assert parsed.data.streaming is True
    assert parse_recipe(path, ["--eval_protocols", "knn"]).data.eval_protocols == ["knn"]
    assert parse_recipe(path, ["--eval_split", "null"]).data.eval_split is None
    assert parse_recipe(path).training.learning_rate == 1e-3


def test_run_folder_is_named_after_the_recipe(recipe):
    assert parse_recipe(recipe()).training.output_dir == "runs/own-small"


@pytest.mark.parametrize(
    ("given", "expected"), [([], None), (["--resume"], "auto"), (["--resume", "a/checkpoint-3"], "a/checkpoint-3")]
)
def test_resume(recipe, given, expected):
    assert parse_recipe(recipe(), given).training.resume == expected


def test_a_warm_start_replaces_the_network(recipe):
    parsed = parse_recipe(recipe(), ["--pretrained_backbone", "some/model"])
    assert parsed.model.backbone_config is None and parsed.model.pretrained_backbone == "some/model"


def test_what_the_command_line_starts_from_replaces_what_the_recipe_does(recipe):
    path = recipe("continue_from: me/run@v1\n")
    assert parse_recipe(path).model.backbone_config == {"model_type": "resnet"}  # is compared with the one there
    warm = parse_recipe(path, ["--pretrained_backbone", "some/model"]).model
    assert (warm.continue_from, warm.pretrained_backbone, warm.backbone_config) == (None, "some/model", None)
    path.write_text("dataset: digits\npretrained_backbone: some/model\n")
    continued = parse_recipe(path, ["--continue_from", "me/run"]).model
    assert (continued.continue_from, continued.pretrained_backbone) == ("me/run", None)


BAD = [
    ("learning_rat: 1.0", "`learning_rat`.*Did you mean `learning_rate`"),
    ("local_crop_sise: 8", "Did you mean `local_crop_size`"),
    ("learning_rate: fast", "`learning_rate`.*float.*'fast'"),
    ("num_slices: 3.5", "`num_slices`.*int.*3.5"),
    ("num_slices: true", "`num_slices`.*int.*True"),
    ("streaming: 3", "`streaming`.*bool.*3"),
    ("projector_dims: [8, wide]", "`projector_dims`.*wide"),
    ("global_crop_scale: 0.3", "`global_crop_scale`"),
    ("num_global_views: 0", "`num_global_views`.*0"),
    ("local_crop_size: 300", "`local_crop_size` 300.*`global_crop_size` 224"),
    ("per_device_train_batch_size: 1", "`per_device_train_batch_size`.*SIGReg"),
    ("dataset: ''", "`dataset` is missing"),
    ("pretrained_backbone: some/model", "`backbone_config`.*`pretrained_backbone`.*both"),
    ("continue_from: a/b\npretrained_backbone: c/d", "`continue_from` .* or `pretrained_backbone` .*got both"),
    ("license: Apache 2.0", "`license` 'Apache 2.0' is not a name of a licence .*Did you mean 'apache-2.0'"),
    ("license: CC_BY_NC_4.0", "`license` .*Did you mean 'cc-by-nc-4.0'"),
    ("license: '???'", "`license` .*Some of them: apache-2.0, mit"),
    ("backbone_config: {model_type: vit, hidden_sise: 64}", "`hidden_sise` in `backbone_config`.*`hidden_size`"),
    ("backbone_config: {model_type: resnett}", "`backbone_config.model_type` 'resnett'"),
    ("backbone_config: {hidden_size: 64}", "needs a `model_type`"),
    ("backbone_config: vit", "`backbone_config`.*'vit'"),
    ("@weight: 3", "not valid YAML.*line 4"),
    ("eval_crop_ratio: 1.5", "`eval_crop_ratio`.*1.5"),
    ("eval_split: 0.1", "`eval_split` '0.1' is neither a split nor a share: write a share .* as '10%'"),
    ("eval_split: 60%", "`eval_split` '60%' is neither .* at most 50%"),
    ("group_column: patient", "`group_column` 'patient' has no meaning without held-out images"),
    ("class_balanced: true\nstreaming: true", "`class_balanced` needs the class .* and `streaming` is set: leave one"),
    ("class_balanced: true\nmixture: [{dataset: a}]", "`class_balanced` needs the class .* and `mixture` is set"),
    ("pages: slices", "`pages` must be 'channels' or 'images'.* got 'slices'"),
    ("slice_axis: 4", "`slice_axis` must be 0, 1 or 2.* got 4"),
    ("window_size: 0", "`window_size` must be a number of pixels, at least 1, got 0"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text for text, _ in BAD])
def test_bad_recipes_name_key_and_value(recipe, text, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(recipe(text))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "command line.*Did you mean `learning_rate`"),
        (["--eval_split", "x%"], "`eval_split` 'x%' is neither a split nor a share"),
        (["--max_steps", "many"], "`max_steps` in the command line"),
        (["5"], "'5'"),
    ],
)
def test_bad_command_lines(recipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_recipe(recipe(), arguments)


def test_missing_recipe_lists_those_there_are():
    with pytest.raises(ValueError, match="recipes/digits/resnet_tiny.yaml"):
        parse_recipe("recipes/digits/resnet_tinny.yaml")
    with pytest.raises(ValueError, match="Nearest there: digits/resnet_tiny"):
        parse_recipe("digits/resnet_tinny")


@pytest.mark.parametrize("name", ["digits/vit_tiny", "recipes/digits/vit_tiny.yaml"])
def test_a_packaged_recipe_by_name_unless_there_is_such_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    parsed = parse_recipe(name)
    assert parsed.model == parse_recipe(ROOT / "recipes/digits/vit_tiny.yaml").model
    assert parsed.training.output_dir == "runs/digits-vit_tiny"
    Path(name).parent.mkdir(parents=True)
    Path(name).write_text(f"{BASE}sigreg_weight: 0.25\n", encoding="utf-8")
    assert parse_recipe(name).model.sigreg_weight == 0.25


def test_resolved_recipe_repeats_the_run(recipe, tmp_path):
    parsed = parse_recipe(
        recipe("sigreg_weight: 0.1\nhub_token: hf_secret\n"), ["--learning_rate", "2e-3", "--resume"]
    )
    resolved = parsed.resolved()
    assert "hf_secret" not in str(resolved) and "resume" not in resolved
    again_path = tmp_path / "recipe.yaml"
    again_path.write_text(yaml.safe_dump(resolved))
    again = parse_recipe(again_path)
    assert again.model == parsed.model and again.data == parsed.data
    assert again.training.learning_rate == 2e-3 and again.training.max_steps == 5
    assert again.resolved() == resolved


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ("no", None)),
        ("eval_split: test", ("steps", 0.1)),
        ("eval_split: 10%\ngroup_column: -1", ("steps", 0.1)),
        ("eval_split: test\neval_steps: 40", ("steps", 40)),
        ("eval_split: test\neval_strategy: no", ("no", None)),  # which YAML reads as false
        ("eval_split: test\neval_strategy: epoch", ("epoch", None)),
        ("eval_split: test\nload_best_model_at_end: true\nsave_steps: 150", ("steps", 150)),
        ("eval_split: test\nload_best_model_at_end: true\nsave_strategy: best", ("steps", 0.1)),
    ],
)
def test_when_held_out_images_are_looked_at(recipe, given, expected):
    training = parse_recipe(recipe(given), ["--use_cpu"]).training
    assert (training.eval_strategy, training.eval_steps) == expected
    if training.load_best_model_at_end:
        assert training.metric_for_best_model == "loss" and not training.greater_is_better  # `eval_loss`


@pytest.mark.parametrize("given", ["eval_strategy: steps", "load_best_model_at_end: true"])
def test_evaluation_needs_held_out_images(recipe, given):
    with pytest.raises(ValueError, match=f"`{given.split(':')[0]}` .*name them with `eval_split`"):
        parse_recipe(recipe(given))


@pytest.mark.parametrize("name", ["eval_knn_top1", "eval_online_probe_top1"])
def test_labels_of_held_out_images_choose_no_checkpoint(recipe, name):
    with pytest.raises(ValueError, match=f"`metric_for_best_model` '{name}' would choose"):
        parse_recipe(recipe(f"eval_split: test\nload_best_model_at_end: true\nmetric_for_best_model: {name}"))


def test_fsdp_is_switched_on_by_a_flag():
    config = '{"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}'
    for flag in (["--fsdp"], ["--fsdp", "true"]):
        training = parse_recipe(ROOT / "recipes/digits/resnet_tiny.yaml", [*flag, "--fsdp_config", config]).training
        assert training.fsdp is True and training.fsdp_config["version"] == 2
    assert not parse_recipe(ROOT / "recipes/digits/resnet_tiny.yaml").training.fsdp


@pytest.mark.parametrize("given", ["[0, 10000]", "[-0.5, 3]", "null"])
def test_range_of_pixels_from_file_and_command_line(tmp_path, given):
    backbone = (
        "backbone_config: {model_type: resnet, num_channels: 2}\nimage_mean: [0.5, 0.5]\nimage_std: [0.2, 0.2]\n"
    )
    file, bare = tmp_path / "recipe.yaml", tmp_path / "bare.yaml"
    bare.write_text(f"dataset: digits\nuse_cpu: true\n{backbone}")
    file.write_text(f"{bare.read_text()}pixel_range: {given}\n")
    expected = {"[0, 10000]": [0.0, 10000.0], "[-0.5, 3]": [-0.5, 3.0], "null": None}[given]
    recipes = [parse_recipe(file), parse_recipe(bare, ["--pixel_range", *given.strip("[]").split(", ")])]
    assert [recipe.data.pixel_range for recipe in recipes] == [expected] * 2
    assert recipes[0].resolved()["pixel_range"] == expected
    with pytest.raises(ValueError, match="`pixel_range`"):
        parse_recipe(bare, ["--pixel_range", "wide"])
