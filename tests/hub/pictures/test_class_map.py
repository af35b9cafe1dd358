import numpy as np
import pytest
import torch
from matplotlib.text import Text
from picture_checks import assert_is_a_picture
from PIL import Image

from lejepa_hf.hub.pictures import class_map
from lejepa_hf.hub.pictures.class_map import draw_embeddings

LABELS = torch.arange(40) % 2


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def nearly_the_same(distance: float) -> torch.Tensor:
    embeddings = torch.ones(40, 16)
    embeddings[-1, 0] += distance
    return embeddings


@pytest.mark.parametrize(
    ("num_images", "num_classes", "names"),
    [(60, 10, list("abcdefghij")), (60, 2, None), (12, 1, ["only"]), (5, 2, None), (2, 2, None), (60, 20, None)],
)
def test_embeddings(tmp_path, num_images, num_classes, names):
    labels = torch.arange(num_images) % num_classes
    generator = torch.Generator().manual_seed(0)
    embeddings = 3 * torch.eye(max(num_classes, 8))[labels] + torch.randn(num_images, 1, generator=generator)
    embeddings += 0.1 * torch.randn(embeddings.shape, generator=generator)
    path = draw_embeddings(tmp_path, embeddings, labels, names)
    assert_is_a_picture(path, tmp_path, "embeddings.png")


def test_names_are_written_into_the_picture(tmp_path):
    embeddings, labels = torch.randn(20, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    pictures = [draw_embeddings(tmp_path, embeddings, labels, names).read_bytes() for names in (None, ["cat", "dog"])]
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    "embeddings",
    [torch.zeros(40, 8), torch.ones(40, 8), 1e-30 * torch.ones(40, 8), nearly_the_same(1e-5),
     noise(40, 8) * float("nan"), noise(1, 8), noise(0, 8), torch.ones(40, 1)],
    ids=["zero", "one", "tiny", "rounding", "nan", "one_image", "no_image", "one_dimension"],
)  # fmt: skip
def test_embeddings_without_a_map_end_in_no_picture(tmp_path, embeddings, caplog):
    """Those that are all the same ended the process by a segmentation fault."""
    assert draw_embeddings(tmp_path, embeddings, LABELS[: len(embeddings)], None) is None
    assert "pictures/embeddings.png is left out: the embeddings of all images have one direction" in caplog.text


@pytest.mark.parametrize(
    "embeddings",
    [nearly_the_same(1e-3), noise(40, 1), 1e30 * noise(40, 8), noise(40, 8).bfloat16(), noise(40, 8).double(),
     torch.cat([noise(38, 8), torch.zeros(1, 8), torch.full((1, 8), float("inf"))])],
    ids=["almost_the_same", "one_dimension", "huge", "bf16", "fp64", "two_without_direction"],
)  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_unusual_embeddings_have_a_map(tmp_path, embeddings, caplog):
    assert_is_a_picture(draw_embeddings(tmp_path, embeddings, LABELS, None), tmp_path, "embeddings.png")
    assert ("2 embeddings that are zero, NaN or infinite" in caplog.text) == (not embeddings.isfinite().all())


@pytest.mark.parametrize("names", [["$x$ for $^", "$x$2"], ["猫", "猫2"], ["\ud83d", ""]])
@pytest.mark.filterwarnings("error")
def test_any_class_names(tmp_path, names):
    assert_is_a_picture(draw_embeddings(tmp_path, noise(40, 8), LABELS, names), tmp_path, "embeddings.png")


@pytest.mark.slow
def test_hundreds_of_classes(tmp_path):
    path = draw_embeddings(tmp_path, noise(300, 8), torch.arange(300), [f"class {n}" for n in range(300)])
    assert_is_a_picture(path, tmp_path, "embeddings.png")


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are drawn."""
    figures = []
    save = class_map.save_picture

    def keep(figure, *arguments):
        boxes = [text.get_window_extent() for text in figure.findobj(Text) if text.get_bbox_patch() is not None]
        figures.append((figure, boxes))
        return save(figure, *arguments)

    monkeypatch.setattr(class_map, "save_picture", keep)
    return figures


@pytest.mark.parametrize(("number", "most"), [(10, 10), (40, 30)])
def test_no_name_covers_another(tmp_path, drawn, number, most):
    """All classes lie in the same place, as those of an encoder that has not learned anything."""
    names = [f"a long name {number}" for number in range(number)]
    draw_embeddings(tmp_path, noise(200, 8), torch.arange(200) % number, names)
    ((_, boxes),) = drawn
    assert 3 <= len(boxes) <= most
    for number, box in enumerate(boxes):
        for other in boxes[:number]:
            assert not box.overlaps(other)


def test_a_legend_names_all_classes_and_shows_an_image_of_each(tmp_path, drawn):
    colours, asked = torch.eye(3), []

    def pixels_of(numbers):
        asked.extend(numbers)
        return torch.stack([colours[number % 3][:, None, None].expand(3, 8, 8) for number in numbers])

    draw_embeddings(tmp_path, noise(60, 8), torch.arange(60) % 3, ["red", "green", "blue"], pixels_of)
    ((figure, _),) = drawn
    legend = figure.axes[1]
    assert [text.get_text() for text in legend.texts] == ["red", "green", "blue"]
    assert [number % 3 for number in asked] == [0, 1, 2] and len(legend.images) == 3
    middles = [image.get_array()[4, 4] for image in legend.images]
    np.testing.assert_array_equal(np.argmax(middles, axis=1), [0, 1, 2])
    assert figure.axes[0].get_position().x1 <= legend.get_position().x0  # beside the map, not over it


def test_many_classes_show_framed_images_instead_of_a_legend(tmp_path, drawn):
    pixels = noise(90, 3, 8, 8)
    draw_embeddings(tmp_path, noise(90, 8), torch.arange(90) % 30, None, lambda numbers: pixels[numbers])
    ((figure, boxes),) = drawn
    (axes,) = figure.axes
    assert len(axes.images) == len(axes.lines) >= 10 and not boxes
    assert len({line.get_color() for line in axes.lines}) > 5


def test_a_dark_picture_is_dark(tmp_path):
    path = draw_embeddings(tmp_path, noise(40, 8), LABELS, ["cat", "dog"])
    means = [np.asarray(Image.open(one).convert("L")).mean() for one in (path, path.parent / "dark" / path.name)]
    assert means[0] > 230 and means[1] < 45
