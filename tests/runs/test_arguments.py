import pytest
import yaml

from lejepa_hf import LeJEPAConfig
from lejepa_hf.runs.arguments import DataArguments, ModelArguments
from lejepa_hf.runs.recipes import parse_recipe


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "dataset: digits\nbackbone_config: {model_type: resnet}\nmax_steps: 3\nuse_cpu: true\n"
        "hub_token: hf_secret\naccelerator_config: {split_batches: false}\nreport_to: [none]\n"
    )
    return parse_recipe(tmp_path / "recipe.yaml", ["--output_dir", str(tmp_path / "run")])


def test_defaults_are_those_of_the_config():
    arguments = ModelArguments(backbone_config={"model_type": "resnet"})
    config = LeJEPAConfig(backbone_config={"model_type": "resnet"}, **arguments.config_kwargs())
    assert config.to_diff_dict() == LeJEPAConfig(backbone_config={"model_type": "resnet"}).to_diff_dict()
    assert arguments.projector_dims is not ModelArguments(pretrained_backbone="a").projector_dims


def test_all_arguments_of_a_run_are_plain_and_without_tokens(recipe):
    arguments = recipe.arguments()
    assert "hf_secret" not in str(arguments) and not any(name.endswith("_token") for name in arguments)
    assert yaml.safe_load(yaml.safe_dump(arguments)) == arguments
    assert arguments["dataset"] == "digits" and arguments["pooling"] == "auto" and arguments["max_steps"] == 3
    # of transformers: given by nobody, and not the method's
    assert (arguments["adam_beta2"], arguments["fp16"], arguments["optim"]) == (0.999, False, recipe.training.optim)
    assert arguments["accelerator_config"]["split_batches"] is False
    assert "include_num_input_tokens_seen" in arguments, "tokens of text are not secrets"


def test_what_repeats_a_run_is_a_part_of_it(recipe):
    resolved = recipe.resolved()
    assert resolved.items() <= recipe.arguments().items()
    assert "adam_beta2" not in resolved and "resume" not in resolved
    assert {"learning_rate", "seed", "max_steps", "local_crop_size", "sigreg_weight"} <= resolved.keys()


def test_the_run_folder(recipe, tmp_path):
    assert recipe.folder == tmp_path / "run"


@pytest.mark.parametrize("value", [0.0, 1e-9, 1.5, float("nan")])
def test_crop_ratio_out_of_range(value):
    with pytest.raises(ValueError, match=r"`eval_crop_ratio` must be .*, got"):
        DataArguments(dataset="digits", eval_crop_ratio=value)
