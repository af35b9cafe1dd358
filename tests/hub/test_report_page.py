import base64

import pytest
from PIL import Image

from lejepa_hf.hub.report_page import check_out, open_run, other_pictures, pictures_of
from lejepa_hf.system.run_folder import RunFolder


@pytest.fixture
def run(tmp_path) -> RunFolder:
    (tmp_path / "recipe.yaml").write_text("dataset: digits\n", encoding="utf-8")
    (tmp_path / "pictures" / "dark").mkdir(parents=True)
    for number, name in enumerate(("neighbours", "dark/neighbours", "pca_maps", "of_my_own")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / "pictures" / f"{name}.png")
    return RunFolder(tmp_path)


def content_of(address: str) -> bytes:
    kind, _, content = address.partition(",")
    assert kind == "data:image/png;base64"
    return base64.b64decode(content)


def test_pictures_that_are_there_with_their_dark_form(run):
    first, second = pictures_of(run, "neighbours", "embeddings", "pca_maps")
    assert content_of(first.light) == run.picture("neighbours").read_bytes()
    assert content_of(first.dark) == run.dark_picture("neighbours").read_bytes() and second.dark is None
    assert first.caption == "Held-out images and the training images nearest to them"
    (other,) = other_pictures(run)
    assert other.caption == "of my own" and content_of(other.light) == (run.pictures / "of_my_own.png").read_bytes()


def test_only_the_folder_of_a_run_is_opened(run, tmp_path):
    assert open_run(run.path).path == run.path
    with pytest.raises(ValueError, match="is not a run folder: no recipe.yaml there"):
        open_run(tmp_path / "pictures")


@pytest.mark.parametrize(
    ("text", "is_page"),
    [
        ('<head>\n<meta name="generator" content="lejepa report">', True),
        ("<title>mine: LeJEPA run</title>", True),  # of earlier versions
        ("<title>mine</title>", False),
        ("", False),
    ],
)
def test_what_may_be_replaced(tmp_path, text, is_page):
    out = tmp_path / "page.html"
    check_out(out)
    out.write_text(text, encoding="utf-8")
    if is_page:
        check_out(out)
        return
    with pytest.raises(ValueError, match="exists and is not a report: choose another name with --out"):
        check_out(out)
