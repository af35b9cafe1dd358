import math
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from lejepa_hf import MultiCropTransform
from lejepa_hf.data import photometric as ours
from lejepa_hf.data.photometric import apply_photometric, parameters_from_uniforms
from lejepa_hf.data.view_settings import ViewSettings

OFF = {f"{name}_probability": 0.0 for name in ("horizontal_flip", "color_jitter", "grayscale", "blur", "solarize")}
JITTERS = ("brightness", "contrast", "saturation", "hue")


def tv():
    from torchvision.transforms.v2 import functional

    return functional


def images(number=6, size=16, seed=0):
    return torch.rand(number, 3, size, size, generator=torch.Generator().manual_seed(seed))


def uniforms(number, seed=0):
    return torch.rand(number, ours.NUM_UNIFORMS, generator=torch.Generator().manual_seed(seed))


FACTORS = torch.tensor([0.0, 0.4, 0.8, 1.0, 1.3, 2.0])
SHIFTS = torch.tensor([-0.5, -0.2, 0.0, 0.03, 0.25, 0.5])
AGAINST_TORCHVISION = {
    "brightness": (ours.adjust_brightness, lambda image, x: tv().adjust_brightness(image, x), FACTORS),
    "contrast": (ours.adjust_contrast, lambda image, x: tv().adjust_contrast(image, x), FACTORS),
    "saturation": (ours.adjust_saturation, lambda image, x: tv().adjust_saturation(image, x), FACTORS),
    "hue": (ours.adjust_hue, lambda image, x: tv().adjust_hue(image, x), SHIFTS),
    "solarize": (
        ours.solarize,
        lambda image, x: tv().solarize(image, x),
        torch.tensor([0.0, 0.25, 0.5, 128 / 255, 0.9, 1.0]),
    ),
    "blur": (
        lambda batch, sigma: ours.gaussian_blur(batch, sigma, 13),
        lambda image, x: tv().gaussian_blur(image, [13, 13], [x, x]),
        torch.tensor([0.01, 0.1, 0.7, 1.7, 2.0, 4.0]),
    ),
}


@pytest.mark.parametrize("size", [7, 16])
@pytest.mark.parametrize("name", AGAINST_TORCHVISION)
def test_operation_against_torchvision(name, size):
    operation, reference, amounts = AGAINST_TORCHVISION[name]
    batch = images(len(amounts), size)
    before = batch.clone()
    expected = torch.stack([reference(image, x.item()) for image, x in zip(batch, amounts, strict=True)])
    torch.testing.assert_close(operation(batch, amounts), expected, atol=1e-5, rtol=0)
    assert torch.equal(batch, before)


