import re

import pytest

from lejepa_hf.runs.arguments import ModelArguments
from lejepa_hf.runs.objective_ranges import check_objective


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_slices", 0), ("num_slices", 10**12), ("num_slices", float("nan")), ("num_knots", 1),
        ("num_knots", 10**9), ("t_max", 1e-9), ("t_max", float("inf")), ("t_max", -1.0),
        ("sigreg_weight", float("nan")), ("sigreg_weight", 1.5), ("token_drop_rate", 1.0), ("token_drop_rate", -0.1),
        ("drop_path_rate", 1.0), ("projector_dims", [64, 10**9]), ("projector_dims", [64, 0]),
    ],
)  # fmt: skip
def test_sizes_of_the_model_out_of_range(field, value):
    shown = value[-1] if isinstance(value, list) else value
    with pytest.raises(ValueError, match=rf"^`{field}` must be [^\n]*, got {re.escape(repr(shown))}[^\n]*$"):
        ModelArguments(backbone_config={"model_type": "resnet"}, **{field: value})


def test_knots_that_see_nothing():
    """Their statistic was 0 for any projections, so that nothing held the encoder back from collapse."""
    with pytest.raises(ValueError, match=r"`num_knots` 17 on \[0, `t_max` 1000\] are 62.5 apart"):
        ModelArguments(backbone_config={"model_type": "resnet"}, t_max=1000)


def test_what_is_missing_is_not_checked():
    check_objective({})
    check_objective({"t_max": 1000, "projector_dims": [8]})
    with pytest.raises(ValueError, match="`sigreg_weight` must be in .*, got 2"):
        check_objective({"sigreg_weight": 2})
