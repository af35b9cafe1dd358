"""MultiCropCollator: dataset rows -> a batch of views."""

import torch

from .decoding import DECODING_ERRORS
from .errors import DataError
from .multi_crop import MultiCropTransform


def _place(example: dict) -> str:
    return example.get("where", f"row {example.get('index', 0)}")


class MultiCropCollator:
    """
    Cuts the views of every row and stacks them. Runs in the loader's workers: rows arrive undecoded.

    Args:
        transform ([`MultiCropTransform`], *optional*): Cuts the views; the published ImageNet settings if missing.
        image_column (`str`, *optional*, defaults to `"image"`): Where a row holds its image.
        label_column (`str`, *optional*): Where a row holds its class number, for the monitors.
    """

    def __init__(
        self,
        transform: MultiCropTransform | None = None,
        image_column: str = "image",
        label_column: str | None = None,
    ):
        self.transform = transform or MultiCropTransform()
        self.image_column, self.label_column = image_column, label_column

    def __call__(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        """
        Args:
            examples (`list[dict]`): Rows with an image, and optionally `epoch` and `index`, which fix its views, and
                `where`, which names it; or what the transform returned already.

        Returns:
            `dict[str, torch.Tensor]`: `global_views` uint8 `(B, V_g, C, H, W)`, `local_views` uint8
            `(B, V_l, C, h, w)` and their `*_photometric` random numbers. With `label_column` also `probe_labels`
            `(B,)`, -1 where there is none, which the Trainer takes out before it calls the model. With rows of
            [`~data.streaming.EndlessRows`] also their `position`. A row whose image cannot be decoded gets views and
            label of the next good one in the batch, and `broken`, a list of `str`, says which and why.

        Raises:
            KeyError: If a row has no column of that name.
            DataError: If no image of the batch can be decoded.
        """
        views = [self._try(example) for example in examples]
        broken = {place: error for place, error in enumerate(views) if isinstance(error, str)}
        good = [place for place in range(len(examples)) if place not in broken]
        if not good:
            raise DataError(f"None of the {len(examples)} images of a batch can be decoded. {views[0]}")
        shown = list(examples)  # whose image is in each place
        for place in broken:
            following = next((other for other in good if other > place), good[0])
            # With its own epoch and index: other views than the good row has, and the same ones after a resume.
            views[place] = self._cut(examples[following], examples[place])
            shown[place] = examples[following]
        # A row that was transformed earlier still has its other columns, and its epoch and index.
        names = [name for name in views[0] if name.endswith(("_views", "_photometric"))]
        batch = {name: torch.stack([view[name] for view in views]) for name in names}
        if self.label_column is not None:
            # Not under `labels`, a key with which the Trainer changes how it scales the loss.
            batch["probe_labels"] = torch.tensor([self._label(example) for example in shown])
        if "position" in examples[-1]:
            batch["position"] = examples[-1]["position"]
        if broken:
            batch["broken"] = list(broken.values())
        return batch

    def _label(self, example: dict) -> int:
        if self.label_column not in example:
            raise KeyError(f"`label_column` {self.label_column!r} is not in the row, which has {sorted(example)}.")
        label = example[self.label_column]
        return label if isinstance(label, int) else -1

    def _try(self, example: dict) -> dict[str, torch.Tensor] | str:
        """Views of a row, or why there are none."""
        try:
            return self._cut(example, example)
        except DECODING_ERRORS as error:
            return f"{_place(example)}: {type(error).__name__}: {error}"

    def _cut(self, example: dict, identity: dict) -> dict[str, torch.Tensor]:
        """Views of an image, drawn for the row `identity`."""
        if "global_views" in example:
            return example
        if self.image_column not in example:
            raise KeyError(f"`image_column` {self.image_column!r} is not in the row, which has {sorted(example)}.")
        return self.transform(
            example[self.image_column], epoch=identity.get("epoch", 0), index=identity.get("index", 0)
        )
