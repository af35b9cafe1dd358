"""
Checks of the Triton kernels, run by tests/ops/test_epps_pulley_triton.py in a process of their own: whether kernels
are interpreted is decided when Triton is imported.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lejepa_hf.losses.objective import objective
from lejepa_hf.losses.sigreg import SIGReg, draw_directions
from lejepa_hf.ops import epps_pulley_reference, epps_pulley_triton
from lejepa_hf.ops.epps_pulley_reference import quadrature, statistic_from_sums

DEVICE = "cpu" if epps_pulley_triton.INTERPRETED else "cuda"


def sample(*shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def value_and_gradient(operators, projections, directions, num_knots, t_max=3.0, dtype=torch.float32):
    projections = projections.to(DEVICE).clone().requires_grad_()
    rule = quadrature(num_knots, t_max, projections.device, dtype)
    sums = operators.deviation_sums(projections, directions.to(DEVICE, dtype), rule)
    value = statistic_from_sums(sums, projections.shape[1], rule)
    value.square().sum().backward()
    return value.detach(), projections.grad


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


def exact(projections, directions, num_knots, t_max=3.0):
    return value_and_gradient(epps_pulley_reference, projections.double(), directions, num_knots, t_max, torch.float64)


@pytest.mark.parametrize(
    ("shape", "num_slices", "num_knots", "t_max"),
    [
        ((1, 1, 1), 1, 2, 3.0),
        ((2, 3, 70), 17, 3, 1.0),
        ((1, 130, 5), 9, 4, 5.0),
        ((3, 40, 16), 33, 17, 3.0),
        ((2, 300, 3), 70, 33, 3.0),
        ((1, 20, 8), 12, 65, 3.0),
    ],
)
def test_equals_the_reference(shape, num_slices, num_knots, t_max):
    projections, directions = sample(*shape), draw_directions(shape[-1], num_slices, 0, 0)
    expected = exact(projections, directions, num_knots, t_max)
    found = value_and_gradient(epps_pulley_triton, projections, directions, num_knots, t_max)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs(dtype):
    projections, directions = sample(2, 30, 8).to(dtype), draw_directions(8, 12, 0, 0)
    expected = exact(projections, directions, 17)
    value, gradient = value_and_gradient(epps_pulley_triton, projections, directions, 17)
    assert value.dtype is torch.float32 and gradient.dtype is dtype
    assert relative_error(value, expected[0]) < 1e-5 and relative_error(gradient, expected[1]) < 1e-2


@pytest.mark.parametrize("num_images", [2, 64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("num_knots", [17, 33])
def test_as_accurate_as_the_plain_formula(num_images, scale, constant, num_knots):
    # Enough samples to average out the rounding of the projection, which differs between products.
    projections = sample(max(2, 16 // num_images), num_images, 16, scale=scale)
    if constant:
        projections = projections[:, :1].expand(-1, num_images, -1).contiguous()
    directions = draw_directions(16, 48, 1, 0)
    expected = exact(projections, directions, num_knots)
    plain = value_and_gradient(epps_pulley_reference, projections, directions, num_knots)
    found = value_and_gradient(epps_pulley_triton, projections, directions, num_knots)
    for ours, theirs, right in zip(found, plain, expected, strict=True):
        assert relative_error(ours, right) <= 2 * max(relative_error(theirs, right), 1.2e-7)


def test_chunks_and_strides_change_nothing(monkeypatch):
    wide, directions = sample(6, 40, 3), draw_directions(6, 70, 0, 0)
    plain = value_and_gradient(epps_pulley_triton, wide.permute(2, 1, 0).contiguous(), directions, 17)
    monkeypatch.setattr(epps_pulley_triton, "_CHUNK_NUMBERS", 3000)
    strided = value_and_gradient(epps_pulley_triton, wide.permute(2, 1, 0), directions.T.contiguous().T, 17)
    torch.testing.assert_close(strided, plain, rtol=1e-4, atol=1e-5)


def test_keeps_the_projections_alone_when_directions_are_redrawn():
    projections = sample(2, 30, 8).to(DEVICE).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        rule, directions = quadrature(17, 3.0, projections.device), draw_directions(8, 12, 0, 0, projections.device)
        epps_pulley_triton.deviation_sums(projections, directions, rule, lambda: directions)
    assert [tensor.shape for tensor in kept] == [projections.shape]


def test_behind_sigreg():
    projections = sample(2, 30, 8).to(DEVICE)
    fused = SIGReg(num_slices=20, backend="triton")(projections, step=1)
    plain = SIGReg(num_slices=20, backend="reference")(projections, step=1)
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)


def mean_and_gradient(operators, projections, directions, num_knots, dtype=torch.float32):
    projections = projections.to(DEVICE).clone().requires_grad_()
    rule = quadrature(num_knots, 3.0, projections.device, dtype)
    directions = directions.to(DEVICE, dtype)
    if operators is epps_pulley_reference:
        sums = operators.deviation_sums(projections, directions, rule)
        value = statistic_from_sums(sums, projections.shape[1], rule).mean()
    else:
        value = operators.mean_statistic(projections, directions, rule)
    (3 * value).backward()
    return value.detach(), projections.grad


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("shape", "num_slices", "num_knots"), [((8, 2, 16), 48, 17), ((2, 140, 7), 70, 4)])
def test_the_mean_statistic_is_as_accurate_as_the_plain_formula(shape, num_slices, num_knots, scale):
    projections, directions = sample(*shape, scale=scale), draw_directions(shape[-1], num_slices, 0, 0)
    expected = mean_and_gradient(epps_pulley_reference, projections.double(), directions, num_knots, torch.float64)
    plain = mean_and_gradient(epps_pulley_reference, projections, directions, num_knots)
    found = mean_and_gradient(epps_pulley_triton, projections, directions, num_knots)
    for ours, theirs, right in zip(found, plain, expected, strict=True):
        assert relative_error(ours, right) <= 2 * max(relative_error(theirs, right), 1.2e-7)


def test_the_mean_statistic_in_chunks_and_in_half_precision(monkeypatch):
    projections, directions = sample(3, 40, 6), draw_directions(6, 20, 0, 0)
    whole = mean_and_gradient(epps_pulley_triton, projections, directions, 17)
    monkeypatch.setattr(epps_pulley_triton, "_CHUNK_NUMBERS", 2000)
    monkeypatch.setattr(epps_pulley_triton, "_SHARE_OF_MEMORY", 1 << 60)
    in_chunks = mean_and_gradient(epps_pulley_triton, projections, directions, 17)
    torch.testing.assert_close(in_chunks, whole, rtol=1e-4, atol=1e-6)
    half = mean_and_gradient(epps_pulley_triton, projections.bfloat16(), directions, 17)
    rounded = mean_and_gradient(epps_pulley_triton, projections.bfloat16().float(), directions, 17)
    assert half[0].dtype is torch.float32 and half[1].dtype is torch.bfloat16
    assert half[0].item() == rounded[0].item() and relative_error(half[1], rounded[1].double()) < 1e-2


# They change no memory of the device, so nothing is launched.
_NOT_LAUNCHED = {
    *("empty", "empty_like", "new_empty", "detach", "view", "_unsafe_view", "t", "transpose", "permute", "slice"),
    *("select", "unsqueeze", "squeeze", "expand", "alias", "as_strided", "unbind", "split"),
}
_REDUCTIONS = {"sum", "mean", "norm", "linalg_vector_norm", "amax"}
_READ_BY_THE_HOST = {"_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero"}
_OF_DIRECTIONS = {"randn", "normal_", "linalg_vector_norm", "div"}


class Launches(TorchDispatchMode):
    """Names of what is launched: PyTorch's operators here, our kernels through [`Counted`]."""

    def __init__(self):
        super().__init__()
        self.kernels, self.reductions, self.reads = [], [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in _READ_BY_THE_HOST:
            self.reads.append(name)
        elif name in _REDUCTIONS:
            self.reductions.append(name)
        elif name not in _NOT_LAUNCHED:
            self.kernels.append(name)
        return func(*args, **(kwargs or {}))


class Counted:
    """One of our kernels, written down when it is launched; what the interpreter itself computes is not counted."""

    def __init__(self, kernel, name: str, launches: Launches):
        self.kernel, self.name, self.launches = kernel, name, launches

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            with torch.utils._python_dispatch._disable_current_modes():
                self.kernel[grid](*args, **kwargs)
            self.launches.kernels.append(self.name)

        return launch


@pytest.fixture
def launches(monkeypatch):
    found = Launches()
    for name in ("_sums_kernel", "_statistic_kernel", "_gradient_kernel"):
        kernel = getattr(epps_pulley_triton, name)
        monkeypatch.setattr(epps_pulley_triton, name, Counted(kernel, name.strip("_"), found))
    return found


def test_launches_of_sigreg(launches):
    """Forward and backward: three kernels and at most one reduction each, and nothing that the host waits for."""
    sigreg, projections = SIGReg(num_slices=40, backend="triton"), sample(3, 50, 8).to(DEVICE).requires_grad_()
    sigreg(projections, step=0).backward()  # tables are made in the first step
    launches.kernels.clear()
    with launches:
        loss = sigreg(projections, step=1)
    drawn = [name for name in launches.kernels + launches.reductions if name in _OF_DIRECTIONS]
    forward = [name for name in launches.kernels if name not in _OF_DIRECTIONS]
    assert sorted(drawn) == ["div", "linalg_vector_norm", "randn"]
    assert forward == ["mm", "sums_kernel", "statistic_kernel"]
    assert [name for name in launches.reductions if name not in _OF_DIRECTIONS] == ["sum"] and not launches.reads
    launches.kernels.clear(), launches.reductions.clear()
    factor = torch.ones((), device=DEVICE)
    with launches:
        torch.autograd.grad(loss, projections, factor)
    assert launches.kernels == ["mm", "gradient_kernel", "mm"] and not launches.reductions and not launches.reads


def test_no_value_is_read_by_the_host_for_the_whole_objective(launches):
    sigreg, projections = SIGReg(num_slices=40, backend="triton"), sample(3, 50, 8).to(DEVICE).requires_grad_()
    with launches:
        for step in range(3):
            prediction, statistic = objective(projections, 2, sigreg, step)
            (0.95 * prediction + 0.05 * statistic).backward()
    assert not launches.reads


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_kernels_that_the_device_runs():
    sigreg, projections = SIGReg(num_slices=256, backend="triton"), sample(3, 512, 64).cuda().requires_grad_()
    factor, activities = torch.ones((), device=DEVICE), [torch.profiler.ProfilerActivity.CUDA]
    for _ in range(3):
        torch.autograd.grad(sigreg(projections, step=0), projections, factor)
    with torch.profiler.profile(activities=activities) as profiler:
        torch.autograd.grad(sigreg(projections, step=1), projections, factor)
    kernels = [event for event in profiler.events() if event.device_type is torch.autograd.DeviceType.CUDA]
    # Three for the directions; a matrix product or a reduction of the libraries may take two.
    assert len(kernels) <= 3 + 3 + 1 + 3 + 4, [event.name for event in kernels]


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_cuda_graph_holds_forward_and_backward():
    rule, factor = quadrature(17, 3.0, torch.device("cuda")), torch.ones((), device=DEVICE)
    projections, directions = sample(2, 128, 16).cuda().requires_grad_(), draw_directions(16, 64, 0, 0, DEVICE)

    def step():
        value = epps_pulley_triton.mean_statistic(projections, directions, rule)
        return value.detach(), torch.autograd.grad(value, projections, factor)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for number in range(2):
        with torch.no_grad():
            projections.copy_(sample(2, 128, 16, scale=1 + number))
            directions.copy_(draw_directions(16, 64, 0, number, DEVICE))
        graph.replay()
        torch.testing.assert_close(found, step())


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_compiled_with_cuda_graphs_directions_still_change():
    projections = sample(2, 64, 8).cuda()
    sigreg = SIGReg(num_slices=32)
    compiled = torch.compile(SIGReg(num_slices=32), mode="reduce-overhead")
    for step in range(5):
        number = torch.tensor(step)
        assert compiled(projections, number).item() == pytest.approx(sigreg(projections, step).item(), rel=1e-4)
