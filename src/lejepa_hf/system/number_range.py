"""NumberRange: which numbers a setting accepts, and the error for all others."""

from dataclasses import dataclass
from math import inf
from numbers import Real
from typing import cast


@dataclass(frozen=True)
class NumberRange:
    """
    Numbers from `least` to `most`, never NaN.

    Args:
        least, most (`float`): Ends of the range, which are part of it unless they are in `without`.
        is_whole (`bool`, *optional*, defaults to `False`): Whether only whole numbers are accepted.
        without (`tuple`, *optional*, defaults to `(inf,)`): Ends that are not part of the range.
        others (`tuple`, *optional*): Further accepted values, such as None.
        way_out (`str`, *optional*): End of the message, what to set instead.
    """

    least: float
    most: float = inf
    is_whole: bool = False
    without: tuple[float, ...] = (inf,)
    others: tuple[object, ...] = ()
    way_out: str = ""

    def check(self, name: str, value: object) -> None:
        """Raise ValueError with the name of a setting if its value is not in the range."""
        if value in self.others:
            return
        requirement = self._unmet(value)
        if requirement is not None:
            way_out = f": {self.way_out}" if self.way_out else ""
            raise ValueError(f"`{name}` must be {requirement}, got {value!r}{way_out}.")

    def _unmet(self, value: object) -> str | None:
        if not isinstance(value, Real) or value != value:
            return "a whole number" if self.is_whole else "a number"
        return self._unmet_by(cast("float", value))

    def _unmet_by(self, value: float) -> str | None:
        if self.is_whole and (abs(value) == inf or value % 1 != 0):
            return "a whole number"
        is_low = value < self.least or (value == self.least and self.least in self.without)
        is_high = value > self.most or (value == self.most and self.most in self.without)
        if not is_low and not is_high:
            return None
        if not self.is_whole and self.most < inf:
            opening = "(" if self.least in self.without else "["
            closing = ")" if self.most in self.without else "]"
            return f"in {opening}{self.least}, {self.most}{closing}"
        if is_low:
            return f"{'above' if self.least in self.without else 'at least'} {self.least}"
        return "finite" if self.most == inf else f"at most {self.most}"


def whole(least: int, most: int = 2**31 - 1, others: tuple[object, ...] = (), way_out: str = "") -> NumberRange:
    """Whole numbers from `least` to `most`, by default the largest 32-bit integer."""
    return NumberRange(least, most, is_whole=True, others=others, way_out=way_out)
