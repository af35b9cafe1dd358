import pytest
import torch

from lejepa_hf.losses.sigreg import draw_directions
from lejepa_hf.ops import epps_pulley_eager, epps_pulley_reference
from lejepa_hf.ops.epps_pulley_reference import quadrature


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def value_and_gradient(operators, projections, directions, num_knots, t_max=3.0):
    projections = projections.clone().requires_grad_()
    rule = quadrature(num_knots, t_max, "cpu", projections.dtype)
    sums = operators.deviation_sums(projections, directions.to(projections.dtype), rule)
    value = operators.statistic_from_sums(sums, projections.shape[1], rule)
    value.square().sum().backward()  # not the plain mean, so that each slice has its own gradient
    return value.detach(), projections.grad


@pytest.mark.parametrize("chunk", [1, 100, 1 << 17])
@pytest.mark.parametrize(
    ("shape", "num_slices", "num_knots", "t_max"),
    [
        ((1, 2, 1), 1, 2, 3.0),
        ((3, 7, 5), 11, 3, 1.0),
        ((2, 9, 5), 40, 4, 1.0),
        ((2, 64, 16), 33, 17, 3.0),
        ((8, 33, 24), 65, 65, 5.0),
        ((2, 5, 3), 7, 66, 0.1),
    ],
)
def test_equals_the_reference(monkeypatch, shape, num_slices, num_knots, t_max, chunk):
    monkeypatch.setattr(epps_pulley_eager, "_CHUNK_SAMPLES_CPU", chunk * shape[0])  # one slice, several uneven, all
    projections = torch.randn(shape, generator=generator(), dtype=torch.float64)
    directions = draw_directions(shape[-1], num_slices, seed=0, step=0).double()
    expected = value_and_gradient(epps_pulley_reference, projections, directions, num_knots, t_max)
    found = value_and_gradient(epps_pulley_eager, projections, directions, num_knots, t_max)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    single = value_and_gradient(epps_pulley_eager, projections.float(), directions, num_knots, t_max)
    for one, many in zip(single, expected, strict=True):
        assert (one - many).norm() < 1e-5 * many.norm()


def mean_and_gradient(operator, projections, directions, num_knots):
    projections = projections.clone().requires_grad_()
    value = operator(
        projections, directions.to(projections.dtype), quadrature(num_knots, 3.0, "cpu", projections.dtype)
    )
    (3 * value).backward()
    return value.detach(), projections.grad


def plain_mean(projections, directions, rule):
    sums = epps_pulley_reference.deviation_sums(projections, directions, rule)
    return epps_pulley_reference.statistic_from_sums(sums, projections.shape[1], rule).mean()


@pytest.mark.parametrize("chunk", [1, 100, 1 << 17])
@pytest.mark.parametrize("num_knots", [2, 4, 17, 33])
def test_mean_in_one_pass(monkeypatch, chunk, num_knots):
    monkeypatch.setattr(epps_pulley_eager, "_CHUNK_SAMPLES_CPU", chunk * 3)
    projections = torch.randn(3, 9, 5, generator=generator(), dtype=torch.float64)
    directions = draw_directions(5, 40, seed=0, step=0)
    expected = mean_and_gradient(plain_mean, projections, directions, num_knots)
    found = mean_and_gradient(epps_pulley_eager.mean_statistic, projections, directions, num_knots)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        rule = quadrature(num_knots, 3.0, "cpu", torch.float64)
        assert epps_pulley_eager.mean_statistic(projections, directions.double(), rule) == found[0]


@pytest.mark.parametrize("num_knots", range(2, 70))
def test_every_number_of_knots(num_knots):
    projections = torch.randn(1, 6, 2, generator=generator(num_knots), dtype=torch.float64)
    directions = draw_directions(2, 3, seed=1, step=0).double()
    rule = quadrature(num_knots, 4.0, "cpu", torch.float64)
    expected = epps_pulley_reference.deviation_sums(projections, directions, rule)
    found = epps_pulley_eager.deviation_sums(projections, directions, rule)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_gradient_by_finite_differences():
    projections = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator(1)).requires_grad_()
    directions = draw_directions(3, 5, seed=1, step=0).double()
    rule = quadrature(11, 2.0, "cpu", torch.float64)
    sums = torch.autograd.gradcheck(lambda x: epps_pulley_eager.deviation_sums(x, directions, rule), projections)
    assert sums and torch.autograd.gradcheck(
        lambda s: epps_pulley_eager.statistic_from_sums(s * (rule.knots > 0), 4, rule),
        torch.randn(2, 1, 3, 11, dtype=torch.float64, generator=generator(1)).requires_grad_(),
    )


