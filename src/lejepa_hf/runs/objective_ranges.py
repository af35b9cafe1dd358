"""Which numbers a recipe may give for the projector and the objective."""

from collections.abc import Mapping
from typing import Any

from ..system.number_range import NumberRange, whole

_WIDTH = whole(1, 2**20)
_SIZES = {
    "token_drop_rate": NumberRange(0, 1, without=(1,)),
    "drop_path_rate": NumberRange(0, 1, without=(1,)),
    "sigreg_weight": NumberRange(0, 1),
    "num_slices": whole(1, 2**20),
    "num_knots": whole(2, 2**12),
    "t_max": NumberRange(0.1, 1000, way_out="SIGReg is almost 0 for any projections where `t_max` is almost 0"),
}
_LARGEST_KNOT_DISTANCE = 3.0  # knots are weighed by exp(-t^2 / 2)


def check_objective(values: Mapping[str, Any]) -> None:
    """
    Refuse numbers too large for any machine, and knots between which the statistic would see nothing. Values that are
    missing are not checked.
    """
    for name, accepted in _SIZES.items():
        if name in values:
            accepted.check(name, values[name])
    for width in values.get("projector_dims", ()):
        _WIDTH.check("projector_dims", width)
    if "t_max" not in values or "num_knots" not in values:
        return
    distance = values["t_max"] / (values["num_knots"] - 1)
    if distance > _LARGEST_KNOT_DISTANCE:
        raise ValueError(
            f"`num_knots` {values['num_knots']} on [0, `t_max` {values['t_max']}] are {distance:g} apart, where all "
            f"but the first weigh nothing: at most {_LARGEST_KNOT_DISTANCE}, so raise `num_knots` or lower `t_max`."
        )
