import io
import pickle
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from lejepa_hf import MultiCropCollator, MultiCropTransform
from lejepa_hf.data import multi_crop
from lejepa_hf.data.decoding import DECODING_ERRORS
from lejepa_hf.data.multi_crop import _cut, random_boxes
from lejepa_hf.data.photometric import NUM_UNIFORMS
from lejepa_hf.data.view_settings import ViewSettings

SMALL = {"global_crop_size": 24, "local_crop_size": 12}


def picture(width=40, height=30, channels=3):
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("width", "height"), [(40, 30), (500, 20), (7, 200), (1, 1), (2, 1)])
def test_shapes_and_types(width, height, channels):
    views = MultiCropTransform(num_global_views=2, num_local_views=3, **SMALL)(picture(width, height, channels))
    assert {name: tuple(value.shape) for name, value in views.items()} == {
        "global_views": (2, 3, 24, 24),
        "global_photometric": (2, NUM_UNIFORMS),
        "local_views": (3, 3, 12, 12),
        "local_photometric": (3, NUM_UNIFORMS),
    }
    for name, value in views.items():
        assert value.dtype == (torch.uint8 if name.endswith("views") else torch.float32)
    assert 0 <= views["global_photometric"].min() <= views["global_photometric"].max() < 1
    if channels == 1:
        assert torch.equal(views["global_views"][:, :1].expand(-1, 3, -1, -1), views["global_views"])


def test_no_local_views():
    views = MultiCropTransform(num_local_views=0, global_crop_size=24)(picture())
    assert views.keys() == {"global_views", "global_photometric"}


def test_views_follow_from_seed_epoch_and_index():
    transform = MultiCropTransform(seed=5, **SMALL)
    views = transform(picture(), epoch=2, index=7)
    assert same(views, transform(picture(), epoch=2, index=7))
    assert same(views, pickle.loads(pickle.dumps(transform))(picture(), epoch=2, index=7))


@pytest.mark.parametrize(("seed", "epoch", "index"), [(6, 2, 7), (5, 3, 7), (5, 2, 8), (2, 5, 7), (5, 7, 2)])
def test_each_of_seed_epoch_and_index_matters(seed, epoch, index):
    views = MultiCropTransform(seed=5, **SMALL)(picture(), epoch=2, index=7)
    others = MultiCropTransform(seed=seed, **SMALL)(picture(), epoch=epoch, index=index)
    assert not any(torch.equal(views[name], others[name]) for name in views)


def test_largest_numbers():
    views = MultiCropTransform(seed=2**32 - 1, **SMALL)(picture(), epoch=10**6, index=2**32 - 1)  # a crc32
    assert views["global_views"].shape == (2, 3, 24, 24)


def test_views_of_one_image_differ():
    views = MultiCropTransform(**SMALL)(picture())
    for name in views:
        assert len(views[name].flatten(1).unique(dim=0)) == len(views[name])


def test_global_random_state_is_neither_read_nor_written():
    transform = MultiCropTransform(**SMALL)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    views = transform(picture(), epoch=0, index=0)
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    random.random(), np.random.rand(), torch.rand(1)
    assert same(views, transform(picture(), epoch=0, index=0))


def test_one_of_epoch_and_index_alone_fixes_the_views():
    transform = MultiCropTransform(**SMALL)
    assert same(transform(picture(), index=3), transform(picture(), epoch=0, index=3))
    assert same(transform(picture(), epoch=3), transform(picture(), epoch=3, index=0))


def test_views_without_epoch_and_index_are_new_and_follow_from_torchs_seed():
    """They were the same in each epoch of a plain loader."""
    transform = MultiCropTransform(**SMALL)
    torch.manual_seed(0)
    first, second = transform(picture()), transform(picture())
    assert not any(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(0)
    assert same(first, transform(picture())) and same(second, transform(picture()))
    states = random.getstate(), np.random.get_state()[1].copy()
    transform(picture())
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_views_of_an_epoch_and_index_stay_those_of_earlier_versions():
    views = MultiCropTransform(seed=5, **SMALL)(picture(), epoch=2, index=7)
    numbers = [views["global_photometric"][0, 0].item(), views["local_photometric"][-1, -1].item()]
    assert numbers == [0.05269092321395874, 0.9484169483184814]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (8, 3), (200, 150)])
