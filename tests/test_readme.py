"""What README says is so: its commands, recipes, minutes and figures; its blocks are run in test_docs_blocks."""

import re
from pathlib import Path

from doc_blocks import blocks_of

from lejepa_hf.cli import encoder_commands, run_commands
from lejepa_hf.runs.recipe_table import NOT_RUN, summarise

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Where the figures of README are from: the card that the run wrote, and the page that describes the other run.
_RUNS = {"digits": "model_cards/digits-resnet_tiny.md", "photographs": "docs/own_images.md"}


def rows_of(text: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading begins with `first`, without its head."""
    table = re.search(rf"^\| {re.escape(first)}.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def figures_of(text: str) -> dict[str, list[str]]:
    """A table of results without its intervals."""
    return {name: [cell.split(" ± ")[0] for cell in cells] for name, *cells in rows_of(text, "frozen, held out")}


def test_two_commands():
    block = re.search(r"<!-- commands -->\n```bash\n(.*?)```", README, re.DOTALL)[1].strip().splitlines()
    assert block == [
        "pip install -e . && accelerate launch train.py recipes/digits/resnet_tiny.yaml",
        'pip install -e ".[test]" && pytest -n auto',
    ]


def test_own_images_take_three_commands_and_six_lines():
    bash, python, *_ = [block.code.strip().splitlines() for block in blocks_of("README.md") if "Your" in block.section]
    assert [line.split()[1] for line in bash] == ["plan", "train", "embed"]
    assert len([line for line in python if line]) == 6


def test_it_is_short():
    assert len(README.split()) <= 700, "with the bars of tables"


def test_named_files_exist():
    named = re.findall(r"\b(?:recipes|docs|benchmarks|notebooks)/[\w./-]+\.\w+", README)
    links = re.findall(r"\]\((?!https://)([^)#]+)", README)
    assert len(named) > 10 and len(links) > 10
    for path in (*named, *links):
        assert (ROOT / path).is_file(), path


def test_minutes_are_those_of_the_recipes():
    """A recipe that was not run has no minutes, and one that was run has them."""
    rows = rows_of(README, "images")
    assert len(rows) > 5
    for *_, name, minutes in rows:
        recipe = summarise(name, (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert minutes == (recipe.minutes or NOT_RUN), name


def test_results_are_those_of_the_runs():
    told = figures_of(README)
    assert len(told) >= 6
    for name, cells in told.items():
        run, metric = name.split(", ")
        assert cells == figures_of((ROOT / _RUNS[run]).read_text(encoding="utf-8"))[metric], name
    digits = figures_of((ROOT / "docs/start.md").read_text(encoding="utf-8"))
    card = figures_of((ROOT / _RUNS["digits"]).read_text(encoding="utf-8"))
    assert digits == {name: card[name] for name in digits}
    header = (ROOT / "recipes/digits/resnet_tiny.yaml").read_text(encoding="utf-8")
    assert f"| linear {told['digits, linear top1'][0]}, k-NN {told['digits, knn top1'][0]}\n" in header
    header = (ROOT / "recipes/folder/small_cpu.yaml").read_text(encoding="utf-8")
    (linear, plain, _), (near, near_plain, _) = (told[f"photographs, {metric} top1"] for metric in ("linear", "knn"))
    assert f"| linear {linear}, k-NN {near} (untrained {plain}, {near_plain})" in header


def test_every_command_has_a_line():
    section = README.partition("## Commands\n")[2].partition("\n## ")[0]
    commands = {"train", *encoder_commands.COMMANDS, *run_commands.COMMANDS}
    assert sorted(re.findall(r"^- `(\w+)`: \S", section, re.MULTILINE)) == sorted(commands)


def test_the_citation_is_one_entry():
    (block,) = blocks_of("README.md", "bibtex")
    fields = dict(re.findall(r"^  (\w+) = \{(.*)\},?$", block.code, re.MULTILINE))
    assert re.match(r"@article\{\w+,\n", block.code) and block.code.count("{") == block.code.count("}")
    assert fields.keys() == {"title", "author", "journal", "year"} and "2511.08544" in fields["journal"]
