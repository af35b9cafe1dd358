"""What setup.cfg cannot say: wheels hold recipes/, and their description has no pictures or links of a checkout."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithRecipes(build_py):
    """Puts recipes/ beside the module that finds them. Editable installations read the folder where it is."""

    def run(self) -> None:
        recipes = [path.relative_to(ROOT / "recipes").as_posix() for path in sorted(ROOT.glob("recipes/*/*.yaml"))]
        self.data_files.append(("lejepa_hf.system", "recipes", f"{self.build_lib}/lejepa_hf/system/recipes", recipes))
        super().run()


def description() -> str:
    """README.md for readers who have no other file of it: links to them become text, pictures are left out."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"^!\[.*\]\(.*\)\n+", "", text, flags=re.MULTILINE)
    return re.sub(r"\[([^]]+)\]\((?!https?://)[^)]+\)", r"\1", text)


setup(cmdclass={"build_py": BuildWithRecipes}, long_description=description())