@pytest.mark.parametrize("scale", [[1e-6, 1e-6], [1.0, 1.0]])
@pytest.mark.parametrize("ratio", [[0.01, 0.01], [100.0, 100.0]])
def test_the_ends_of_all_ranges_give_views(width, height, scale, ratio):
    extreme = {"global_crop_scale": scale, "local_crop_scale": scale, "crop_aspect_ratio": ratio}
    views = MultiCropTransform(**extreme, **SMALL)(picture(width, height), epoch=0, index=1)
    assert views["global_views"].shape == (2, 3, 24, 24)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_seed_of_other_sizes_is_refused(seed):
    with pytest.raises(ValueError, match=f"`seed` must be .*, got {seed}"):
        MultiCropTransform(seed=seed)


SIZES = [(200, 200), (640, 480), (480, 640), (8, 8)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("scale", [[0.05, 0.3], [0.3, 1.0]])
def test_areas_and_aspect_ratios_stay_in_range(width, height, scale):
    boxes = random_boxes(np.random.default_rng(0), 3000, width, height, scale, [3 / 4, 4 / 3])
    left, upper, right, lower = boxes.T
    share, ratio = (right - left) * (lower - upper) / (width * height), (right - left) / (lower - upper)
    assert scale[0] <= share.min() and share.max() <= scale[1] * (1 + 1e-12)
    assert ratio.min() >= 3 / 4 * (1 - 1e-12) and ratio.max() <= 4 / 3 * (1 + 1e-12)
    assert min(left.min(), upper.min()) >= 0
    assert right.max() <= width * (1 + 1e-12) and lower.max() <= height * (1 + 1e-12)


def test_place_shape_and_area_are_independent():
    left, upper, right, lower = random_boxes(np.random.default_rng(0), 5000, 500, 400, [0.05, 0.3], [3 / 4, 4 / 3]).T
    across, down = left / (500 - right + left), upper / (400 - lower + upper)
    shape, area = np.log((right - left) / (lower - upper)), (right - left) * (lower - upper)
    correlation = np.corrcoef([across, down, shape, area]) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(5000)


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(1000, 10, [1000 / 2 - 20 / 3, 0, 1000 / 2 + 20 / 3, 10]), (3, 300, [0, 148, 3, 152]), (1, 1, None)],
)
def test_boxes_of_extreme_images(width, height, expected):
    boxes = random_boxes(np.random.default_rng(0), 500, width, height, [0.3, 1.0], [3 / 4, 4 / 3])
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    if expected is not None:  # nothing fits: the largest allowed region in the centre
        np.testing.assert_allclose(boxes, np.tile(expected, (500, 1)), rtol=1e-12)


@pytest.mark.parametrize(("width", "height"), [(400, 400), (600, 300), (300, 800)])
@pytest.mark.parametrize("scale", [[0.05, 0.3], [0.3, 1.0]])
def test_distribution_is_torchvisions(width, height, scale):
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    number, ratio = 4000, [3 / 4, 4 / 3]
    left, upper, right, lower = random_boxes(np.random.default_rng(0), number, width, height, scale, ratio).T
    ours = np.stack([left, upper, right - left, lower - upper])
    crop = v2.RandomResizedCrop(24, scale=scale, ratio=ratio)
    image = tv_tensors.Image(torch.empty(3, height, width))
    torch.manual_seed(0)
    drawn = [crop.make_params([image]) for _ in range(number)]
    theirs = np.array([[box[name] for box in drawn] for name in ("left", "top", "width", "height")])

    def described(boxes):
        left, upper, wide, high = boxes
        return np.stack([left / width, upper / height, wide * high / (width * height), np.log(wide / high)])

    for mine, other in zip(described(ours), described(theirs), strict=True):
        error = other.std() * (2 / number) ** 0.5
        rounding = 1 / min(width, height)
        assert mine.mean() == pytest.approx(other.mean(), abs=4 * error + rounding)
        quantiles = np.linspace(0.1, 0.9, 9)
        spread = np.quantile(other, 0.9) - np.quantile(other, 0.1)
        np.testing.assert_allclose(
            np.quantile(mine, quantiles), np.quantile(other, quantiles), atol=0.05 * spread + rounding
        )


