"""The sdist and the wheel: what is in them, and that they work without a checkout."""

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# As in .gitignore: caches and results that may lie in a checkout.
_CACHES = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".coverage*", "__pycache__", "*.egg-info")
_RESULTS = ("build", "dist", "runs")  # at the top only
_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
# One of each kind: of the layout, of files beside the package, of the recipes, of the command line.
_OWN_TESTS = (
    "tests/test_layout.py", "tests/test_imports.py", "tests/test_readme.py", "tests/test_model_cards.py",
    "tests/system/test_installed_package.py", "tests/benchmarks", "tests/cli/test_cli.py",
)  # fmt: skip
_SHORT = (
    "--max_steps", "2", "--save_strategy", "no", "--per_device_train_batch_size", "16", "--num_slices", "16",
    "--projector_dims", "16", "8", "--dataloader_num_workers", "0", "--monitor_images", "32", "--eval_split", "null",
    "--use_cpu",
)  # fmt: skip

pytestmark = pytest.mark.slow


def run(*arguments: str | Path, folder: Path, path: Path | None = None) -> str:
    """Output of Python with these arguments in a folder, with a folder of packages in front of those installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True, encoding="utf-8", timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout[-4000:], done.stderr[-4000:])
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the repository's files, since a build writes between them."""

    def ignored(place: str, names: list[str]) -> set[str]:
        return _CACHES(place, names) | set(_RESULTS if Path(place) == ROOT else ())

    return shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "lejepa-hf", ignore=ignored)


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    """The unpacked sdist."""
    out = tmp_path_factory.mktemp("sdist")
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(out)!r})"
    run("-c", code, folder=checkout)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        files.extractall(out, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel of a copy of the sdist."""
    out = tmp_path_factory.mktemp("wheel")
    shutil.copytree(sdist, out / "source")
    run(*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, out / "source", folder=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with the installed wheel, to stand in front of the other packages."""
    target = tmp_path_factory.mktemp("installed")
    run(*_PIP, "install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel, folder=target)
    return target


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_sdist_has_every_file_of_the_repository(checkout, sdist):
    built = {"PKG-INFO", *(name for name in files_of(sdist) if ".egg-info/" in name)}
    assert files_of(sdist) - built == {name for name in files_of(checkout) if ".egg-info/" not in name}


def test_the_sdist_passes_its_own_tests(sdist):
    output = run("-m", "pytest", "-p", "no:cacheprovider", *_OWN_TESTS, folder=sdist, path=sdist / "src")
    assert re.search(r"\d{3} passed", output) and "failed" not in output


def test_the_wheel_has_the_package_and_the_recipes_once(sdist, wheel):
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        recipes = {name: files.read(name) for name in names if name.endswith(".yaml")}
    package = {f"lejepa_hf/{name}" for name in files_of(sdist / "src" / "lejepa_hf")}
    expected = {
        f"lejepa_hf/system/{path.relative_to(sdist).as_posix()}": path.read_bytes()
        for path in sdist.glob("recipes/**/*.yaml")
    }
    assert recipes == expected and len(recipes) > 20
    assert {name for name in names if ".dist-info/" not in name} == package | recipes.keys()
    assert sorted(names) == sorted(set(names))


def test_the_description_needs_no_file_of_a_checkout(wheel):
    with zipfile.ZipFile(wheel) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(files.read(name))
    text = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown" and "[LeJEPA](https://arxiv.org" in text
    assert not re.search(r"!\[", text)
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]*)\)", text))


def test_the_main_job_in_an_empty_folder(installed, tmp_path):
    run(installed / "bin" / "lejepa", "train", "digits/resnet_tiny", *_SHORT, folder=tmp_path, path=installed)
    folder = tmp_path / "runs" / "digits-resnet_tiny"
    assert json.loads((folder / "encoder" / "config.json").read_text(encoding="utf-8"))["model_type"] == "resnet"
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_accelerate_starts_it_with_a_packaged_configuration(installed, tmp_path):
    config = Path(run("-m", "lejepa_hf", "recipes", "accelerate/single_gpu", folder=tmp_path, path=installed).strip())
    assert config.is_relative_to(installed) and config.is_file()
    launch = ("-m", "accelerate.commands.launch", "--config_file", config, "--cpu")
    train = ("-m", "lejepa_hf", "train", "recipes/digits/resnet_tiny.yaml", "--output_dir", "launched")
    run(*launch, *train, *_SHORT, folder=tmp_path, path=installed)
    assert (tmp_path / "launched" / "encoder" / "model.safetensors").is_file()
