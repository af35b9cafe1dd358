import numpy as np
import pytest
import torch
from coloured_squares import Pixels, a_source
from PIL import Image

from lejepa_hf.evaluation.feature_extractor import FeatureExtractor
from lejepa_hf.evaluation.protocols.protocol import passes_and_steps
from lejepa_hf.evaluation.protocols.segmentation_crops import SegmentationCrops, random_square
from lejepa_hf.hub.export import build_processor


def crops_of(source, side: int = 8, classes=(0, 1, 2)) -> SegmentationCrops:
    return SegmentationCrops(FeatureExtractor(Pixels(), build_processor(8, crop_ratio=0.5)), source, classes, side)


@pytest.mark.parametrize("as_array", [False, True])
def test_a_square_of_image_and_mask_alike(as_array):
    mask = np.arange(12 * 20).reshape(12, 20)
    pixels = mask.astype(np.uint8)
    squares = []
    for number in range(200):
        crop, part = random_square(pixels if as_array else Image.fromarray(pixels), mask, 8, number)
        assert part.shape == (8, 8) and (np.asarray(crop) == part).all()
        squares.append(part)
    flipped = np.mean([part[0, 0] > part[0, 1] for part in squares])
    assert 0.4 < flipped < 0.6
    corners = {(part[0].min() // 20, part[0].min() % 20) for part in squares}
    assert {row for row, _ in corners} == set(range(5)) and {column for _, column in corners} == set(range(13))
    again = random_square(Image.fromarray(pixels), mask, 8, 3)[1]
    assert (again == squares[3]).all()


def test_a_mask_is_brought_to_the_size_of_its_image():
    image = Image.fromarray(np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3), np.ones((8, 8), np.uint8)))
    crop, mask = random_square(image, np.arange(6).reshape(2, 3), 8, 0)
    assert (np.asarray(crop) == mask).all()


def test_each_image_once_in_an_epoch_in_another_order():
    source = a_source(6, 0, squares=8)  # a square has as many classes as pixels: no two are alike
    batches = list(crops_of(source).random(num_epochs=2, batch_size=4))
    assert [len(masks) for _, masks in batches] == [4, 4, 4]
    assert passes_and_steps(6, 4, 2, 10, 600) == (2, 3), "for the learning rate, which falls to 0"
    masks = torch.cat([masks for _, masks in batches])
    pixels = torch.cat([pixels for pixels, _ in batches])
    assert torch.equal(pixels.argmax(1), masks)  # red, green and blue
    whole = {tuple(min(mask.tolist(), mask.flip(-1).tolist())[0]) for mask in masks}
    assert len(whole) == 6
    assert not torch.equal(masks[:6], masks[6:])


@pytest.mark.parametrize("size", [(12, 20), (40, 16)])
def test_whole_images_have_the_shorter_side_of_the_windows_and_their_own_masks(size):
    found = list(crops_of(a_source(3, 0, size=size)).windows())
    assert len(found) == 3
    for windows, (height, width), mask in found:
        assert (height, width) == ((8, 13) if size == (12, 20) else (20, 8))
        assert windows.shape == (len(range(0, max(height, width) - 8, 5)) + 1, 3, 8, 8)
        assert mask.shape == size


def test_masks_keep_more_than_512_pixels():
    ((_, _, mask),) = crops_of(a_source(1, 0, size=(1024, 6)), side=2).windows()
    assert mask.shape == (1024, 6)


def test_images_that_would_grow_too_large_are_left_out(caplog):
    source = a_source(2, 0, size=(2, 10))
    source.max_image_pixels = 5000
    assert list(crops_of(source, side=64).windows()) == []
    assert "320 x 64 pixels with a shorter side of 64 are more than `max_image_pixels`, 5000" in caplog.text