def test_luminance_against_torchvision():
    torch.testing.assert_close(ours.luminance(images()), tv().rgb_to_grayscale(images()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shift", [-0.5, -0.4, -1 / 6, 0.05, 1 / 3, 0.5])
def test_hue_of_every_kind_of_colour(shift):
    """All mixtures of five levels: pure colours, greys, black, white, two channels alike, every order of the three."""
    levels = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    image = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 5, 25)
    turned = ours.adjust_hue(image[None], torch.tensor([shift]))[0]
    torch.testing.assert_close(turned, tv().adjust_hue(image, shift), atol=1e-5, rtol=0)


def test_solarize_inverts_the_threshold_itself():
    image = torch.tensor([127, 128, 129]).div(255).expand(1, 3, 1, 3)
    expected = torch.tensor([127, 127, 126]).div(255).expand(1, 3, 1, 3)
    torch.testing.assert_close(ours.solarize(image, torch.tensor([128 / 255])), expected)


def test_blur_keeps_a_constant_image():
    image = torch.full((3, 3, 8, 9), 0.6)
    torch.testing.assert_close(ours.gaussian_blur(image, torch.tensor([0.1, 1.0, 9.0]), 13), image)


def test_color_jitter_in_every_order():
    batch = images(25)
    parameters = torch.tensor([0, 1.3, 0.7, 1.6, 0.2, 0, 0, 0, 2]).repeat(25, 1)
    parameters[:24, ours.ORDER] = torch.arange(24.0)
    parameters[24, ours.BRIGHTNESS : ours.HUE + 1] = torch.tensor([1.0, 1, 1, 0])
    expected = batch.clone()
    for image, order in zip(expected, permutations(range(4)), strict=False):
        for which in order:
            amount = parameters[0, ours.BRIGHTNESS + which].item()
            image.copy_(getattr(tv(), f"adjust_{JITTERS[which]}")(image, amount))
    assert ours.color_jitter(batch, parameters) is batch
    torch.testing.assert_close(batch, expected, atol=1e-5, rtol=0)


def test_color_jitter_of_one_view_is_in_place():
    image, parameters = images(1), torch.tensor([[0, 1.3, 0.7, 1.6, 0.2, 7, 0, 0, 2]])
    expected = ours.color_jitter(torch.cat([image, image]), parameters.repeat(2, 1))[:1]
    assert ours.color_jitter(image, parameters) is image
    torch.testing.assert_close(image, expected)


def torchvision_pipeline(view, parameters, settings):
    """One view, one operation after the other, with torchvision's functions."""
    image = view.float() / 255
    flip, *factors, order, gray, sigma, threshold = parameters.tolist()
    if flip:
        image = tv().horizontal_flip(image)
    for name in list(permutations(JITTERS))[int(order)]:
        image = getattr(tv(), f"adjust_{name}")(image, factors[JITTERS.index(name)])
    if gray:
        image = tv().rgb_to_grayscale(image, num_output_channels=3)
    if sigma:
        image = tv().gaussian_blur(image, [settings.blur_kernel_size] * 2, [sigma] * 2)
    if threshold <= 1:
        image = tv().solarize(image, threshold)
    return tv().normalize(image, settings.image_mean, settings.image_std)


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")),
    pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no Apple GPU")),
]


def views_of(number, num_views, size=16):
    return images(number * num_views, size).mul(255).to(torch.uint8).unflatten(0, (number, num_views))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("small_view", [0, 1 << 20], ids=["one by one", "in chunks"])
@pytest.mark.parametrize(
    "values",
    [{}, {"color_jitter_probability": 1.0}] + [{**OFF, name: 1.0} for name in OFF],
    ids=["published", "all jittered", *OFF],
)
def test_whole_chain_against_torchvision(monkeypatch, values, small_view, device):
    monkeypatch.setattr(ours, "_SMALL_VIEW", small_view)
    settings = ViewSettings(
        brightness_jitter=0.8, contrast_jitter=0.8, saturation_jitter=0.8, hue_jitter=0.4, **values
    )
    views, draws = views_of(20, 4), uniforms(80)
    expected = torch.stack(
        [
            torchvision_pipeline(view, parameters, settings)
            for view, parameters in zip(views.flatten(0, 1), parameters_from_uniforms(draws, settings), strict=True)
        ]
    )
    result = ours.photometric(views.to(device), draws.unflatten(0, (20, 4)), settings)
    assert result.device.type == device and result.is_contiguous()
    difference = (result.cpu().flatten(0, 1) - expected).abs()
    # A value on the threshold within rounding is inverted by one and not by the other.
    assert (difference > 1e-4).float().mean() < 1e-3


HAPPENS = [0.49, 0.79, 0.19, 0.49, 0.19]  # below the published probabilities
AMOUNTS = [0.75, 0.25, 0.25, 0.75, 10.5 / 24, 0.5]


def test_parameters_of_a_known_row():
    known = parameters_from_uniforms(torch.tensor([HAPPENS + AMOUNTS]), ViewSettings())
    expected = torch.tensor([[1, 1.2, 0.8, 0.9, 0.05, 10, 1, 1.05, 128 / 255]])
    torch.testing.assert_close(known, expected)
    nothing = parameters_from_uniforms(torch.tensor([[0.5, 0.8, 0.2, 0.5, 0.2] + AMOUNTS]), ViewSettings())
    torch.testing.assert_close(nothing, torch.tensor([[0.0, 1, 1, 1, 0, 10, 0, 0, 2]]))


