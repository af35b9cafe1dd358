import io

import numpy as np
import pytest
import torch
from datasets import Array3D, Dataset, Features, Value
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BitImageProcessor, YolosImageProcessor
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from lejepa_hf.data.decoding import DECODING_ERRORS
from lejepa_hf.data.sources import ImageSource, load_source
from lejepa_hf.evaluation.embeddings.extraction import extract_embeddings
from lejepa_hf.evaluation.embeddings.raw_pixels import raw_pixels
from lejepa_hf.evaluation.pixel_values import check_enlargement, in_own_colours, join_pixel_values, to_pixel_values
from lejepa_hf.hub.export import build_processor

RNG = np.random.default_rng(0)


def processor_of(channels: int, folder, **settings):
    mean = [0.1 * (k % 7) for k in range(channels)]
    build_processor(16, crop_ratio=1.0, image_mean=mean, **settings).save_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12])
def test_pixels_of_any_channels(channels, tmp_path):
    arrays = [RNG.integers(0, 256, (16, 16, channels), dtype=np.uint8) for _ in range(3)]
    images = [Image.fromarray(np.squeeze(array)) if channels in (1, 3) else array for array in arrays]
    processor = processor_of(channels, tmp_path, image_std=[0.5] * channels)
    found = to_pixel_values(images, processor, channels)
    mean = np.array(processor.image_mean)
    expected = (torch.from_numpy(np.stack(arrays)) / 255 - torch.from_numpy(mean).float()) / 0.5
    torch.testing.assert_close(found, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)
    rescaled = to_pixel_values(images, processor, channels, do_normalize=False)
    torch.testing.assert_close(in_own_colours(found, processor), rescaled, atol=1e-6, rtol=0)
    torch.testing.assert_close(in_own_colours(found[None], processor)[0], rescaled, atol=1e-6, rtol=0)
    assert in_own_colours(found, None) is found  # nobody knows how
    plain = to_pixel_values(images, processor, channels, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(plain.permute(0, 2, 3, 1), arrays)


def test_sizes_that_differ_and_other_modes(tmp_path):
    images = [Image.new("RGB", (40, 20), (255, 0, 0)), Image.new("L", (16, 30), 76)]
    for channels in (1, 3):
        found = to_pixel_values(images, processor_of(channels, tmp_path / str(channels)), channels)
        assert found.shape == (2, channels, 16, 16)
    grey = to_pixel_values(images, processor_of(1, tmp_path), 1)
    torch.testing.assert_close(grey[0], grey[1], atol=1e-2, rtol=0)  # the luminance of red is 76


def encoded(image: Image.Image) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def encoder_of(channels: int, tiny_resnet):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(**tiny_resnet, num_channels=channels)).eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_colour_and_greyscale_files_for_either_encoder(channels, tiny_resnet, tmp_path):
    colours = Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    rows = [{"image": encoded(image), "label": 0} for image in (colours, colours.convert("L"))]
    encoder, processor = encoder_of(channels, tiny_resnet), processor_of(channels, tmp_path)
    found = extract_embeddings(encoder, processor, ImageSource(Dataset.from_list(rows), "rows", "image", "label"))
    assert found.embeddings.shape == (2, 16)
    assert torch.allclose(found.embeddings[0], found.embeddings[1], atol=1e-5) == (channels == 1)


def test_arrays_are_read_in_the_range_that_the_processor_knows(tiny_resnet, tmp_path):
    tiles = RNG.integers(0, 9000, (4, 16, 16, 5), dtype=np.uint16)
    features = Features({"tile": Array3D((16, 16, 5), "uint16"), "label": Value("int64")})
    source = load_source(
        Dataset.from_dict({"tile": list(tiles), "label": [0, 1, 0, 1]}, features=features), label_column="label"
    )
    encoder, processor = encoder_of(5, tiny_resnet), processor_of(5, tmp_path, pixel_range=[0.0, 10000.0])
    found = extract_embeddings(encoder, processor, source, batch_size=3)
    pixels = torch.from_numpy((tiles / 10000 * 255).round() / 255) - torch.tensor(processor.image_mean)
    with torch.no_grad():
        expected = encoder((pixels / 0.5).permute(0, 3, 1, 2).float()).pooler_output.flatten(1)
    torch.testing.assert_close(found.embeddings, expected, atol=1e-4, rtol=1e-3)
    raw = raw_pixels(source, 5, [0.0, 10000.0])
    np.testing.assert_allclose(raw.embeddings, (tiles / 10000).reshape(4, -1), atol=0.5 / 255 + 1e-6)


@pytest.mark.parametrize(("shape", "dim"), [((8, 8, 1), 64), ((40, 8, 5), 5 * 32 * 32), ((6, 9, 5), 270)])
def test_raw_pixels_of_any_channels(shape, dim):
    rows = [{"image": RNG.integers(0, 256, shape, dtype=np.uint8), "label": i} for i in range(3)]
    found = raw_pixels(ImageSource(rows, "rows", "image", "label"), channels=shape[-1])
    assert found.embeddings.shape == (3, dim)
    if dim < 1000:
        np.testing.assert_allclose(found.embeddings, [row["image"].ravel() / 255 for row in rows], atol=1e-6)


def test_images_one_by_one_have_the_values_of_a_batch(tmp_path):
    images = [Image.effect_noise((width, 40), 80).convert("RGB") for width in (40, 70, 23)]
    processor = processor_of(3, tmp_path)
    found = join_pixel_values([to_pixel_values([image], processor, 3) for image in images])
    assert torch.equal(found, to_pixel_values(images, processor, 3))


def test_padded_images_one_by_one():
    processor = YolosImageProcessor(size={"shortest_edge": 16, "longest_edge": 64})
    images = [Image.effect_noise(size, 80).convert("RGB") for size in ((40, 30), (30, 50))]
    found = join_pixel_values([to_pixel_values([image], processor, 3) for image in images])
    assert torch.equal(found, to_pixel_values(images, processor, 3))


THIN = {  # settings of a processor -> what it makes of 1 x 1000 pixels
    "shortest edge": ({"size": {"shortest_edge": 64}}, "64 x 64000"),
    "longest edge too": ({"size": {"shortest_edge": 64, "longest_edge": 100}}, None),
    "square": ({"size": {"height": 64, "width": 64}}, None),
    "as it is": ({"size": {"shortest_edge": 64}, "do_resize": False}, None),
}


@pytest.mark.parametrize("case", THIN)
@pytest.mark.parametrize("turned", [False, True])
def test_thin_images_that_a_resize_would_enlarge(case, turned):
    settings, refused = THIN[case]
    processor, size = BitImageProcessor(**settings), (1000, 1) if turned else (1, 1000)
    if refused is not None:
        shown = " x ".join(reversed(refused.split(" x "))) if turned else refused
        with pytest.raises(
            DECODING_ERRORS, match=f"{shown} .* after the resize of {size[0]} x {size[1]} .*, 1000000;"
        ):
            check_enlargement(Image.new("RGB", size), processor, max_image_pixels=10**6)
    check_enlargement(Image.new("RGB", size), processor, max_image_pixels=10**7)


def test_thin_images_for_timm():
    processor = TimmWrapperImageProcessor({"input_size": (3, 64, 64), "crop_pct": 0.5})
    with pytest.raises(DECODING_ERRORS, match="128 x 128000 pixels after the resize of 1 x 1000"):
        check_enlargement(np.zeros((1000, 1, 5), np.uint8), processor, max_image_pixels=10**7)