@pytest.mark.parametrize(("width", "height"), [(32, 32), (50, 30), (20, 41)])
@pytest.mark.parametrize("channels", [1, 3])
def test_full_scale_is_a_plain_resize_of_the_centre(width, height, channels):
    image = picture(width, height, channels)
    whole = {"global_crop_scale": [1.0, 1.0], "local_crop_scale": [1.0, 1.0], "crop_aspect_ratio": [1.0, 1.0]}
    views = MultiCropTransform(**whole, **SMALL)(image)
    side = min(width, height)
    left, upper = (width - side) / 2, (height - side) / 2
    for name, size in (("global_views", 24), ("local_views", 12)):
        box = (left, upper, left + side, upper + side)
        expected = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box=box))
        for view in views[name]:
            np.testing.assert_array_equal(view.permute(1, 2, 0).numpy(), expected)


def test_scales_belong_to_their_kind():
    # A ramp from 0 to 255: the range within a view is the share of the width that it covers.
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1)))
    ratio = {"crop_aspect_ratio": [1.0, 1.0], "global_crop_scale": [0.64, 0.64], "local_crop_scale": [0.04, 0.04]}
    views = MultiCropTransform(num_global_views=20, num_local_views=20, **ratio, **SMALL)(ramp)
    for name, size, side in (("global_views", 24, 0.8), ("local_views", 12, 0.2)):
        ranges = (views[name].flatten(1).amax(1) - views[name].flatten(1).amin(1)).float()
        assert ranges / 255 == pytest.approx(side * (1 - 1 / size) * torch.ones(20), abs=0.02)