def test_chain_of_a_known_row():
    settings, view = ViewSettings(), images(1)[0].mul(255).to(torch.uint8)
    image = view.float() / 255
    image = tv().adjust_contrast(tv().adjust_brightness(tv().horizontal_flip(image), 1.2), 0.8)
    happens = [*HAPPENS[:2], 0.9, *HAPPENS[3:]]  # no grey, or saturation would not show
    draws = torch.tensor([happens + [*AMOUNTS[:4], 0.5 / 24, AMOUNTS[5]]])
    image = tv().adjust_hue(tv().adjust_saturation(image, 0.9), 0.05)
    image = tv().solarize(tv().gaussian_blur(image, [13, 13], [1.05, 1.05]), 128 / 255)
    expected = tv().normalize(image, settings.image_mean, settings.image_std)
    torch.testing.assert_close(
        ours.photometric(view[None, None], draws[None], settings)[0, 0], expected, atol=1e-4, rtol=0
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_nothing_waits_for_the_gpu():
    views, draws = views_of(8, 4).cuda(), uniforms(32).unflatten(0, (8, 4))
    ours.photometric(views, draws, ViewSettings())  # the trial of the fused kernels reads what they return
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours.photometric(views, draws, ViewSettings())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", OFF)
@pytest.mark.parametrize("probability", [0.2, 0.8])
def test_effective_probability(name, probability):
    number = 4000
    transform = MultiCropTransform(
        **{**OFF, name: probability},
        num_global_views=number,
        num_local_views=0,
        global_crop_size=4,
        blur_kernel_size=3,
        blur_sigma=[1.0, 1.0],
        global_crop_scale=[1.0, 1.0],
        crop_aspect_ratio=[1.0, 1.0],
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    views = transform(Image.fromarray(pixels))
    batch = {key: value[None] for key, value in views.items()}
    changed = apply_photometric(batch, transform)["global_views"][0]
    plain = apply_photometric(batch, ViewSettings(**OFF))["global_views"][0]
    happened = (changed != plain).flatten(1).any(1).float().mean().item()
    assert happened == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / number))


def happens(parameters):
    return torch.stack(
        [
            parameters[:, ours.FLIP] > 0,
            parameters[:, ours.BRIGHTNESS] != 1,
            parameters[:, ours.GRAY] > 0,
            parameters[:, ours.BLUR_SIGMA] > 0,
            parameters[:, ours.SOLARIZE] <= 1,
        ]
    ).double()


def test_operations_happen_independently():
    parameters = parameters_from_uniforms(uniforms(20_000), ViewSettings())
    correlation = torch.corrcoef(happens(parameters)) - torch.eye(5)
    assert correlation.abs().max() < 4 / math.sqrt(20_000)


def test_jitter_order_is_uniform():
    number = 24_000
    parameters = parameters_from_uniforms(uniforms(number), ViewSettings())
    counts = parameters[:, ours.ORDER].long().bincount(minlength=24).double()
    assert len(counts) == 24
    chi_square = ((counts - number / 24) ** 2 / (number / 24)).sum().item()
    assert chi_square < 50  # 23 degrees of freedom: exceeded once in a thousand seeds


def test_ranges_of_parameters():
    settings = ViewSettings(color_jitter_probability=1.0, blur_probability=1.0, solarize_probability=1.0)
    parameters = parameters_from_uniforms(uniforms(5000), settings)
    ranges = {
        ours.BRIGHTNESS: (0.6, 1.4),
        ours.CONTRAST: (0.6, 1.4),
        ours.SATURATION: (0.8, 1.2),
        ours.HUE: (-0.1, 0.1),
        ours.BLUR_SIGMA: (0.1, 2.0),
    }
    for column, (low, high) in ranges.items():
        values, margin = parameters[:, column], 0.005 * (high - low)
        assert low - 1e-6 <= values.min() < low + margin
        assert high - margin < values.max() <= high + 1e-6
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=4 * (high - low) / math.sqrt(12 * 5000))
    assert (parameters[:, ours.SOLARIZE] == 128 / 255).all()


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24])
def test_extreme_uniforms(extreme):
    views = torch.randint(0, 256, (2, 3, 3, 16, 16), dtype=torch.uint8)
    result = ours.photometric(views, torch.full((2, 3, ours.NUM_UNIFORMS), extreme), ViewSettings())
    assert result.isfinite().all()


