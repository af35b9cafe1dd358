import subprocess
import sys
import zipfile
from pathlib import Path

import lejepa_hf
from lejepa_hf.hub.demo.package_wheel import build_wheel
from lejepa_hf.system.packaged_recipes import packaged_recipes

PACKAGE = Path(lejepa_hf.__file__).parent
RECIPES = {f"system/recipes/{name}.yaml": path.read_bytes() for name, path in packaged_recipes().items()}


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