def test_from_settings():
    settings = ViewSettings(num_local_views=1, hue_jitter=0.3, **SMALL)
    assert MultiCropTransform.from_settings(settings, seed=9) == MultiCropTransform(
        num_local_views=1, hue_jitter=0.3, seed=9, **SMALL
    )


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Smooth shapes: what scaling does to noise says nothing about photographs."""
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = [np.sin(across * (k + 1)) * np.cos(down * (k + 2)) + np.sin(across + k * down) for k in range(3)]
    pixels = ((np.stack(waves, -1) + 2) * 63).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_large_images_are_cut_as_pil_does(mode):
    image = photo(300, 200, mode)
    boxes = random_boxes(np.random.default_rng(0), 12, 300, 200, [0.05, 1.0], [0.75, 4 / 3])
    for crop, box in zip(_cut(image, boxes, np.full(12, 48)), boxes.round(), strict=True):
        expected = np.array(image.convert("RGB").resize((48, 48), Image.Resampling.BICUBIC, box=tuple(box)))
        difference = np.abs(crop.astype(int) - expected)
        assert difference.max() <= 4 and difference.mean() < 1


def test_small_images_keep_boxes_between_pixels():
    image = photo(16, 12)
    box = np.array([[1.4, 2.6, 9.3, 8.9]])
    (crop,) = _cut(image, box, np.array([24]))
    expected = np.array(image.resize((24, 24), Image.Resampling.BICUBIC, box=tuple(box[0])))
    assert np.array_equal(crop, expected)


LITTLE = {"global_crop_size": 32, "local_crop_size": 16, "local_crop_scale": [0.1, 0.3], "blur_kernel_size": 5}


def test_jpegs_are_decoded_no_finer_than_needed(monkeypatch):
    sizes = []
    monkeypatch.setattr(multi_crop, "_cut", lambda image, *rest: sizes.append(image.size) or _cut(image, *rest))
    data = encoded(photo(1024, 768), quality=95)
    coarse = MultiCropTransform(**LITTLE)({"bytes": data, "path": None}, epoch=1, index=5)
    fine = MultiCropTransform(**LITTLE)(encoded(photo(1024, 768), "PNG"), epoch=1, index=5)
    assert sizes[0] in ((128, 96), (256, 192)) and sizes[1] == (1024, 768)
    for name in ("global_views", "local_views"):
        assert (coarse[name].float() - fine[name].float()).abs().mean() < 3  # of 255
    # Crops that enlarge, or hardly shrink, want every pixel.
    MultiCropTransform(global_crop_size=512, local_crop_size=256)(data)
    assert sizes[2] == (1024, 768)


@pytest.mark.parametrize("sides", [(48, 24), (96, 32), (200, 64)])
def test_every_crop_of_a_reduced_jpeg_is_still_made_smaller(monkeypatch, sides):
    seen = []
    monkeypatch.setattr(multi_crop, "_cut", lambda *all_of_it: seen.append(all_of_it) or _cut(*all_of_it))
    data = encoded(photo(800, 600))
    transform = MultiCropTransform(global_crop_size=sides[0], local_crop_size=sides[1], num_local_views=2)
    reductions = set()
    for index in range(60):
        transform(data, index=index)
        image, boxes, sides_of_boxes = seen[-1]
        shrink = (np.minimum(*(boxes[:, 2:] - boxes[:, :2]).T) / sides_of_boxes).min()
        reduction = 800 // image.width
        reductions.add(reduction)
        assert image.height * reduction == 600
        assert 1 <= shrink < 2 if reduction in (2, 4) else (shrink >= 1 if reduction == 8 else shrink < 2)
    assert len(reductions) >= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_crops_of_turned_photographs_are_upright(orientation, kind):
    upright = photo(640, 480)
    turn = Image.Transpose
    turns = [turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE]
    turns += [turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]
    stored = upright.transpose(turns[orientation - 2]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    views = MultiCropTransform(**LITTLE)(encoded(stored, kind, quality=95, exif=exif), index=3)
    expected = MultiCropTransform(**LITTLE)(upright, index=3)
    assert (views["global_views"].float() - expected["global_views"].float()).abs().mean() < 3


def test_grey_photographs_have_three_equal_channels():
    views = MultiCropTransform(**LITTLE)(encoded(photo(200, 150, "L")))
    for name in ("global_views", "local_views"):
        assert views[name].shape[1] == 3 and torch.equal(views[name][:, 0], views[name][:, 2])
        assert views[name].float().std() > 5


def bands(width: int, height: int, channels: int) -> np.ndarray:
    across, down = np.meshgrid(np.linspace(0, 9, width), np.linspace(0, 7, height))
    waves = [np.sin(across * (k % 3 + 1) + k) * np.cos(down * (k % 2 + 1)) + 1 for k in range(channels)]
    return (np.stack(waves, -1) * 127).astype(np.uint8)


def of_channels(channels: int, **settings) -> MultiCropTransform:
    return MultiCropTransform(image_mean=[0.5] * channels, image_std=[0.5] * channels, **SMALL, **settings)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
@pytest.mark.parametrize(("width", "height"), [(200, 150), (20, 30), (1, 1)])
def test_any_number_of_channels(channels, width, height):
    array = bands(width, height, channels)
    views = of_channels(channels)(array, epoch=1, index=4)
    boxes_of_rgb = MultiCropTransform(**SMALL)(picture(width, height), epoch=1, index=4)
    for kind, side in (("global", 24), ("local", 12)):
        crops = views[f"{kind}_views"]
        assert crops.shape[1:] == (channels, side, side) and crops.dtype == torch.uint8
        assert crops.stride(2) == channels * side and (channels == 1 or crops.stride(1) == 1)  # channels last
        assert torch.equal(views[f"{kind}_photometric"], boxes_of_rgb[f"{kind}_photometric"])
        # A channel is cut as if it were alone.
        for place in (0, channels - 1):
            alone = MultiCropTransform(**SMALL)(Image.fromarray(array[:, :, place]), epoch=1, index=4)
            difference = crops[:, place].int() - alone[f"{kind}_views"][:, 0]
            assert difference.abs().max() <= (0 if min(width, height) < 64 else 3)


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
def test_arrays_are_cut_as_pil_cuts_their_channels(channels):
    array, box = bands(200, 150, channels), np.array([[20, 10, 180, 140]])
    (crop,) = _cut(array, box, np.array([48]))
    for place in range(channels):
        channel = Image.fromarray(array[:, :, place])
        expected = np.array(channel.resize((48, 48), Image.Resampling.BICUBIC, box=tuple(box[0].tolist())))
        assert np.abs(crop[:, :, place].astype(int) - expected).max() <= 3


def test_colours_become_one_channel():
    image = photo(200, 150)
    views, grey = of_channels(1)(encoded(image, "PNG"), index=2), of_channels(1)(image.convert("L"), index=2)
    assert views["global_views"].shape == (2, 1, 24, 24) and same(views, grey)


def test_jpegs_for_one_channel_are_decoded_no_finer_than_needed(monkeypatch):
    seen = []
    monkeypatch.setattr(multi_crop, "_cut", lambda image, *rest: seen.append(image) or _cut(image, *rest))
    coarse = of_channels(1)(encoded(photo(1024, 768), quality=95), index=5)
    fine = of_channels(1)(photo(1024, 768), index=5)
    assert seen[0].mode == "L" and seen[0].width < 512 and seen[1].width == 1024
    assert (coarse["global_views"].float() - fine["global_views"].float()).abs().mean() < 3


def test_pixel_range_reaches_the_pixels():
    array = bands(200, 150, 5).astype(np.uint16) * 10
    expected = of_channels(5)(bands(200, 150, 5), index=0)
    assert same(of_channels(5, pixel_range=[0.0, 2550.0])(array, index=0), expected)
    assert not same(of_channels(5)(array, index=0), expected)


def test_the_largest_image_is_a_setting():
    image = photo(200, 150)
    assert same(of_channels(3, max_image_pixels=30000)(image, index=0), of_channels(3)(image, index=0))
    with pytest.raises(DECODING_ERRORS, match="200 x 150 pixels are more than `max_image_pixels`, 29999"):
        of_channels(3, max_image_pixels=29999)(image)


@dataclass(frozen=True)
class Marked(MultiCropTransform):
    """An operation of the user's own: the first pixel of each global view is a random number."""

    mark: int = 200

    def __call__(self, image, epoch=None, index=None):
        views = super().__call__(image, epoch, index)
        numbers = self.generator(epoch, index).integers(0, self.mark, self.num_global_views, dtype=np.uint8)
        views["global_views"][:, :, 0, 0] = torch.from_numpy(numbers)[:, None]
        return views


