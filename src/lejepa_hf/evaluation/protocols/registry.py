"""The protocols by name, those that need embeddings alone and those that need the encoder and its images."""

from collections.abc import Sequence

from ...data.sources import ImageSource
from ..labelled_sources import check_labels, check_masks
from .few_shot import few_shot
from .fine_tuning import fine_tune
from .knn import knn
from .linear_probe import linear_probe
from .logistic_regression import logistic_regression
from .retrieval import retrieval
from .segmentation import segmentation

# (train, test) of LabelledEmbeddings -> results
ON_EMBEDDINGS = {
    "linear": linear_probe,
    "knn": knn,
    "few-shot": few_shot,
    "logistic": logistic_regression,
    "retrieval": retrieval,
}
# (encoder, processor, train, test), the latter ImageSource -> results
ON_IMAGES = {"fine-tune": fine_tune, "segmentation": segmentation}
BY_ALL_PROCESSES = ("fine-tune",)  # the others run in the first one
_ON_MASKS = ("segmentation",)


def check_protocols(protocols: Sequence[str], at_the_end_of_training: bool = False) -> None:
    """
    Args:
        protocols (`Sequence[str]`): Names.
        at_the_end_of_training (`bool`, *optional*, defaults to `False`): Of the protocols there all rows, those of the
            baselines too, are made from embeddings.

    Raises:
        ValueError: If a protocol is unknown, or does not work there.
    """
    known = [*ON_EMBEDDINGS] if at_the_end_of_training else [*ON_EMBEDDINGS, *ON_IMAGES]
    later = [protocol for protocol in protocols if protocol not in known and protocol in ON_IMAGES]
    if later:
        raise ValueError(
            f"`eval_protocols` {', '.join(later)}: only `lejepa evaluate`, after the run, has it; at the end of a run "
            f"there are {', '.join(known)}."
        )
    unknown = [protocol for protocol in protocols if protocol not in known]
    if unknown:
        raise ValueError(f"`protocols` {', '.join(unknown)} unknown; known are {', '.join(known)}.")


def check_source(protocols: Sequence[str], source: ImageSource) -> None:
    """
    Raises:
        ValueError: If a source has not the labels or masks that a protocol needs, or is a stream where it is read more
            than once.
    """
    for protocol in protocols:
        if protocol in ON_IMAGES and source.is_stream:
            raise ValueError(
                f"`protocols` {protocol}: `dataset` {source.name!r} is a stream, and this protocol reads images "
                "several times in any order: leave `streaming` out."
            )
        (check_masks if protocol in _ON_MASKS else check_labels)(source)
