import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lejepa_hf.evaluation.protocols.sliding_window import average_windows, classes_at_size, window_corners


def test_windows_of_a_landscape_photograph():
    """As in mmsegmentation for crops of 512 and a stride of 341 pixels."""
    assert window_corners(512, 683, 512, 341) == [(0, 0), (0, 171)]
    assert window_corners(512, 1400, 512, 341) == [(0, 0), (0, 341), (0, 682), (0, 888)]
    assert window_corners(512, 512, 512, 341) == [(0, 0)]


@pytest.mark.parametrize("side, stride", [(8, 5), (6, 4), (1, 1), (7, 7)])
def test_windows_lie_inside_and_cover_every_pixel(side, stride):
    for height in range(side, side + 3 * stride + 2):
        covered = np.zeros((height, side + 3), int)
        for upper, left in window_corners(height, side + 3, side, stride):
            assert 0 <= upper <= height - side and 0 <= left <= 3
            covered[upper : upper + side, left : left + side] += 1
        assert covered.min() > 0


def test_the_mean_where_windows_overlap():
    torch.manual_seed(0)
    corners = window_corners(7, 9, 4, 3)
    windows = torch.randn(len(corners), 2, 4, 4)
    found = average_windows(iter(windows), corners, 7, 9)
    for row in range(7):
        for column in range(9):
            seen = [
                windows[number, :, row - upper, column - left]
                for number, (upper, left) in enumerate(corners)
                if upper <= row < upper + 4 and left <= column < left + 4
            ]
            assert torch.allclose(found[:, row, column], torch.stack(seen).mean(0), atol=1e-6)


@pytest.mark.parametrize("num_classes", [1, 16, 40])
def test_classes_are_those_of_all_logits_resized_at_once(num_classes):
    logits = torch.randn(num_classes, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits[None], size=(23, 9), mode="bilinear")[0].argmax(0)
    assert torch.equal(classes_at_size(logits, 23, 9), expected)
