import torch

from lejepa_hf.data import batch as keys
from lejepa_hf.data.batch import Batch, tensors_of_views


def test_every_key_of_a_batch_has_its_constant():
    constants = {value for name, value in vars(keys).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(Batch.__annotations__)


def test_views_without_what_only_the_trainer_reads():
    of_views = {name: torch.zeros(1) for pair in keys.VIEW_KEYS.values() for name in pair}
    batch = {**of_views, keys.PROBE_LABELS: torch.zeros(1), keys.BROKEN: ["row 3"], "image": b"..."}
    assert list(tensors_of_views(batch)) == ["global_views", "global_photometric", "local_views", "local_photometric"]
    assert list(tensors_of_views({"local_views": torch.zeros(1)})) == ["local_views"]