@pytest.mark.parametrize("size", [16, 120], ids=["in chunks", "one by one"])
def test_a_view_does_not_depend_on_its_batch(size):
    views, draws, settings = views_of(8, 3, size), uniforms(24).unflatten(0, (8, 3)), ViewSettings()
    together = ours.photometric(views, draws, settings)
    alone = torch.cat([ours.photometric(views[[i]], draws[[i]], settings) for i in range(8)])
    reverse = ours.photometric(views.flip(0), draws.flip(0), settings).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, reverse, atol=1e-5, rtol=0)


def test_chunks_change_nothing(monkeypatch):
    views, draws = views_of(23, 3), uniforms(69).unflatten(0, (23, 3))
    results = []
    for views_a_chunk in (1, 2, 5, 69, 100):
        monkeypatch.setattr(ours, "_CPU_CHUNK", views_a_chunk * views[0, 0].numel())
        results.append(ours.photometric(views, draws, ViewSettings()))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)


def test_smallest_crops_and_no_views():
    settings = ViewSettings(blur_probability=1.0, blur_kernel_size=3)
    for shape in ((4, 2, 3, 2, 2), (0, 2, 3, 8, 8)):
        views = torch.randint(0, 256, shape, dtype=torch.uint8)
        result = ours.photometric(views, torch.rand(*shape[:2], ours.NUM_UNIFORMS), settings)
        assert result.shape == shape and result.dtype == torch.float32 and result.isfinite().all()


def test_views_too_small_for_the_blur():
    settings = ViewSettings(blur_probability=1.0, blur_kernel_size=17)
    with pytest.raises(ValueError, match="`blur_kernel_size` must be less than twice .* got 17 for 8 x 8 pixels"):
        ours.photometric(views_of(1, 1, 8), uniforms(1)[None], settings)
    kept = ours.photometric(
        views_of(1, 1, 8), torch.full((1, 1, ours.NUM_UNIFORMS), 1 - 2**-24), ViewSettings(blur_kernel_size=17)
    )
    assert kept.shape == (1, 1, 3, 8, 8)


def test_bad_input():
    views, draws = views_of(2, 3), uniforms(6).unflatten(0, (2, 3))
    with pytest.raises(ValueError, match="`views` must be uint8.*float32"):
        ours.photometric(views.float(), draws, ViewSettings())
    with pytest.raises(ValueError, match=r"`uniforms`.*\(2, 3, 11\).*\(3, 2, 11\)"):
        ours.photometric(views, draws.transpose(0, 1), ViewSettings())


def batch_of(settings, number=3):
    views = {"global": settings.num_global_views, "local": settings.num_local_views}
    batch = {}
    for kind, count in views.items():
        if count:
            batch[f"{kind}_views"] = images(number * count).mul(255).to(torch.uint8).unflatten(0, (number, count))
            batch[f"{kind}_photometric"] = uniforms(number * count).unflatten(0, (number, count))
    return batch


@pytest.mark.parametrize("num_local_views", [0, 2])
def test_apply_photometric(num_local_views):
    settings = ViewSettings(num_local_views=num_local_views)
    batch = batch_of(settings)
    before = {name: value.clone() for name, value in batch.items()}
    result = apply_photometric(batch, settings)
    assert result.keys() == ({"global_views", "local_views"} if num_local_views else {"global_views"})
    for name, views in result.items():
        assert views.dtype == torch.float32 and views.shape == batch[name].shape
    assert all(torch.equal(batch[name], before[name]) for name in before)


def test_apply_photometric_moves_the_views():
    batch = batch_of(ViewSettings(num_local_views=0))
    assert apply_photometric(batch, ViewSettings(), "meta")["global_views"].device.type == "meta"


@pytest.mark.parametrize(
    ("batch", "message"),
    [({"pixel_values": 1}, "`batch` has no 'global_views', but pixel_values: make it"), ({}, "but nothing")],
)
def test_batches_without_views(batch, message):
    with pytest.raises(ValueError, match=message):
        apply_photometric(batch, ViewSettings())
    torn = batch_of(ViewSettings())
    del torn["local_photometric"]
    with pytest.raises(ValueError, match="no 'local_photometric', but global_views, global_photometric, local_views:"):
        apply_photometric(torn, ViewSettings())


