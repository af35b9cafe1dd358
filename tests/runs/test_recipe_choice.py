import pytest

from lejepa_hf.runs.recipe_choice import ImageFacts, MachineFacts, choose_recipe
from lejepa_hf.system.installed_package import packaged_recipes

GIB = 1 << 30


@pytest.mark.parametrize(
    ("side", "device", "memory", "expected"),
    [
        (28, "cpu", 8 * GIB, "small_cpu"),
        (64, "cpu", None, "small_cpu"),
        (32, "mps", None, "small_cpu"),
        (32, "cuda", 8 * GIB, "small_images"),
        (64, "cuda", 80 * GIB, "small_images"),
        (65, "cpu", 512 * GIB, "laptop"),
        (300, "cpu", 8 * GIB, "laptop"),
        (300, "mps", None, "laptop"),
        (4000, "xpu", 16 * GIB, "laptop"),
        (300, "cuda", 8 * GIB, "laptop"),
        (300, "cuda", 31 * GIB, "laptop"),
        (300, "cuda", 39 * GIB, "vit_s16"),
        (300, "cuda", 80 * GIB, "vit_s16"),
        (65, "cuda", None, "vit_s16"),
    ],
)
def test_table(side, device, memory, expected):
    images = ImageFacts(2000, side, side // 2, channels=3, classes=None, held_out=None)
    choice = choose_recipe(images, MachineFacts(device, memory, cores=4))
    assert choice.name == f"folder/{expected}" and choice.name in packaged_recipes()
    assert ("at most 64" in choice.reason) == (side <= 64)
    assert ("no CUDA GPU" in choice.reason) == (device != "cuda")
