import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import lejepa_hf
from lejepa_hf.system import installed_package as module
from lejepa_hf.system.installed_package import (
    build_wheel,
    code_commit,
    find_packaged,
    package_versions,
    packaged_recipes,
)

ROOT = Path(__file__).parents[2]
PACKAGE = Path(lejepa_hf.__file__).parent
RECIPES = {f"system/recipes/{name}.yaml": path.read_bytes() for name, path in packaged_recipes().items()}


def test_every_recipe_of_the_repository_has_a_name():
    known = packaged_recipes()
    files = {path.relative_to(ROOT / "recipes").as_posix() for path in ROOT.glob("recipes/**/*.yaml")}
    assert {f"{name}.yaml" for name in known} == files
    assert all(path.is_file() for path in known.values())
    assert "digits/resnet_tiny" in known and "accelerate/ddp" in known


@pytest.mark.parametrize("given", ["digits/resnet_tiny", "recipes/digits/resnet_tiny.yaml"])
@pytest.mark.parametrize("kind", [str, Path])
def test_names_and_paths_of_a_checkout_find_it_in_any_folder(given, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(find_packaged(kind(given)).read_text(encoding="utf-8"))
    assert content["dataset"] == "digits" and content["backbone_config"]["model_type"] == "resnet"


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("digits/resnet_tinny", ": digits/resnet_tiny"),
        ("recipes/digits/resnet_tinny.yaml", ": recipes/digits/resnet_tiny.yaml"),
        ("imagenet1k/vit", "imagenet1k/vit_"),
        ("???", ", digits/resnet_tiny, "),
        ("../recipes/digits/resnet_tiny", "digits/resnet_tiny"),
    ],
)
def test_unknown_names(given, nearest):
    with pytest.raises(ValueError, match=r"No recipe .* here or in the package\. Nearest there: ") as error:
        find_packaged(given)
    assert nearest in str(error.value) and given in str(error.value)


def test_a_wheel_has_them_beside_the_module(tmp_path, monkeypatch):
    """tests/test_packages.py builds one."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.yaml").touch()
    monkeypatch.setattr(module, "_IN_WHEELS", tmp_path)
    assert packaged_recipes() == {"mine/own": tmp_path / "mine" / "own.yaml"}


def test_commit_of_the_code(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.com"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert code_commit(tmp_path) is None  # of nothing yet
    (tmp_path / "code.py").write_text("x = 1\n", encoding="utf-8")
    git("add", ".")
    git("commit", "-m", "Begin")
    assert git("rev-parse", "HEAD").startswith(code_commit(tmp_path))
    (tmp_path / "code.py").write_text("x = 2\n", encoding="utf-8")
    assert code_commit(tmp_path).endswith("-dirty")
    (tmp_path / "site-packages").mkdir()
    assert code_commit(tmp_path / "site-packages") is None


def test_the_commit_is_among_the_versions(monkeypatch):
    for commit in ("0123abc", None):
        monkeypatch.setattr("lejepa_hf.system.installed_package.code_commit", lambda commit=commit: commit)
        assert package_versions().get("commit") == commit


def installed_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def test_pip_installs_it_and_finds_every_file_of_the_package(tmp_path):
    name, content = build_wheel()
    (tmp_path / name).write_bytes(content)
    target = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*command, "--target", str(target), str(tmp_path / name)], check=True)
    assert installed_files(target / "lejepa_hf") == installed_files(PACKAGE) | RECIPES
    metadata = next(target.glob("lejepa_hf-*.dist-info/METADATA")).read_text(encoding="utf-8")
    assert "Requires-Dist: torch>=" in metadata


def test_equal_files_make_equal_wheels_without_a_path_of_this_machine(tmp_path):
    name, content = build_wheel()
    assert (name, content) == build_wheel()
    (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / name) as wheel:
        assert all(str(PACKAGE).encode() not in wheel.read(file) for file in wheel.namelist())
