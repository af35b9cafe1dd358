"""Which of the packaged recipes for own images fits, from facts about the images and the machine alone."""

from dataclasses import dataclass

_SMALL = 64  # pixels of the shorter side, up to which the recipes with crops of 32 pixels are meant
_LARGE_GPU = 32 * 2**30  # bytes; in bf16 `lejepa plan` counts 25 GiB for folder/vit_s16, 50 GiB in fp32


@dataclass(frozen=True)
class ImageFacts:
    """What a sample of the images shows."""

    number: int | None  # of all images; None for a stream that does not say
    median_side: int  # of the shorter sides, in pixels
    smallest_side: int  # in pixels
    channels: int  # of the image that has most, as stored
    classes: int | None  # None without labels
    held_out: str | None  # split, or share of the training images, that an evaluation can use


@dataclass(frozen=True)
class MachineFacts:
    """What a training process may use."""

    device: str  # type: cuda, mps, cpu, ...
    memory: int | None  # bytes of that device; None where it is not known
    cores: int  # of the CPU


@dataclass(frozen=True)
class RecipeChoice:
    """The recipe that fits."""

    name: str  # as `lejepa recipes` lists it
    reason: str  # what about the images and the machine led to it


def choose_recipe(images: ImageFacts, machine: MachineFacts) -> RecipeChoice:
    """Choose the packaged recipe that fits these images on this machine."""
    on_gpu = machine.device == "cuda"
    least = _LARGE_GPU >> 30
    if images.median_side <= _SMALL:
        size = f"most images have at most {_SMALL} pixels a side"
        if on_gpu:
            return RecipeChoice("folder/small_images", f"{size}, and there is a CUDA GPU")
        return RecipeChoice("folder/small_cpu", f"{size}, and there is no CUDA GPU")
    size = f"most images have more than {_SMALL} pixels a side"
    if on_gpu and (machine.memory is None or machine.memory >= _LARGE_GPU):
        return RecipeChoice("folder/vit_s16", f"{size}, and there is a CUDA GPU of at least {least} GiB")
    gpu = f"the GPU has less than {least} GiB" if on_gpu else "there is no CUDA GPU"
    return RecipeChoice("folder/laptop", f"{size}, and {gpu}")
