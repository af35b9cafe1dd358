import pytest

from lejepa_hf.data.view_settings import ViewSettings

# The field, what it is set to, and what the message must show besides the field's name.
WRONG = [
    ("num_global_views", {"num_global_views": 0}, "0"),
    ("num_local_views", {"num_local_views": -1}, "-1"),
    ("num_local_views", {"num_global_views": 1, "num_local_views": 0}, "at least 2"),
    ("global_crop_size", {"global_crop_size": 0, "num_local_views": 0}, "0"),
    ("local_crop_size", {"local_crop_size": -3}, "-3"),
    ("local_crop_size", {"local_crop_size": 97, "global_crop_size": 96}, "97"),
    ("global_crop_scale", {"global_crop_scale": [0.5, 1.5]}, "1.5"),
    ("global_crop_scale", {"global_crop_scale": [0.0, 1.0]}, "0.0"),
    ("local_crop_scale", {"local_crop_scale": [0.3, 0.1]}, "[0.3, 0.1]"),
    ("local_crop_scale", {"local_crop_scale": [0.3]}, "[0.3]"),
    ("crop_aspect_ratio", {"crop_aspect_ratio": [-1.0, 1.0]}, "-1.0"),
    ("blur_sigma", {"blur_sigma": [0.0, 2.0]}, "0.0"),
    ("horizontal_flip_probability", {"horizontal_flip_probability": 1.01}, "1.01"),
    ("color_jitter_probability", {"color_jitter_probability": -0.1}, "-0.1"),
    ("grayscale_probability", {"grayscale_probability": 2}, "2"),
    ("blur_probability", {"blur_probability": 7.5}, "7.5"),
    ("solarize_probability", {"solarize_probability": float("nan")}, "nan"),
    ("brightness_jitter", {"brightness_jitter": 1.2}, "1.2"),
    ("contrast_jitter", {"contrast_jitter": -0.2}, "-0.2"),
    ("saturation_jitter", {"saturation_jitter": 1.3}, "1.3"),
    ("hue_jitter", {"hue_jitter": 0.6}, "0.6"),
    ("blur_kernel_size", {"blur_kernel_size": 12}, "12"),
    ("blur_kernel_size", {"local_crop_size": 6}, "13"),
    ("blur_kernel_size", {"num_local_views": 0, "global_crop_size": 6}, "13"),
    ("image_mean", {"image_mean": [0.5]}, "[0.5]"),
    ("image_std", {"image_std": [0.5, 0.5]}, "[0.5, 0.5]"),
    ("image_std", {"image_std": [0.5, 0.5, 0.0]}, "0.0"),
    ("image_mean", {"image_mean": [], "image_std": []}, "[]"),
    ("pixel_range", {"pixel_range": [1.0, 1.0]}, "[1.0, 1.0]"),
    ("pixel_range", {"pixel_range": [5.0, -1.0]}, "[5.0, -1.0]"),
    ("pixel_range", {"pixel_range": [0.0]}, "[0.0]"),
    ("pixel_range", {"pixel_range": []}, "got []"),
    ("pixel_range", {"pixel_range": [[0.0, 1.0], [2.0, 1.0], [0.0, 1.0]]}, "[2.0, 1.0]"),
    ("pixel_range", {"pixel_range": [[0.0, 1.0], 5.0, [0.0, 1.0]]}, "5.0"),
    (
        "pixel_range",
        {"pixel_range": [[0.0, 1.0], [0.0, 2.0]]},
        "2 pairs, one for each channel, but `image_mean` has 3",
    ),
    ("pixel_range", {"pixel_range": [0.0, float("nan")]}, "nan"),
    ("pixel_range", {"pixel_range": [0.0, float("inf")]}, "inf"),
    ("max_image_pixels", {"max_image_pixels": 0}, "0"),
    ("pixel_range", {"pixel_range": [-1e308, 1e308]}, "1e+308"),
    ("pixel_range", {"pixel_range": [1e9, 1e9 + 1]}, "1000000001.0"),
    ("pixel_range", {"pixel_range": [0.0, 1e-300]}, "1e-300"),
    ("num_global_views", {"num_global_views": float("nan")}, "nan"),
    ("num_local_views", {"num_local_views": 10**9}, "at most 65536"),
    ("num_local_views", {"num_local_views": 0.5}, "a whole number"),
    ("global_crop_size", {"global_crop_size": 10**9}, "at most 16384"),
    ("global_crop_scale", {"global_crop_scale": [1e-300, 1.0]}, "1e-300"),
    ("crop_aspect_ratio", {"crop_aspect_ratio": [1.0, float("inf")]}, "inf"),
    ("crop_aspect_ratio", {"crop_aspect_ratio": [float("nan"), 1.0]}, "nan"),
    ("blur_sigma", {"blur_sigma": [0.1, float("inf")]}, "inf"),
    ("blur_kernel_size", {"blur_kernel_size": -13}, "-13"),
    ("blur_kernel_size", {"blur_kernel_size": float("nan")}, "nan"),
    ("image_mean", {"image_mean": [123.675, 116.28, 103.53]}, "divide values for [0, 255] by 255"),
    ("image_mean", {"image_mean": [0.5, 0.5, float("nan")]}, "nan"),
    ("image_std", {"image_std": [0.5, 0.5, float("nan")]}, "nan"),
    ("image_std", {"image_std": [58.395, 57.12, 57.375]}, "divide values for [0, 255] by 255"),
    ("image_std", {"image_std": [1e-300, 0.5, 0.5]}, "1e-300"),
]


@pytest.mark.parametrize(("field", "values", "shown"), WRONG, ids=[str(values) for _, values, _ in WRONG])
def test_error_names_field_and_value(field, values, shown):
    with pytest.raises(ValueError) as error:
        ViewSettings(**values)
    assert f"`{field}`" in str(error.value)
    assert shown in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"num_global_views": 1, "num_local_views": 1},
        {"num_local_views": 0, "global_crop_size": 32},  # no local views, so the default local size is no limit
        {"local_crop_size": 7},  # a kernel of 13 needs 6 reflected pixels
        {"local_crop_size": 4, "blur_probability": 0.0},
        {"global_crop_scale": [1.0, 1.0], "crop_aspect_ratio": [1.0, 1.0], "blur_sigma": [1.0, 1.0]},
        {"image_mean": [0.3], "image_std": [0.35]},
        {"image_mean": [0.3] * 13, "image_std": [0.1] * 13, "pixel_range": [-100.0, 0.5]},
        {"pixel_range": [[0.0, 1.0], [-5.0, 4000.0], [0.0, 255.0]]},
        {"max_image_pixels": 10**10},
        {"hue_jitter": 0.5, "brightness_jitter": 1, "solarize_probability": 1, "blur_probability": 0},
    ],
    ids=str,
)
def test_edges_are_allowed(values):
    settings = ViewSettings(**values)
    assert {name: getattr(settings, name) for name in values} == values


def test_instances_share_no_lists():
    ViewSettings().image_mean[0] = 9.0
    assert ViewSettings().image_mean[0] == 0.485


def test_number_of_channels():
    assert ViewSettings().num_channels == 3
    assert ViewSettings(image_mean=[0.5] * 12, image_std=[0.2] * 12).num_channels == 12
