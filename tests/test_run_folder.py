import json
import re
import subprocess

import pytest
import torch
import yaml

from lejepa_hf.recipes import parse_recipe
from lejepa_hf.run_folder import check_free, code_commit, write_run_facts

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
    assert yaml.safe_load((tmp_path / "new" / "run" / "recipe.yaml").read_text()) == recipe
    versions = json.loads((tmp_path / "new" / "run" / "versions.json").read_text())
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    assert {"python", "transformers", "accelerate", "datasets", "lejepa-hf"} <= versions.keys()


def test_a_real_recipe_is_written_without_secrets_and_repeats_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_environmentsecret")
    (tmp_path / "recipe.yaml").write_text(
        "dataset: digits\nbackbone_config: {model_type: resnet}\nmax_steps: 3\nlearning_rate: 2e-3\n"
        "accelerator_config: {split_batches: false}\nreport_to: [none]\nuse_cpu: true\n"
    )
    arguments = ["--output_dir", str(tmp_path / "run"), "--hub_token", "hf_commandlinesecret"]
    recipe = parse_recipe(tmp_path / "recipe.yaml", arguments)
    write_run_facts(tmp_path / "run", recipe.resolved())
    for path in (tmp_path / "run").iterdir():
        assert "secret" not in path.read_text()
        assert not re.search(r"token\b", path.read_text())
    again = parse_recipe(tmp_path / "run" / "recipe.yaml")
    assert again.model == recipe.model
    assert again.data == recipe.data
    assert again.resolved() == recipe.resolved()


def test_commit_of_the_code(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert code_commit(tmp_path) is None  # of nothing yet
    (tmp_path / "code.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "-m", "Begin")
    assert git("rev-parse", "HEAD").startswith(code_commit(tmp_path))
    (tmp_path / "code.py").write_text("x = 2\n")
    assert code_commit(tmp_path).endswith("-dirty")
    (tmp_path / "site-packages").mkdir()
    assert code_commit(tmp_path / "site-packages") is None


def test_the_commit_is_among_the_versions(tmp_path, monkeypatch):
    for commit in ("0123abc", None):
        monkeypatch.setattr("lejepa_hf.run_folder.code_commit", lambda commit=commit: commit)
        write_run_facts(tmp_path, {})
        assert json.loads((tmp_path / "versions.json").read_text()).get("commit") == commit
