"""The code on a card, run as it stands where this package is not installed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stranger import NOT_INSTALLED
from transformers import AutoImageProcessor

from lejepa_hf import LeJEPAConfig, LeJEPAForPreTraining, export_encoder
from lejepa_hf.data.decoding import decode_image
from lejepa_hf.evaluation.pixel_values import to_pixel_values
from lejepa_hf.hub.export import build_processor
from lejepa_hf.hub.model_card import usage_of

VIT = {"model_type": "vit", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
VIT |= {"intermediate_size": 64, "image_size": 16, "patch_size": 4}
DINOV2 = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"model_type": "dinov2"}
RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16]}
RESNET |= {"depths": [1, 1]}
HGNET = {
    "model_type": "hgnet_v2", "embedding_size": 8, "stem_channels": [3, 8, 8], "hidden_sizes": [16, 24],
    "depths": [1, 1], "stage_in_channels": [8, 16], "stage_mid_channels": [8, 8], "stage_out_channels": [16, 24],
    "stage_num_blocks": [1, 1], "stage_numb_of_layers": [1, 1], "stage_downsample": [False, True],
    "stage_light_block": [False, False], "stage_kernel_size": [3, 3],
}  # fmt: skip
TIMM = {"model_type": "timm_wrapper", "architecture": "resnet10t", "model_args": {"in_chans": 2}}

# name -> backbone, pooling, crop size, channels, pixel range, what the card makes the embedding from
CASES = {
    "vit": (VIT, "auto", 16, 3, None, "outputs.pooler_output"),
    "vit_smaller_images": (VIT, "auto", 8, 3, None, "interpolate_pos_encoding=True"),
    "vit_mean": (VIT, "mean", 16, 3, None, "states.mean(1)"),
    "vit_five_channels": (VIT, "auto", 16, 5, [0.0, 4000.0], 'input_data_format="channels_last"'),
    "vit_five_ranges": (VIT, "auto", 16, 5, [[0.0, 1000.0 * n] for n in range(1, 6)], ".T  # of each channel"),
    "dinov2_cls": (DINOV2, "cls", 16, 3, None, "outputs.last_hidden_state[:, 0]"),
    "resnet": (RESNET, "auto", 16, 3, None, 'Image.open("photo.jpg")  # your image'),
    "resnet_mean": (RESNET, "mean", 16, 3, None, "states.flatten(2).mean(2)"),
    "resnet_grey": (RESNET, "auto", 16, 1, None, 'Image.open("photo.jpg").convert("L")'),
    "resnet_grey_range": (RESNET, "auto", 16, 1, [-100.0, 4000.0], "values from -100 to 4000"),
    "resnet_range": (RESNET, "auto", 16, 3, [0.0, 4000.0], "Image.fromarray(image)"),
    "hgnet_v2": (HGNET, "auto", 32, 3, None, "outputs.feature_maps[-1]"),
    "timm": (TIMM, "auto", 32, 2, None, "np.zeros((256, 256, 2)"),
}

# First as it stands, then with an image that is not one colour in place of the card's.
STRANGER = (
    NOT_INSTALLED
    + """
import json, os, re
import numpy as np
import torch
from PIL import Image
torch.set_num_threads(1)
found = {}
for folder in sys.argv[1:]:
    os.chdir(folder)
    code = re.search(r"```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1]
    exec(compile(code, folder, "exec"), {})
    yours = np.load("../image.npy")
    names = {"yours": Image.fromarray(yours) if "Image.open" in code else yours}
    code, number = re.subn(r"^image = (np.zeros|Image.open).*", "image = yours", code, count=1, flags=re.MULTILINE)
    assert number == 1
    exec(compile(code, folder, "exec"), names)
    found[folder] = names["embedding"].tolist()
print(json.dumps(found))
"""
)


def build(case: str) -> LeJEPAForPreTraining:
    backbone, pooling, _, channels, _, _ = CASES[case]
    known = {} if backbone is TIMM else {"num_channels": channels}
    torch.manual_seed(0)
    config = LeJEPAConfig(backbone_config={**backbone, **known}, pooling=pooling, projector_dims=[8])
    return LeJEPAForPreTraining(config).eval()


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for case, (_, _, crop_size, channels, pixel_range, _) in CASES.items():
        folder = folders[case] = tmp_path_factory.mktemp(case) / "encoder"
        mean = None if channels == 3 else [0.5] * channels
        export_encoder(build(case), folder, build_processor(crop_size, image_mean=mean, pixel_range=pixel_range))
        shape = (40, 50, channels) if channels > 1 else (40, 50)
        values = np.random.default_rng(0).integers(0, 5000, shape).astype(np.uint16)
        Image.linear_gradient("L").convert("RGB").save(folder / "photo.jpg")
        np.save(folder.parent / "image.npy", values if pixel_range else (values % 256).astype(np.uint8))
    return folders


@pytest.fixture(scope="module")
def embeddings(exports) -> dict[str, torch.Tensor]:
    command = [sys.executable, "-c", STRANGER, *map(str, exports.values())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    return {case: torch.tensor(found[str(folder)]) for case, folder in exports.items()}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_code_of_the_card_gives_the_trained_embedding(exports, embeddings, case):
    _, _, crop_size, channels, pixel_range, line = CASES[case]
    model = build(case).encoder

    image = decode_image(np.load(exports[case].parent / "image.npy"), channels, pixel_range)
    with torch.no_grad():
        pixels = to_pixel_values([image], AutoImageProcessor.from_pretrained(exports[case]), channels)
        expected = model(pixels).pooler_output
    assert pixels.shape == (1, channels, crop_size, crop_size)
    torch.testing.assert_close(embeddings[case], expected, atol=1e-5, rtol=1e-5)
    (code,) = re.findall(r"```python\n(.*?)```", (exports[case] / "README.md").read_text(), re.DOTALL)
    assert line in code and len(code.strip().splitlines()) <= 17


def test_usage_of_an_encoder_without_processor(exports):
    folder = exports["vit"]
    (folder / "preprocessor_config.json").rename(folder / "elsewhere.json")
    usage = usage_of(folder)
    (folder / "elsewhere.json").rename(folder / "preprocessor_config.json")
    assert (usage["crop_size"], usage["pixel_range"], usage["interpolate"]) == (None, None, False)