def sample(kind, num_images, dim, scale):
    # Doubles that are exactly fp32 numbers: what is measured is the arithmetic, not the rounding of the input.
    values = torch.randn(2, num_images, dim, generator=generator(num_images))
    if kind == "constant":
        values = values[:, :1].expand(-1, num_images, -1)
    return (scale * values).contiguous()


def relative_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(
    "num_knots", [2, pytest.param(10, marks=pytest.mark.slow), 17, pytest.param(33, marks=pytest.mark.slow), 65]
)
@pytest.mark.parametrize("num_images", [2, 64, 512])
@pytest.mark.parametrize("kind", ["normal", pytest.param("constant", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [pytest.param(1e-3, marks=pytest.mark.slow), 1e-1, 1.0, 10.0, 1e3])
def test_as_accurate_as_the_plain_formula(scale, kind, num_images, num_knots):
    projections = sample(kind, num_images, 16, scale)
    directions = draw_directions(16, 96, seed=num_knots, step=0)
    exact = value_and_gradient(epps_pulley_reference, projections.double(), directions, num_knots)
    plain = value_and_gradient(epps_pulley_reference, projections, directions, num_knots)
    found = value_and_gradient(epps_pulley_eager, projections, directions, num_knots)
    # Where the plain formula happens to be right to less than one unit in the last place, that unit is the bar.
    bars = [2 * max(relative_error(theirs, expected), 6e-8) for theirs, expected in zip(plain, exact, strict=True)]
    for ours, expected, bar in zip(found, exact, bars, strict=True):
        assert relative_error(ours, expected) <= bar
        assert scale != 1.0 or relative_error(ours, expected) < 1e-5
    found = mean_and_gradient(epps_pulley_eager.mean_statistic, projections, directions, num_knots)
    exact = mean_and_gradient(plain_mean, projections.double(), directions, num_knots)
    plain = mean_and_gradient(plain_mean, projections, directions, num_knots)
    assert relative_error(found[0], exact[0]) <= bars[0]  # one number may be right by luck, the slices are not
    assert relative_error(found[1], exact[1]) <= 2 * max(relative_error(plain[1], exact[1]), 6e-8)


def test_no_rounding_common_to_all_images():
    # Sums over thousands of images: an error of the same sign in each shows here and nowhere else.
    projections = sample("normal", 4096, 4, 1.0)
    directions = draw_directions(4, 32, seed=0, step=0)
    for num_knots in (2, 17):
        rule = quadrature(num_knots, 3.0, "cpu")
        exact = quadrature(num_knots, 3.0, "cpu", torch.float64)
        expected = epps_pulley_reference.deviation_sums(projections.double(), directions.double(), exact)
        plain = (epps_pulley_reference.deviation_sums(projections, directions, rule) - expected).norm()
        assert (epps_pulley_eager.deviation_sums(projections, directions, rule) - expected).norm() < 1.5 * plain


def kept_bytes(function):
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr(), tensor.shape] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function()
    return sum(kept.values())


def test_keeps_nothing_of_images_times_slices():
    projections = torch.randn(4, 64, 8, requires_grad=True)
    directions, rule = draw_directions(8, 500, seed=0, step=0), quadrature(17, 3.0)
    inputs = 4 * projections.numel()
    given = kept_bytes(lambda: epps_pulley_eager.deviation_sums(projections, directions, rule))
    assert given == inputs + 4 * directions.numel()
    redrawn = kept_bytes(lambda: epps_pulley_eager.deviation_sums(projections, directions, rule, lambda: directions))
    assert redrawn == inputs
    assert kept_bytes(lambda: epps_pulley_eager.mean_statistic(projections, directions, rule)) == inputs


def test_redrawn_directions_are_those_of_forward():
    projections = torch.randn(2, 8, 4, generator=generator()).requires_grad_()
    rule = quadrature(9, 3.0)
    draws = []

    def draw():
        draws.append(draw_directions(4, 6, seed=3, step=5))
        return draws[-1]

    epps_pulley_eager.deviation_sums(projections, draw(), rule, draw).square().sum().backward()
    expected = projections.detach().clone().requires_grad_()
    epps_pulley_eager.deviation_sums(expected, draws[0], rule).square().sum().backward()
    assert len(draws) == 2 and torch.equal(projections.grad, expected.grad)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_finite_at_any_scale(scale):
    projections = scale * torch.randn(1, 16, 4, generator=generator())
    value, gradient = value_and_gradient(epps_pulley_eager, projections, draw_directions(4, 8, 0, 0), 17)
    assert value.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value):
    projections = torch.randn(2, 16, 4, generator=generator())
    projections[1, 3, 2] = value
    found = value_and_gradient(epps_pulley_eager, projections, draw_directions(4, 8, 0, 0), 17)[0]
    assert found[0].isfinite().all() and not found[1].isfinite().any()


