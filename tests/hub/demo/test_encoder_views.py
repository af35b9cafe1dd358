import json

import numpy as np
import pytest
import torch
from demo_process import encoder_folder
from PIL import Image

from lejepa_hf.evaluation.patch_maps import patch_maps, similarity_to_patch
from lejepa_hf.hub.demo.encoder_views import EncoderViews, draw_colours, draw_heat, draw_pixels, draw_thumbnail
from lejepa_hf.hub.demo.settings import DemoSettings


def is_picture(image: Image.Image) -> bool:
    return (
        image.mode == "RGB" and max(image.size) == 448 and len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 3
    )


def test_digits(tiny_vit, tmp_path):
    views = EncoderViews(DemoSettings(encoder_folder(tmp_path / "mine", tiny_vit), "digits", images=40))
    assert (views.title, views.enlarge, views.has_attention, len(views.bank)) == ("mine", 3, True, 40)
    assert len(views.examples) == 9
    image, label = views.examples[0]
    assert label in list("0123456789")
    view = views.look(image, views.enlarge)
    assert is_picture(view.seen) and is_picture(view.patches) and is_picture(view.heat)
    assert "48 x 48 pixels, 12 x 12 patches" in view.note and "class token's attention" in view.note
    captions = [caption for _, caption in view.neighbours]
    cosines = [float(caption.split(" · ")[1]) for caption in captions]
    assert len(cosines) == 12 and cosines == sorted(cosines, reverse=True)
    example = np.asarray(draw_thumbnail(image))  # no neighbour of itself
    assert not any(np.array_equal(np.asarray(picture), example) for picture, _ in view.neighbours)
    # The dataset's colours: one means the same in all images.
    alone = EncoderViews(DemoSettings(str(tmp_path / "mine"))).look(image, views.enlarge)
    assert np.array_equal(np.asarray(alone.heat), np.asarray(view.heat))
    assert not np.array_equal(np.asarray(alone.patches), np.asarray(view.patches))


def test_without_a_dataset(tiny_resnet, tmp_path):
    views = EncoderViews(DemoSettings(encoder_folder(tmp_path / "mine", tiny_resnet)))
    assert views.bank is None and not views.examples and not views.has_attention
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    view = views.look(Image.fromarray(noise), 4)
    assert is_picture(view.patches) and is_picture(view.heat) and view.neighbours == []
    assert "Lengths of features" in view.note


def test_the_image_has_its_own_colours(tiny_resnet, tmp_path):
    views = EncoderViews(DemoSettings(encoder_folder(tmp_path / "mine", tiny_resnet)))
    image = Image.new("RGB", (16, 16), (0, 128, 255))  # normalised, each channel has another range
    assert views.look(image, 1).seen.getpixel((50, 50)) == pytest.approx((0, 128, 255), abs=2)


def test_an_encoder_of_one_size_says_so(tmp_path):
    pytest.importorskip("timm")
    arguments = {"img_size": 16, "patch_size": 4, "depth": 1}
    timm = {"model_type": "timm_wrapper", "architecture": "vit_tiny_patch16_224", "model_args": arguments}
    views = EncoderViews(DemoSettings(encoder_folder(tmp_path / "mine", timm)))
    assert views.enlarge == 1
    view = views.look(views.extractor.grey_image(), 2)
    assert view.note.startswith(
        "**Shown at its own size.** `enlarge` 2: this timm_wrapper encoder does not accept images of"
    )
    assert "16 x 16 pixels, 4 x 4 patches" in view.note


def test_images_that_a_processor_does_not_crop_are_not_enlarged_without_limit(tiny_vit, tmp_path):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    settings = tmp_path / "mine" / "preprocessor_config.json"
    kept = json.loads(settings.read_text(encoding="utf-8")) | {"do_center_crop": False, "size": {"shortest_edge": 16}}
    settings.write_text(json.dumps(kept), encoding="utf-8")
    views = EncoderViews(DemoSettings(encoder))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 240, 3), dtype=np.uint8))
    assert "64 x 32 pixels" in views.look(noise.crop((0, 0, 60, 30)), 2).note
    note = views.look(noise, 4).note
    assert note.startswith("**Shown at its own size.** `enlarge` 4: 512 x 64 pixels are too many for this page")
    assert "128 x 16 pixels, 32 x 4 patches" in note


