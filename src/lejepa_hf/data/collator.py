"""MultiCropCollator: dataset rows -> a batch of views."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import torch

from .batch import BROKEN, GLOBAL_VIEWS, POSITION, PROBE_LABELS, Batch, tensors_of_views
from .decoding import DECODING_ERRORS
from .errors import DataError, described
from .multi_crop import MultiCropTransform
from .rows import as_images, as_row, class_number

Example: TypeAlias = Mapping[str, Any]


class MultiCropCollator:
    """
    Cuts the views of each row and stacks them. Runs in the loader's workers, where rows arrive undecoded.

    In a plain `DataLoader` each epoch has new views, which follow from `torch.manual_seed`; rows with `epoch` and
    `index`, as [`~data.streaming.EndlessRows`] gives them to the Trainer, have the views that these numbers fix.

    Args:
        transform ([`MultiCropTransform`], *optional*): Cuts the views; the published ImageNet settings if missing.
        image_column (`str`, *optional*, defaults to `"image"`): Column of the images.
        label_column (`str`, *optional*): Column of the class numbers, which monitors use; `"label"` for tuples
            `(image, label)`.
        view_column (`str`, *optional*): Column with a list of images per row, instead of `image_column`. Each view
            takes one of them: slabs of a scan, tiles of a slide, several photographs of one object. Evaluations take
            the first one.

    Raises:
        TypeError: If the transform is not a [`MultiCropTransform`].
    """

    def __init__(
        self,
        transform: MultiCropTransform | None = None,
        image_column: str = "image",
        label_column: str | None = None,
        view_column: str | None = None,
    ) -> None:
        self.transform = MultiCropTransform() if transform is None else transform
        if not isinstance(self.transform, MultiCropTransform):
            raise TypeError(
                f"`transform` must be a MultiCropTransform, got {type(transform).__name__}: put your own operations "
                "into a subclass of it, or into the dataset."
            )
        self.image_column, self.label_column = view_column or image_column, label_column
        self.view_column = view_column

    def __call__(self, examples: Sequence[object]) -> Batch:
        """
        Make a batch of rows.

        Args:
            examples (`list`): Rows with an image, and optionally `epoch` and `index`, which together fix its views,
                and `where`, which names it; or what the transform returned already. Tuples `(image, label)`, as from
                torchvision's datasets, and images alone are rows too.

        Returns:
            [`~data.batch.Batch`]: Views and their random numbers; with `label_column` also `probe_labels`, which the
            Trainer takes out before it calls the model; with rows of [`~data.streaming.EndlessRows`] their `position`.
            A row whose image cannot be decoded gets views and label of the next good one, and is named in `broken`.

        Raises:
            KeyError: If a row has no column of that name.
            DataError: If no image of the batch can be decoded.
        """
        rows = [as_row(example, self.image_column) for example in examples]
        cut = [self._try(row) for row in rows]
        good = [place for place, views in enumerate(cut) if not isinstance(views, str)]
        broken = [error for error in cut if isinstance(error, str)]
        if not good:
            raise DataError(f"None of the {len(examples)} images of a batch can be decoded. {broken[0]}")
        # The row whose image is in each place: its own, or the next good one.
        source = [next((other for other in good if other >= place), good[0]) for place in range(len(rows))]
        # With its own epoch and index: other views than the good row has, and the same ones after a resume.
        views = [
            tensors_of_views(self._cut(rows[source[place]], rows[place]) if isinstance(own, str) else own)
            for place, own in enumerate(cut)
        ]
        batch: Batch = {name: torch.stack([view[name] for view in views]) for name in views[0]}  # type: ignore[assignment] # its keys are those of a Batch
        if self.label_column is not None:
            batch[PROBE_LABELS] = torch.tensor([_label(rows[place], self.label_column) for place in source])
        if POSITION in rows[-1]:
            batch[POSITION] = rows[-1][POSITION]
        if broken:
            batch[BROKEN] = broken
        return batch

    def _try(self, example: Example) -> Batch | str:
        """Views of a row, or why there are none."""
        try:
            return self._cut(example, example)
        except DECODING_ERRORS as error:
            place = example.get("where", f"row {example.get('index', 0)}")
            return described(error, example.get(self.image_column), place)

    def _cut(self, example: Example, identity: Example) -> Batch:
        """Views of an image, drawn for the row `identity`."""
        if GLOBAL_VIEWS in example:  # a row that was transformed earlier, with its other columns
            return cast("Batch", example)
        if self.image_column not in example:
            setting = "image_column" if self.view_column is None else "view_column"
            raise KeyError(f"`{setting}` {self.image_column!r} is not in the row, which has {sorted(example)}.")
        image = example[self.image_column]
        if self.view_column is not None:
            image = as_images(image, self.view_column)
        is_fixed = "epoch" in identity and "index" in identity  # one of them alone is a column of the user's
        numbers = {name: identity[name] for name in ("epoch", "index")} if is_fixed else {}
        return self.transform(image, **numbers)


def _label(example: Example, column: str) -> int:
    if column not in example:
        raise KeyError(f"`label_column` {column!r} is not in the row, which has {sorted(example)}.")
    return class_number(example[column])
