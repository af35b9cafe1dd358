"""
Checks of the Triton kernels for colours and blur, run by tests/ops/test_photometric_triton.py in a process of their
own: whether kernels are interpreted is decided when Triton is imported.
"""

import dataclasses

import pytest
import torch

from lejepa_hf.data import photometric as operations
from lejepa_hf.data.view_settings import ViewSettings
from lejepa_hf.ops import dispatch, epps_pulley_triton, photometric_triton

DEVICE = "cpu" if epps_pulley_triton.INTERPRETED else "cuda"
OFF = {f"{name}_probability": 0.0 for name in ("horizontal_flip", "color_jitter", "grayscale", "blur", "solarize")}
STRONG = {"brightness_jitter": 0.8, "contrast_jitter": 0.8, "saturation_jitter": 0.8, "hue_jitter": 0.4}


def crops_of(number, height, width, channels_last=True):
    generator = torch.Generator().manual_seed(height)
    crops = torch.randint(256, (number, height, width, 3), dtype=torch.uint8, generator=generator)
    crops[0] = 255 * (crops[0] > 127)  # saturated colours, where the hue has its corners
    crops[1] = crops[1, :, :, :1]  # grey
    crops = crops.movedim(-1, 1)
    return (crops if channels_last else crops.contiguous()).to(DEVICE)


def uniforms_of(number, seed=0):
    return torch.rand(number, operations.NUM_UNIFORMS, generator=torch.Generator().manual_seed(seed))


def both_ways(crops, uniforms, settings):
    parameters = operations.parameters_from_uniforms(uniforms, settings)
    fused = operations.fused(photometric_triton, crops, parameters, settings)
    return fused, operations.one_by_one(crops, parameters, settings)


def check(crops, uniforms, settings):
    fused, expected = both_ways(crops, uniforms, settings)
    assert fused.shape == expected.shape and fused.dtype == torch.float32 and fused.is_contiguous()
    mean, std = (
        torch.tensor(values, device=DEVICE)[:, None, None] for values in (settings.image_mean, settings.image_std)
    )
    # A value on the threshold of solarisation within rounding is inverted by one and not by the other.
    is_close_to_threshold = ((expected * std + mean) - (1 - settings.solarize_threshold / 255)).abs() < 0.01
    agrees = (fused - expected).abs() <= 1e-4
    if settings.solarize_probability:
        assert agrees.float().mean() > 0.999
        agrees |= is_close_to_threshold
    assert agrees.all()


@pytest.mark.parametrize(
    "values",
    [{}, {**OFF}, {"color_jitter_probability": 1.0, **STRONG}, *({**OFF, **STRONG, name: 1.0} for name in OFF)],
    ids=["published", "nothing", "all jittered", *OFF],
)
def test_equals_the_operations(values):
    check(crops_of(26, 16, 16), uniforms_of(26), ViewSettings(**values))


@pytest.mark.parametrize(("height", "width"), [(7, 7), (9, 40), (40, 33), (33, 70)], ids=str)
@pytest.mark.parametrize("channels_last", [True, False], ids=["channels last", "channels first"])
def test_sizes_and_strides(height, width, channels_last):
    """Views of one tile and of several, in both orders of memory."""
    check(crops_of(6, height, width, channels_last), uniforms_of(6, seed=1), ViewSettings(**STRONG))


def test_every_order_of_the_jitters():
    uniforms = uniforms_of(24)
    uniforms[:, 1], uniforms[:, 9] = 0.0, (torch.arange(24) + 0.5) / 24
    check(crops_of(24, 8, 8), uniforms, ViewSettings(**{**OFF, **STRONG, "color_jitter_probability": 1.0}))


@pytest.mark.parametrize("taps", [1, 5, 23])
def test_widths_of_the_blur(taps):
    settings = ViewSettings(**{**OFF, "blur_probability": 1.0, "blur_kernel_size": taps})
    check(crops_of(4, 16, 20), uniforms_of(4), settings)


def test_no_views():
    assert both_ways(crops_of(2, 8, 8)[:0], uniforms_of(0), ViewSettings())[0].shape == (0, 3, 8, 8)


def test_a_view_does_not_depend_on_its_batch():
    crops, uniforms = crops_of(12, 16, 16), uniforms_of(12)
    together, _ = both_ways(crops, uniforms, ViewSettings())
    for start in range(0, 12, 5):
        part, _ = both_ways(crops[start : start + 5], uniforms[start : start + 5], ViewSettings())
        assert torch.equal(part, together[start : start + 5])


def test_the_kernels_are_what_the_entry_runs(monkeypatch, caplog):
    monkeypatch.setenv("LEJEPA_OPS", "triton")
    dispatch._pick_photometric.cache_clear()
    crops, uniforms, settings = crops_of(6, 16, 16), uniforms_of(6), ViewSettings()
    fused, one_by_one = both_ways(crops, uniforms, settings)
    assert not torch.equal(fused, one_by_one)
    with caplog.at_level("INFO", "lejepa_hf"):
        assert torch.equal(operations.photometric(crops[:, None], uniforms[:, None], settings)[:, 0], fused)
        dispatch._pick_photometric.cache_clear()
        monkeypatch.setenv("LEJEPA_OPS", "eager")
        assert torch.equal(operations.photometric(crops[:, None], uniforms[:, None], settings)[:, 0], one_by_one)
    assert "in fused kernels" in caplog.messages[0] and "one by one: `LEJEPA_OPS` says so" in caplog.messages[1]


def scaled(images):
    return 1.01 * images


def holed(images):
    """One wrong value of each view."""
    images = images.clone()
    images[:, -1, -1, -1] += 0.1
    return images


def not_a_number(images):
    return images * float("nan")


@pytest.mark.parametrize("harm", [scaled, holed, not_a_number])
def test_wrong_kernels_fail_their_trial(monkeypatch, harm):
    true = photometric_triton.photometric
    monkeypatch.setattr(photometric_triton, "photometric", lambda *arguments: harm(true(*arguments)))
    monkeypatch.setenv("LEJEPA_OPS", "triton")
    dispatch._pick_photometric.cache_clear()
    with pytest.raises(ValueError, match="`LEJEPA_OPS` is 'triton', but .* trial .*of the values differ"):
        operations.fused_kernels(torch.device(DEVICE), ViewSettings(blur_kernel_size=5))
    dispatch._pick_photometric.cache_clear()


def test_few_launches(monkeypatch):
    """Four kernels, and fewer where nothing asks for them."""
    launched = []
    kernels = [name for name in vars(photometric_triton) if name.endswith("_kernel")]
    assert len(kernels) == 4
    for name in kernels:
        kernel = getattr(photometric_triton, name)

        class Counted:
            def __init__(self, kernel, name):
                self.kernel, self.name = kernel, name

            def __getitem__(self, grid):
                launched.append(self.name)
                return self.kernel[grid]

        monkeypatch.setattr(photometric_triton, name, Counted(kernel, name))
    crops, uniforms = crops_of(6, 16, 16), uniforms_of(6)
    both_ways(crops, uniforms, ViewSettings())
    assert launched == ["_means_kernel", "_colours_kernel", "_blur_rows_kernel", "_blur_columns_kernel"]
    launched.clear()
    both_ways(crops, uniforms, dataclasses.replace(ViewSettings(), **OFF))
    assert launched == ["_colours_kernel"]
