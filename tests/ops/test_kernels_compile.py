"""Compiles all Triton kernels for GPUs that need not be there: the interpreter accepts more than the compiler."""

import pytest

pytest.importorskip("triton", minversion="3.3", reason="Triton is made for Linux")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lejepa_hf.ops import epps_pulley_triton, photometric_triton

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(epps_pulley_triton.INTERPRETED, reason="kernels are interpreted in this process"),
]
TILE = {"TILE": photometric_triton._TILE}
IMAGES = {"BLOCK_SLICES": 8, "BLOCK_IMAGES": 128}
# Constants that a launch passes; numbers that are 1 are constants too.
KERNELS = {
    "sums": (epps_pulley_triton._sums_kernel, IMAGES),
    "gradient": (epps_pulley_triton._gradient_kernel, IMAGES),
    "statistic": (epps_pulley_triton._statistic_kernel, {"BLOCK_COLUMNS": 128, "num_splits": 1}),
    "means": (photometric_triton._means_kernel, TILE),
    "means, channels first": (photometric_triton._means_kernel, {**TILE, "column_stride": 1}),
    "colours": (photometric_triton._colours_kernel, TILE),
    "colours, channels last": (photometric_triton._colours_kernel, {**TILE, "channel_stride": 1}),
    "colours, one tile": (photometric_triton._colours_kernel, {**TILE, "num_tiles": 1}),
    "blur of rows": (photometric_triton._blur_rows_kernel, {**TILE, "TAPS": 13}),
    "blur of columns": (photometric_triton._blur_columns_kernel, {**TILE, "TAPS": 23}),
}
NUMBERS = {"turn", "rest_of_turn", "scale"}  # fp32, besides means and standard deviations; the others count


def kind_of(name: str) -> str:
    if name.endswith("_ptr"):
        return "*u8" if name == "crops_ptr" else "*fp32"
    return "fp32" if name in NUMBERS or name.endswith(("_mean", "_std")) else "i32"


@pytest.mark.parametrize("is_divisible", [True, False], ids=["16 divides the numbers", "it does not"])
@pytest.mark.parametrize("capability", [80, 90], ids=["A100", "H100"])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name, capability, is_divisible):
    kernel, constants = KERNELS[name]
    signature = {one: "constexpr" if one in constants else kind_of(one) for one in kernel.arg_names}
    places = {(kernel.arg_names.index(one),): value for one, value in constants.items()}
    counts = [one for one, kind in signature.items() if kind != "constexpr" and (kind == "i32" or kind[0] == "*")]
    divisible = {(kernel.arg_names.index(one),): [["tt.divisibility", 16]] for one in counts if is_divisible}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=divisible)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})
    assert len(compiled.asm["cubin"]) > 1000
