import numpy as np
from images_of_kinds import of_kind

from lejepa_hf.evaluation.embeddings.label_arrays import label_array


def test_arrays_of_each_kind():
    assert label_array([1, None, 0], of_kind("class")).tolist() == [1, -1, 0]
    assert label_array([None, None], of_kind(None)).tolist() == [-1, -1]
    several = label_array([[1], [], [0, 1]], of_kind("multi-label"))
    assert several.tolist() == [[0, 1], [0, 0], [1, 1]] and several.dtype == np.uint8
    assert label_array([], of_kind("multi-label")).shape == (0, 2)
    assert label_array([0.5, 3], of_kind("number")).tolist() == [0.5, 3.0]