def test_own_operations_are_as_exact_as_the_crops():
    transform = Marked(**SMALL)
    views = transform(picture(), epoch=1, index=2)
    assert same(views, pickle.loads(pickle.dumps(transform))(picture(), epoch=1, index=2))
    plain = MultiCropTransform(**SMALL)(picture(), epoch=1, index=2)
    assert torch.equal(views["global_views"][:, :, 1:], plain["global_views"][:, :, 1:])
    assert torch.equal(views["local_views"], plain["local_views"])
    marks = {tuple(transform(picture(), epoch=1, index=i)["global_views"][:, 0, 0, 0].tolist()) for i in range(9)}
    assert len(marks) == 9
    torch.manual_seed(0)
    first, second = (transform(picture()) for _ in range(2))
    torch.manual_seed(0)
    assert same(first, transform(picture())) and not same(first, second)
    batch = MultiCropCollator(transform)([{"image": picture(), "epoch": 1, "index": 2}])
    assert torch.equal(batch["global_views"][0], views["global_views"])


def oriented(size=40, number=1, channels=3, **given):
    """Views of some images, without and with these settings."""
    images = [picture(size, size, channels) for _ in range(number)]
    for settings in (SMALL, {**SMALL, **given}):
        transform = MultiCropTransform(seed=5, **settings)
        yield [transform(image, epoch=2, index=index) for index, image in enumerate(images)]


