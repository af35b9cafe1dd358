"""MultiCropCollator: dataset rows -> a batch of views."""

import torch

from .multi_crop import MultiCropTransform


class MultiCropCollator:
    """
    Cuts the views of every row and stacks them. Runs in the loader's workers: rows arrive undecoded.

    Args:
        transform ([`MultiCropTransform`], *optional*): Cuts the views; the published ImageNet settings if missing.
        image_column (`str`, *optional*, defaults to `"image"`): Where a row holds its image.
    """

    def __init__(self, transform: MultiCropTransform | None = None, image_column: str = "image"):
        self.transform = transform or MultiCropTransform()
        self.image_column = image_column

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            examples (`list[dict]`): Rows with an image, and optionally `epoch` and `index`, which fix its views; or
                what the transform returned already.

        Returns:
            `dict[str, torch.Tensor]`: `global_views` uint8 `(B, V_g, 3, H, W)`, `local_views` uint8
            `(B, V_l, 3, h, w)` and their `*_photometric` random numbers. No labels: pretraining has no use for them.

        Raises:
            KeyError: If a row has no such column.
            OSError: If an image cannot be decoded; the message names the row.
        """
        views = [example if "global_views" in example else self._cut(example) for example in examples]
        # A row that was transformed earlier still has its other columns, and its epoch and index.
        names = [name for name in views[0] if name.endswith(("_views", "_photometric"))]
        return {name: torch.stack([view[name] for view in views]) for name in names}

    def _cut(self, example: dict) -> dict[str, torch.Tensor]:
        if self.image_column not in example:
            raise KeyError(f"`image_column` {self.image_column!r} is not in the row, which has {sorted(example)}.")
        epoch, index = example.get("epoch", 0), example.get("index", 0)
        try:
            return self.transform(example[self.image_column], epoch=epoch, index=index)
        except OSError as error:
            raise OSError(f"The image of row {index} (epoch {epoch}) cannot be decoded: {error}") from error
