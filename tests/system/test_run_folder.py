import json
import re

import pytest
import torch
import yaml

from lejepa_hf.runs.recipes import parse_recipe
from lejepa_hf.system.run_folder import check_free, write_run_facts

MARKS = ["recipe.yaml", "metrics.jsonl", "results.json", "encoder/", "pretraining/", "checkpoint-100/"]


def put(folder, mark: str):
    path = folder / mark
    path.mkdir(parents=True) if mark.endswith("/") else (folder.mkdir(exist_ok=True), path.touch())


@pytest.mark.parametrize("mark", MARKS)
def test_another_run_is_never_written_over(tmp_path, mark):
    put(tmp_path / "run", mark)
    with pytest.raises(ValueError, match=rf"'.*run' holds another run \({mark.rstrip('/')}\).*`--resume`"):
        check_free(tmp_path / "run", None)
    check_free(tmp_path / "run", "auto")


def test_free_folders(tmp_path):
    check_free(tmp_path / "missing", None)
    check_free(tmp_path, None)
    (tmp_path / "notes.txt").touch()
    check_free(str(tmp_path), None)


def test_recipe_and_versions_can_be_read_back(tmp_path):
    recipe = {"dataset": "digits", "backbone_config": {"hidden_sizes": [8, 16]}, "learning_rate": 2e-5, "seed": None}
    write_run_facts(tmp_path / "new" / "run", recipe)
    assert yaml.safe_load((tmp_path / "new" / "run" / "recipe.yaml").read_text(encoding="utf-8")) == recipe
    versions = json.loads((tmp_path / "new" / "run" / "versions.json").read_text(encoding="utf-8"))
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
    write_run_facts(tmp_path / "run", recipe.resolved())
    for path in (tmp_path / "run").iterdir():
        assert "secret" not in path.read_text(encoding="utf-8")
        assert not re.search(r"token\b", path.read_text(encoding="utf-8"))
    again = parse_recipe(tmp_path / "run" / "recipe.yaml")
    assert again.model == recipe.model
    assert again.data == recipe.data
    assert again.resolved() == recipe.resolved()