@pytest.mark.parametrize(("size", "channels"), [(40, 3), (90, 3), (90, 1)])
def test_vertical_flips(size, channels):
    plain, flipped = (views[0] for views in oriented(size, channels=channels, vertical_flip_probability=1.0))
    for name in ("global_views", "local_views"):
        assert torch.equal(flipped[name], plain[name].flip(-2)) and not torch.equal(flipped[name], plain[name])
    for name in ("global_photometric", "local_photometric"):
        assert torch.equal(flipped[name], plain[name])


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_rotations(probability):
    quarters = []
    for plain, rotated in zip(*oriented(number=60, rotate90_probability=probability), strict=True):
        for before, after in zip(plain["local_views"], rotated["local_views"], strict=True):
            (found,) = (number for number in range(4) if torch.equal(after, before.rot90(number, (-2, -1))))
            quarters.append(found)
    expected = len(quarters) * np.array([1 - 0.75 * probability, *[probability / 4] * 3])
    found = np.bincount(quarters, minlength=4)
    assert (np.abs(found - expected) < 5 * np.sqrt(expected)).all()  # five standard deviations


def test_flips_do_not_depend_on_rotations():
    (flipped,), (both,) = (
        list(oriented(vertical_flip_probability=0.5, rotate90_probability=rotate))[1] for rotate in (0.0, 1.0)
    )
    for one, other in zip(flipped["local_views"], both["local_views"], strict=True):
        assert any(torch.equal(other, one.rot90(number, (-2, -1))) for number in range(4))
    assert both["local_views"].stride(1) == 1  # channels last


def plain_images(number: int) -> tuple:
    """Images of one value each, and of different sizes."""
    return tuple(np.full((30 + n, 40, 3), 10 + n, dtype=np.uint8) for n in range(number))


def values_of(views: dict) -> list[int]:
    """The one value in each view, from 10 on."""
    found = [view.unique().tolist() for name in ("global_views", "local_views") for view in views[name]]
    assert all(len(values) == 1 for values in found)
    return [values[0] - 10 for values in found]


@pytest.mark.parametrize("number", [2, 3, 8, 20])
def test_each_view_takes_one_of_several_images(number):
    transform = MultiCropTransform(seed=5, **SMALL)  # 2 + 6 views
    orders = [values_of(transform(plain_images(number), epoch=0, index=index)) for index in range(12)]
    for order in orders:
        counts = np.bincount(order, minlength=number)
        assert counts.max() - counts.min() <= 1 and len(set(order)) == min(number, 8)
        assert len(set(order[:2])) == 2  # global views of different images
    assert len(set(map(tuple, orders))) > 1
    assert orders[3] == values_of(transform(plain_images(number), epoch=0, index=3))


def test_one_of_several_is_like_an_image_alone():
    transform = MultiCropTransform(seed=5, **SMALL)
    assert same(transform((picture(),), epoch=2, index=7), transform(picture(), epoch=2, index=7))
    with pytest.raises(ValueError, match="The list of images is empty"):
        transform(())


def test_views_of_several_images_are_cut_as_from_each():
    """Whole images: the view shows all of the image that it takes."""
    transform = MultiCropTransform(num_local_views=0, global_crop_size=40, global_crop_scale=[1.0, 1.0], seed=1)
    images = [photo(120, 120), photo(80, 80).transpose(Image.Transpose.ROTATE_90)]
    views = transform(tuple(images), epoch=0, index=0)["global_views"]
    alone = [transform(image, epoch=0, index=0)["global_views"][0] for image in images]
    for view in views:
        assert min((view.float() - one.float()).abs().max() for one in alone) <= 1