def test_identity_settings_only_normalise():
    settings = ViewSettings(**OFF, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    batch = batch_of(settings)
    mean, std = (torch.tensor(x)[:, None, None] for x in (settings.image_mean, settings.image_std))
    for name, views in apply_photometric(batch, settings).items():
        assert torch.equal(views, (batch[name].float() / 255 - mean) / std)


@pytest.mark.parametrize("adjust", [ours.adjust_hue, ours.adjust_saturation])
def test_grey_stays_grey(adjust):
    grey = images()[:, :1].expand(-1, 3, -1, -1)
    result = adjust(grey.clone(), torch.linspace(-0.5, 0.5, 6) + (adjust is ours.adjust_saturation))
    torch.testing.assert_close(result, grey, atol=2e-4, rtol=0)  # the weights of the luminance sum to 0.9999
    assert torch.equal(result[:, 0], result[:, 1]) and torch.equal(result[:, 0], result[:, 2])


def test_channels_last_views_give_the_same():
    views = images(8).mul(255).to(torch.uint8).unflatten(0, (4, 2))
    permuted = views.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    draws = uniforms(8).unflatten(0, (4, 2))
    settings = ViewSettings()
    torch.testing.assert_close(
        ours.photometric(permuted, draws, settings), ours.photometric(views, draws, settings), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 2, 4, 13])
def test_chain_of_other_channels(channels, device):
    """All but saturation, hue and grayscale, which the defaults ask for."""
    settings = ViewSettings(
        color_jitter_probability=1.0, image_mean=[0.4] * channels, image_std=[0.3] * channels, hue_jitter=0.4
    )
    views = torch.rand(10, 2, channels, 16, 16, generator=torch.Generator().manual_seed(1)).mul(255).to(torch.uint8)
    draws = uniforms(20)
    expected = []
    for view, row in zip(views.flatten(0, 1), parameters_from_uniforms(draws, settings), strict=True):
        image, (flip, brightness, contrast, _, _, order, _, sigma, threshold) = view.float() / 255, row.tolist()
        image = image.flip(-1) if flip else image
        for name in list(permutations(JITTERS))[int(order)]:
            if name == "brightness":
                image = (image * brightness).clamp(0, 1)
            elif name == "contrast":
                image = (image * contrast + image.mean() * (1 - contrast)).clamp(0, 1)
        image = tv().gaussian_blur(image, [13, 13], [sigma, sigma]) if sigma else image
        image = torch.where(image >= threshold, 1 - image, image)
        expected.append((image - 0.4) / 0.3)
    result = ours.photometric(views.to(device), draws.unflatten(0, (10, 2)), settings)
    difference = (result.cpu().flatten(0, 1) - torch.stack(expected)).abs()
    assert (difference > 1e-4).float().mean() < 1e-3


@pytest.mark.parametrize("name", ["grayscale", "saturation and hue"])
@pytest.mark.parametrize("channels", [1, 5])
def test_colours_alone_change_nothing_without_colours(name, channels):
    happens = {"grayscale_probability": 1.0} if name == "grayscale" else {"color_jitter_probability": 1.0}
    happens |= {"brightness_jitter": 0.0, "contrast_jitter": 0.0}
    settings = ViewSettings(**{**OFF, **happens}, image_mean=[0.0] * channels, image_std=[1.0] * channels)
    views = torch.randint(0, 256, (3, 2, channels, 16, 16), dtype=torch.uint8)
    result = ours.photometric(views, uniforms(6).unflatten(0, (3, 2)), settings)
    assert torch.equal(result, views.float() / 255)


def test_views_of_other_channels_than_the_settings_are_refused():
    with pytest.raises(ValueError, match="`views` have 3 channels, but `image_mean` and `image_std` are for 1"):
        ours.photometric(views_of(1, 2), uniforms(2)[None], ViewSettings(image_mean=[0.5], image_std=[0.5]))