@pytest.mark.parametrize("channels", [1, 5])
def test_other_numbers_of_channels(tiny_vit, tmp_path, channels):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit | {"num_channels": channels}, channels)
    images = tmp_path / "images"
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (12, 14, channels), dtype=np.uint8)
        path = images / "train" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, noise)
    views = EncoderViews(DemoSettings(encoder, str(images)))
    assert views.channels == channels and len(views.examples) == 3 and len(views.bank) == 3
    view = views.look(views.examples[0][0], 2)
    assert is_picture(view.seen) and len(view.neighbours) == 3


def test_images_of_no_use(tiny_vit, tmp_path):
    encoder = encoder_folder(tmp_path / "mine", tiny_vit)
    with pytest.raises(ValueError, match="`images` must be at least 1, got 0"):
        DemoSettings(encoder, "digits", images=0)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="has no image that can be read"):
        EncoderViews(DemoSettings(encoder, str(tmp_path / "images")))


def test_patches_are_squares_with_sharp_edges():
    colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]])
    picture = np.asarray(draw_colours(colours))
    assert picture.shape == (448, 448, 3)
    for row in range(2):
        for column in range(2):
            patch = picture[224 * row : 224 * (row + 1), 224 * column : 224 * (column + 1)]
            assert (patch == colours[row, column].numpy() * 255).all()


def test_heat_is_brightest_where_it_is_largest_and_has_no_edges():
    heat = torch.tensor([[0.0, 1.0], [0.2, 0.1]])
    black = Image.new("RGB", (448, 448))
    light = np.asarray(draw_heat(heat, black).convert("L")).astype(int)
    values = [light[112, 112], light[336, 336], light[336, 112], light[112, 336]]  # in the middles of the patches
    assert values == sorted(values) and values[0] < 5 < 100 < values[3]
    assert max(np.abs(np.diff(light, axis=axis)).max() for axis in (0, 1)) <= 3
    assert draw_heat(torch.ones(2, 2), black).size == (448, 448)


def test_places_like_the_one_that_was_chosen(tiny_vit, tmp_path):
    views = EncoderViews(DemoSettings(encoder_folder(tmp_path / "mine", tiny_vit)))
    halves = np.zeros((16, 16, 3), dtype=np.uint8)
    halves[:, 8:] = np.random.default_rng(0).integers(0, 255, (16, 8, 3))
    image = Image.fromarray(halves)
    picture, note = views.similar(image, 1, 40, 220)
    assert is_picture(picture) and note.endswith(" to 1.00.")
    maps = patch_maps(views.extractor, [image])
    chosen = maps[0, :, 220 * 4 // 448, 40 * 4 // 448]
    expected = torch.nn.functional.cosine_similarity(maps[0], chosen[:, None, None], dim=0)
    torch.testing.assert_close(similarity_to_patch(maps, 1, 0)[0], expected)
    assert f"{expected.min():.2f}" in note
    assert views.similar(image, 1, 448, 0) is None and views.similar(image, 1, 0, -1) is None


def test_any_number_of_channels():
    ramp = torch.arange(12.0).view(1, 3, 4)
    for channels in (1, 2, 5):
        picture = np.asarray(draw_pixels(ramp.expand(channels, -1, -1)))
        assert picture.shape == (336, 448, 3) and picture.min() == 0 and picture.max() == 255
    assert draw_pixels(torch.rand(3, 600, 500)).size == (500, 600)
    many = np.arange(30 * 40 * 5, dtype=np.float64).reshape(30, 40, 5)
    thumbnail = np.asarray(draw_thumbnail((many % 256).astype(np.uint8)))
    assert thumbnail.shape == (120, 160, 3) and thumbnail.max() == 255
    assert draw_thumbnail(Image.new("L", (1000, 500), 7)).getpixel((0, 0)) == (7, 7, 7)
