import re

import pytest

from lejepa_hf.runs.recipe_table import NOT_RUN, format_recipes, summarise
from lejepa_hf.system.installed_package import packaged_recipes

SETTINGS = "dataset: path/to/your/images\nglobal_crop_size: 96\n"
RECIPES = {name: path for name, path in packaged_recipes().items() if not name.startswith("accelerate/")}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("# not run yet: lejepa train mine (one GPU; `hf auth login`)", ("one GPU", "", NOT_RUN)),
        ("# not run yet: train x.yaml (8 GPUs (80 GB), `hf auth login`)", ("8 GPUs (80 GB)", "", NOT_RUN)),
        ("# lejepa train mine\n# ran: 2 cores | 14 min | linear 58.6", ("2 cores", "14", "linear 58.6")),
    ],
)
def test_what_headers_say(header, expected):
    found = summarise("mine", f"{header}\n#\n{SETTINGS}")
    assert (found.hardware, found.minutes, found.result) == expected
    assert (found.name, found.images) == ("mine", "your own, 96 px")


def test_a_header_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="Recipe 'mine' must begin with `# not run yet: COMMAND"):
        summarise("mine", f"# lejepa train mine\n{SETTINGS}")


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_summarised(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    found = summarise(name, text)
    assert found.hardware and (found.result == NOT_RUN) == text.startswith(f"# {NOT_RUN}")
    for figure in re.findall(r"\d+\.\d", found.result):
        assert text.count(figure) > 1, "the comment tells where it is from"


def test_table():
    header, *rows, _, launchers = format_recipes().splitlines()
    assert header.split() == ["name", "images", "hardware", "minutes", "result"]
    assert [row.split()[0] for row in rows] == list(RECIPES)
    place = header.index("images")
    assert all(row[place - 1] == " " and row[place] != " " for row in rows)
    assert "accelerate/ddp" in launchers and "accelerate/" not in "".join(rows)
