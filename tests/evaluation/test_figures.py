import numpy as np

from lejepa_hf.evaluation.figures import Figures


def test_figures_and_samples_are_joined():
    one = Figures({"a": 0.5}, {"a": np.array([0.0, 1.0])})
    both = one | {"b": 0.1}
    assert both == {"a": 0.5, "b": 0.1} and list(both.samples) == ["a"] and one == {"a": 0.5}
    one |= Figures({"c": 1.0}, {"c": np.array([1.0])})
    assert one == {"a": 0.5, "c": 1.0} and list(one.samples) == ["a", "c"]
