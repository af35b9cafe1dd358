import json
from dataclasses import replace

import pytest
import torch
from matplotlib import pyplot
from PIL import Image

from lejepa_hf.evaluation.embedding_statistics import embedding_statistics
from lejepa_hf.hub.pictures import (
    draw_embeddings,
    draw_few_shot,
    draw_gaussianity,
    draw_losses,
    draw_patch_maps,
    read_metrics,
)


def write_metrics(run, rows: list[dict]):
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def loss_rows(steps) -> list[dict]:
    return [{"step": s, "prediction_loss": 1 / s, "sigreg_loss": 1.05 + 20 / s, "loss": 1.0} for s in steps]


def assert_is_a_picture(path, run, name: str):
    assert path == run / "pictures" / name
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        assert 400 <= image.width <= 2400
        assert 300 <= image.height <= 2000
        assert len(image.convert("RGB").getcolors(maxcolors=1 << 24)) > 20
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("steps", [range(10, 200, 10), [10]])
def test_losses(tmp_path, steps):
    write_metrics(tmp_path, [*loss_rows(steps), {"step": 200, "train_runtime": 3.0}])
    assert_is_a_picture(draw_losses(tmp_path), tmp_path, "losses.png")


def test_losses_show_what_was_logged(tmp_path):
    write_metrics(tmp_path, loss_rows(range(1, 50)))
    first = draw_losses(tmp_path).read_bytes()
    assert draw_losses(tmp_path).read_bytes() == first
    write_metrics(tmp_path, loss_rows(range(20, 50)))
    assert draw_losses(tmp_path).read_bytes() != first


@pytest.mark.parametrize("rows", [None, [], [{"step": 3, "train_runtime": 3.0}]])
def test_nothing_logged_is_no_picture(tmp_path, rows):
    if rows is not None:
        write_metrics(tmp_path, rows)
    assert draw_losses(tmp_path) is None
    assert not (tmp_path / "pictures").exists()


def test_a_line_torn_by_a_kill_is_left_out(tmp_path):
    write_metrics(tmp_path, loss_rows([10, 20]))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "prediction_lo')
    assert [row["step"] for row in read_metrics(tmp_path)] == [10, 20]


@pytest.mark.parametrize(
    ("num_images", "num_classes", "names"),
    [(60, 10, list("abcdefghij")), (60, 2, None), (12, 1, ["only"]), (5, 2, None), (2, 2, None), (120, 40, None)],
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
    ("shape", "scale"),
    [
        ((3, 200, 16), 1.0),
        ((10, 30, 4), 100.0),
        ((40, 80), 1e-3),
        ((2, 50, 8), 0.0),  # collapsed
        ((2, 1), 1.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_gaussianity(tmp_path, shape, scale):
    samples = 0.1 + scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    path = draw_gaussianity(tmp_path, embedding_statistics(samples, num_slices=32))
    assert_is_a_picture(path, tmp_path, "gaussianity.png")
    with Image.open(path) as image:
        assert image.width >= 900


def test_gaussianity_shows_what_was_found(tmp_path):
    samples = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    found, other = (embedding_statistics(sample, num_slices=32) for sample in (samples, samples.exp()))
    first = draw_gaussianity(tmp_path, found).read_bytes()
    for field in ("sigreg", "worst_slices", "random_slices", "quantile_band", "eigenvalues"):
        changed = replace(found, **{field: getattr(other, field)})
        assert draw_gaussianity(tmp_path, changed).read_bytes() != first, field
    assert draw_gaussianity(tmp_path, found).read_bytes() == first


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_patch_maps(tmp_path, channels):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(6, channels, 24, 24, generator=generator)
    colours = torch.rand(6, 4, 4, 3, generator=generator)
    path = draw_patch_maps(tmp_path, pixels, colours)
    assert_is_a_picture(path, tmp_path, "pca_maps.png")
    first = path.read_bytes()
    assert draw_patch_maps(tmp_path, pixels, colours.flip(1)).read_bytes() != first
    assert draw_patch_maps(tmp_path, pixels[:1], colours[:1]).is_file()


def test_few_shot_curves(tmp_path):
    def row(best: float) -> dict[str, float]:
        values = {f"eval_{k}shot_top1": best - 1 / (2 + number) for number, k in enumerate((1, 5, 10, "all"))}
        return {"eval_knn_top1": 0.5} | values | {f"{name}_ci95": 0.03 for name in values}

    path = draw_few_shot(tmp_path, {"encoder": row(1.0), "untrained": row(0.8), "pixels": row(0.7)})
    assert_is_a_picture(path, tmp_path, "few_shot.png")
    first = path.read_bytes()
    assert draw_few_shot(tmp_path, {"encoder": row(0.9)}).read_bytes() != first
    assert draw_few_shot(tmp_path, {"encoder": {"eval_knn_top1": 0.5}}) is None
    assert draw_few_shot(tmp_path, {}) is None
