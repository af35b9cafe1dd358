import itertools
from collections import Counter

import datasets
import numpy as np
import pytest
from kept_positions import written_and_read
from scipy.stats import binomtest
from torch.utils.data import DataLoader

from lejepa_hf.data.class_balance import ClassBalanced, balance_classes
from lejepa_hf.data.dataset_kinds import Mixture
from lejepa_hf.data.sources import load_source
from lejepa_hf.data.streaming import EndlessRows

LABELS = [0] * 50 + [7] * 12 + [3] * 5  # of 67 rows, in class order as in folders
ROWS = [{"value": number, "label": label} for number, label in enumerate(LABELS)]
BATCH = 4


def take(num_batches: int, num_workers: int = 0, rows=ROWS, **settings) -> list[list[dict]]:
    endless = EndlessRows(balance_classes(rows, "label"), **{"batch_size": BATCH, "seed": 0, **settings})
    loader = DataLoader(endless, endless.batch_size, num_workers=num_workers, collate_fn=list)
    return list(itertools.islice(loader, num_batches))


def keys(batches: list[list[dict]]) -> list[tuple]:
    return [(row["epoch"], row["index"]) for row in itertools.chain(*batches)]


def test_rows_of_each_class():
    for rows in (ROWS, datasets.Dataset.from_list(ROWS)):
        balanced = balance_classes(rows, "label")
        assert [part.tolist() for part in balanced.classes] == [
            [number for number, label in enumerate(LABELS) if label == wanted] for wanted in (0, 3, 7)
        ]
        assert len(balanced) == 67
    named = datasets.Dataset.from_list([{"label": name} for name in ("dog", "cat", "dog")])
    assert [part.tolist() for part in balance_classes(named, "label").classes] == [[1], [0, 2]]


def test_no_image_is_read_for_labels_of_datasets():
    broken = {"image": [{"bytes": b"no image", "path": None}] * 4, "label": [0, 1, 0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    assert len(balance_classes(datasets.Dataset.from_dict(broken, features=features), "label")) == 4


def test_classes_come_with_equal_probability():
    drawn = Counter(LABELS[index] for _, index in keys(take(750)))
    assert sum(drawn.values()) == 3000
    assert all(binomtest(number, 3000, 1 / 3).pvalue > 1e-3 for number in drawn.values())


def test_a_class_passes_over_its_rows_on_its_own():
    epochs: dict[tuple[int, int], list[int]] = {}
    for row in itertools.chain(*take(100)):
        assert row["value"] == row["index"] and row["where"] == f"row {row['index']}"
        epochs.setdefault((row["label"], row["epoch"]), []).append(row["index"])
    rows_of = {label: [number for number, one in enumerate(LABELS) if one == label] for label in (0, 3, 7)}
    for (label, epoch), indices in epochs.items():
        is_finished = (label, epoch + 1) in epochs
        assert len(set(indices)) == len(indices)
        assert set(indices) <= set(rows_of[label]) and (not is_finished or len(indices) == len(rows_of[label]))
    assert epochs[3, 0] != epochs[3, 1] != epochs[3, 2]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_union_of_ranks_and_workers_is_the_single_process_sequence(world_size, num_workers):
    ranks = [take(12, num_workers, rank=rank, world_size=world_size) for rank in range(world_size)]
    dealt = [row for step in zip(*ranks, strict=True) for row in keys(list(step))]
    assert dealt == keys(take(12, batch_size=BATCH * world_size))


@pytest.mark.parametrize("world_size", [1, 2])
def test_resume_continues_at_any_batch(world_size):
    settings = {"rank": world_size - 1, "world_size": world_size}
    batches = take(20, **settings)
    for stop in (1, 5, 16):
        start = [written_and_read([batches[stop - 1][-1]["position"]])] * world_size
        assert keys(take(4, 2, start=start, **settings)) == keys(batches[stop : stop + 4])


def test_order_follows_from_the_seed():
    assert keys(take(20)) == keys(take(20)) != keys(take(20, seed=1))


def test_many_classes():
    rows = [{"label": number // 2} for number in range(2000)]
    found = keys(take(50, rows=rows, batch_size=64))
    counts = Counter(index // 2 for _, index in found)
    assert len(counts) > 900 and max(counts.values()) < 20


def test_what_cannot_be_balanced():
    stream, digits = (load_source("digits", "test", streaming=streaming).dataset for streaming in (True, False))
    with pytest.raises(ValueError, match="`class_balanced` needs .* the images are a stream: leave `streaming` or"):
        balance_classes(stream, "label")
    with pytest.raises(ValueError, match="the images are a mixture: leave `mixture` or `class_balanced` out"):
        balance_classes(Mixture([digits, digits], [1, 1]), "label")
    with pytest.raises(ValueError, match="`class_balanced` needs labels, .* set `label_column`"):
        balance_classes(digits, None)
    with pytest.raises(ValueError, match="all training images are of one class in `label_column` 'label'"):
        balance_classes([{"label": 3}] * 5, "label")


@pytest.mark.parametrize("label", [-1, None, 0.5, [0, 1], np.array([0, 1])])
def test_labels_that_are_not_one_class(label):
    rows = [{"label": 0}, {"label": label}, {"label": 1}]
    with pytest.raises(ValueError, match="1 of 3 training images have not one class in `label_column` 'label' but "):
        balance_classes(rows, "label")


def test_pairs_as_torchvision_has_them():
    pairs = [("image", label) for label in (1, 0, 1)]
    assert isinstance(balance_classes(pairs, "label", "photo"), ClassBalanced)