def test_inputs_need_not_be_contiguous():
    wide = torch.randn(6, 12, 3, generator=generator())
    directions = draw_directions(6, 10, 0, 0)
    strided = value_and_gradient(epps_pulley_eager, wide.permute(2, 1, 0)[:, ::2], directions.T.contiguous().T, 17)
    plain = value_and_gradient(epps_pulley_eager, wide.permute(2, 1, 0)[:, ::2].contiguous(), directions, 17)
    torch.testing.assert_close(strided, plain)


def test_runs_inside_a_compiled_model():
    projections = torch.randn(2, 8, 4, generator=generator())
    directions, rule = draw_directions(4, 6, 0, 0), quadrature(17, 3.0)

    def loss(x):
        return epps_pulley_eager.deviation_sums(2 * x, directions, rule).square().sum()

    found, expected = (projections.clone().requires_grad_() for _ in range(2))
    torch.compile(loss, backend="aot_eager")(found).backward()
    loss(expected).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_tables_made_in_inference_serve_training():
    quadrature.cache_clear(), epps_pulley_eager._harmonics.cache_clear()
    projections, directions = torch.randn(1, 8, 4, generator=generator()), draw_directions(4, 6, 0, 0)
    with torch.inference_mode():
        epps_pulley_eager.deviation_sums(projections, directions, quadrature(17, 3.0))
    assert value_and_gradient(epps_pulley_eager, projections, directions, 17)[1].isfinite().all()


@pytest.mark.parametrize(
    ("gib", "at_least"), [(80, 8 * 512 * 4096), (24, 8 * 512 * 1024), (8, 8 * 512 * 1024), (1, 1 << 19)]
)
def test_chunks_on_an_accelerator_grow_with_its_memory(gib, at_least):
    """The default of 8 x 512 samples along 1,024 slices is one chunk, and buffers take a sixteenth of the memory."""
    samples = epps_pulley_eager.samples_per_chunk(gib << 30)
    assert samples >= at_least
    assert samples == 1 << 19 or 100 * samples <= (gib << 30) / 16


def test_chunks_of_a_cpu_fit_its_cache():
    assert epps_pulley_eager._samples_per_chunk(torch.device("cpu")) == 1 << 17


def test_operations_of_one_chunk():
    """On an accelerator each one is a launch: with a chunk for all slices they must not grow with the sizes."""
    rule, counts = quadrature(17, 3.0, "cpu"), []
    for images, slices in ((8, 16), (32, 64)):
        projections = torch.randn(2, images, 8, generator=generator()).requires_grad_()
        directions = draw_directions(8, slices, 0, 0)
        epps_pulley_eager.mean_statistic(projections, directions, rule).backward()  # tables are made
        with torch.profiler.profile() as profiler:
            epps_pulley_eager.mean_statistic(projections, directions, rule).backward()
        counts.append(sum(event.name.startswith("aten::addcmul") for event in profiler.events()))
    assert counts[0] == counts[1] < 15


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("slices", [16, 4096])
def test_the_same_values_on_cuda_plain_and_in_chunks(slices):
    projections, directions = torch.randn(8, 64, 16, generator=generator()), draw_directions(16, slices, 0, 0)
    expected = value_and_gradient(epps_pulley_reference, projections.double(), directions, 17)
    leaf, rule = projections.cuda().requires_grad_(), quadrature(17, 3.0, "cuda")
    sums = epps_pulley_eager.deviation_sums(leaf, directions.cuda(), rule)
    value = epps_pulley_eager.statistic_from_sums(sums, 64, rule)
    value.square().sum().backward()
    for found, right in zip((value.detach(), leaf.grad), expected, strict=True):
        assert ((found.cpu() - right).norm() / right.norm()).item() < 1e-5
