import copy
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from lejepa_hf import SIGReg
from lejepa_hf.configuration_lejepa import STATISTICS as CONFIGURABLE
from lejepa_hf.losses.sigreg import COMPARED_STATISTICS, draw_directions, epps_pulley

NULL_MEAN = 1.0525  # [0, 3] with 17 knots
ONE = torch.ones(1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("num_images", "dim", "num_slices"), [(16, 2, 64), (64, 16, 256), (512, 64, 256), (100, 1, 1)]
)
def test_null_mean_does_not_depend_on_sizes(num_images, dim, num_slices):
    draws = torch.randn(200, num_images, dim, generator=generator())
    means = epps_pulley(draws, draw_directions(dim, num_slices, 0, 0)).mean(1)
    assert means.mean().item() == pytest.approx(NULL_MEAN, abs=3 * means.std().item() / math.sqrt(len(means)))


def uniform(shape):
    return (torch.rand(shape, generator=generator()) - 0.5) * math.sqrt(12)


def laplace(shape):
    halves = torch.rand(2, *shape, generator=generator()).clamp_min(1e-12).log()
    return (halves[0] - halves[1]) / math.sqrt(2)


LAWS = {
    "shifted": (lambda shape: torch.randn(shape, generator=generator()) + 0.5, 0.11812, 1.0525),
    "wide": (lambda shape: 2 * torch.randn(shape, generator=generator()), 0.23609, 1.664),
    "narrow": (lambda shape: 0.5 * torch.randn(shape, generator=generator()), 0.15119, 0.454),
    "uniform": (uniform, 0.01609, 1.104),
    "laplace": (laplace, 0.01638, 0.943),
    "signs": (lambda shape: torch.randn(shape, generator=generator()).sign(), 0.10283, 1.083),
}


@pytest.mark.parametrize("law", LAWS)
def test_population_values(law):
    sample, distance, offset = LAWS[law]
    num_images = 500
    values = epps_pulley(sample((2000, num_images, 1)), ONE).flatten()
    expected = num_images * distance + offset
    error = 4 * values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(
        expected, abs=error + num_images * 6e-6 + 6e-4
    )  # the table's rounding


@pytest.mark.parametrize("num_images", [2, 100, 1000])
def test_collapse_costs_in_proportion_to_the_batch(num_images):
    value = epps_pulley(torch.zeros(1, num_images, 3), draw_directions(3, 4, 0, 0))
    assert value == pytest.approx(torch.full((1, 4), 0.402048 * num_images), rel=1e-5)


def test_symmetries():
    sample = torch.randn(1, 200, 8, generator=generator()).exp()
    directions = draw_directions(8, 512, 0, 0)
    value = epps_pulley(sample, directions)
    shuffled = sample[:, torch.randperm(200, generator=generator())]
    torch.testing.assert_close(epps_pulley(shuffled, directions), value, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(epps_pulley(-sample, directions), value, rtol=1e-4, atol=1e-3)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator())).Q
    torch.testing.assert_close(epps_pulley(sample @ rotation, rotation.T @ directions), value, rtol=1e-3, atol=1e-2)
    rotated = epps_pulley(sample @ rotation, directions).mean()  # in distribution: other slices of the same law
    assert rotated.item() == pytest.approx(value.mean().item(), rel=0.15)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 1e4])
def test_bounds(scale):
    sample = (scale * torch.randn(1, 256, 1, generator=generator())).requires_grad_()
    value = epps_pulley(sample, ONE)
    assert value.item() <= 7.5 * 256
    value.backward()
    assert sample.grad.isfinite().all() and sample.grad.abs().max() <= 6.0


def test_constant_input_gives_finite_gradients():
    sample = torch.full((2, 8, 4), 3.0, requires_grad=True)
    SIGReg(num_slices=16)(sample, step=0).backward()
    assert sample.grad.isfinite().all()


def test_a_single_image_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        SIGReg(num_slices=4)(torch.zeros(3, 1, 4), step=0)


def test_directions():
    directions = draw_directions(64, 300, seed=3, step=7)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(300))
    assert torch.equal(directions, draw_directions(64, 300, seed=3, step=7))
    for other in [(3, 8), (4, 7), (7, 3), (0, 0)]:
        assert (directions - draw_directions(64, 300, *other)).abs().max() > 0.1
    assert directions.mean().abs() < 0.01  # no preferred side


def test_directions_stay_what_they_were():
    """Runs are resumed with later versions: the same seed and step must give the same directions."""
    expected = [-0.21738698, -0.69527245, -0.9527992, -0.02410659, 0.31169063, 0.26225927, -0.92442244, -0.59049374]
    assert draw_directions(4, 3, 3, 7).flatten()[:8].tolist() == pytest.approx(expected, abs=5e-9)
    several = draw_directions(64, 1024, 0, 99_999)
    found = [several[0, 0].item(), several[63, 1023].item()]
    assert found == pytest.approx([0.06376129388809204, -0.16449607908725739], abs=3e-8)  # a norm may round otherwise


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found.append((func.overloadpacket.__name__, (kwargs or {}).get("device")))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("step", [7, torch.tensor(7)], ids=["number", "tensor on the host"])
def test_directions_are_drawn_where_they_are_used(step):
    """Three operations, from a seed that the host has computed; no value of a device is read or copied."""
    with Operations() as operations:
        directions = draw_directions(8, 5, seed=3, step=step)
    names = [name for name, _ in operations.found]
    assert names[-3:] == ["randn", "linalg_vector_norm", "div"]
    assert names[:-3] == ([] if isinstance(step, int) else ["_local_scalar_dense"])  # of a tensor on the host
    assert torch.equal(directions, draw_directions(8, 5, seed=3, step=7))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_directions_on_cuda_do_not_wait_and_are_the_same_again():
    first = draw_directions(64, 256, 3, 7, "cuda")
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = draw_directions(64, 256, 3, 7, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert again.is_cuda and torch.equal(first, again)


def test_directions_leave_the_global_generators_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    torch.manual_seed(5)
    first = draw_directions(8, 8, 0, 0)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    assert torch.equal(first, draw_directions(8, 8, 0, 0))
    assert torch.equal(before, torch.get_rng_state())
    assert (states[1] == np.random.get_state()[1]).all() and states[2] == random.getstate()


def test_views_are_averaged_or_pooled():
    projections = torch.randn(4, 50, 8, generator=generator()).exp()
    each = torch.stack([SIGReg(num_slices=64)(view, step=1) for view in projections])
    per_view = SIGReg(num_slices=64)(projections, step=1)
    assert per_view.item() == pytest.approx(each.mean().item(), rel=1e-5)
    pooled = SIGReg(num_slices=64, views="pooled")(projections, step=1)
    assert pooled.item() == pytest.approx(SIGReg(num_slices=64)(projections.flatten(0, 1), step=1).item(), rel=1e-6)
    assert pooled > 2 * per_view  # about the number of views times, far from the null


@pytest.mark.parametrize("enabled", [True, False])
def test_statistic_is_fp32_whatever_comes_in(enabled):
    projections = torch.randn(2, 256, 16, generator=generator()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        loss = SIGReg(num_slices=128)(projections, step=0)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(SIGReg(num_slices=128)(projections.float(), step=0).item(), rel=1e-6)


@pytest.mark.parametrize("backend", ["auto", "reference", "eager"])
def test_backends_agree(backend):
    projections = torch.randn(3, 40, 8, generator=generator()).requires_grad_()
    directions = draw_directions(8, 30, 0, 0)
    value = epps_pulley(projections, directions, num_knots=9, t_max=2.0, backend=backend)
    value.mean().backward()
    expected = projections.detach().clone().requires_grad_()
    epps_pulley(expected, directions, num_knots=9, t_max=2.0, backend="reference").mean().backward()
    torch.testing.assert_close(projections.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("projections", "directions", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(3, 2), "shape"),
        (torch.zeros(1, 4, 3), torch.zeros(4, 2), r"\(4, 2\)"),
        (torch.zeros(1, 4, 3), torch.zeros(3, 0), r"\(3, 0\)"),
    ],
)
def test_shapes_that_do_not_fit(projections, directions, message):
    with pytest.raises(ValueError, match=message):
        epps_pulley(projections, directions)


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3, 4)])
def test_projections_of_no_use(shape):
    with pytest.raises(ValueError, match="projections.*shape"):
        SIGReg(num_slices=4)(torch.zeros(shape), step=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_slices", 0), ("num_knots", 1), ("t_max", 0.0), ("views", "all"), ("statistic", "epps-pulley")],
)
def test_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=rf"`{field}`.*got {value!r}"):
        SIGReg(**{field: value})


@pytest.mark.parametrize("num_images", [0, 1])
def test_too_few_images(num_images):
    with pytest.raises(ValueError, match=f"at least 2 images, got {num_images}"):
        epps_pulley(torch.zeros(2, num_images, 3), draw_directions(3, 4, 0, 0))


def test_keeps_twice_the_projections_for_backward():
    projections = torch.randn(8, 512, 64, generator=generator()).requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr(), tensor.shape] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        SIGReg()(projections, step=0)
    assert sum(kept.values()) <= 2 * 4 * projections.numel()


@pytest.mark.parametrize("statistic", COMPARED_STATISTICS)
@pytest.mark.parametrize("views", ["per_view", "pooled"])
def test_other_statistics_sit_behind_the_same_slicing(statistic, views):
    projections = torch.randn(3, 40, 8, generator=generator()).bfloat16().requires_grad_()
    sigreg = SIGReg(num_slices=16, statistic=statistic, views=views)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sigreg(projections, step=2)
    samples = projections.detach().float() if views == "per_view" else projections.detach().float().view(1, -1, 8)
    expected = COMPARED_STATISTICS[statistic](samples @ draw_directions(8, 16, seed=0, step=2)).mean()
    assert loss.dtype is torch.float32 and loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert projections.grad.isfinite().all() and projections.grad.abs().max() > 0


def test_steps_are_counted_when_not_given():
    projections, sigreg = torch.randn(2, 20, 4, generator=generator()), SIGReg(num_slices=4)
    counted = [sigreg(projections).item() for _ in range(3)]
    assert counted == [SIGReg(num_slices=4)(projections, step).item() for step in range(3)]
    sigreg.eval()
    assert sigreg(projections).item() == sigreg(projections).item() == sigreg(projections, step=3).item()
    assert sigreg.train()(projections).item() == sigreg(projections, step=3).item()  # evaluations were not counted
    again = copy.deepcopy(sigreg)
    assert again(projections).item() == sigreg(projections, step=4).item()


@pytest.mark.parametrize("context", [lambda: torch.device("meta"), torch.inference_mode])
def test_counting_where_models_may_be_built(context):
    with context():
        sigreg = SIGReg(num_slices=4)
    projections = torch.randn(20, 4, generator=generator())
    counted = [sigreg(projections).item() for _ in range(2)]
    assert counted == [SIGReg(num_slices=4)(projections, step).item() for step in range(2)]


@pytest.mark.parametrize("step", [torch.tensor(7), torch.tensor([7]), torch.tensor(7.0), np.int64(7)])
def test_steps_that_are_not_python_numbers(step):
    projections = torch.randn(20, 4, generator=generator())
    assert SIGReg(num_slices=4)(projections, step).item() == SIGReg(num_slices=4)(projections, 7).item()
    assert torch.equal(draw_directions(4, 3, 0, step), draw_directions(4, 3, 0, 7))


@pytest.mark.parametrize("views", ["per_view", "pooled"])
def test_sequences_with_the_batch_first(views):
    sequences = torch.randn(30, 5, 8, generator=generator()).exp()  # (B, T, K)
    loss = SIGReg(num_slices=16, views=views, batch_first=True)(sequences, step=1)
    assert loss.item() == SIGReg(num_slices=16, views=views)(sequences.transpose(0, 1), step=1).item()
    if views == "per_view":  # one statistic per position, over the sequences
        each = [SIGReg(num_slices=16)(sequences[:, position], step=1).item() for position in range(5)]
        assert loss.item() == pytest.approx(sum(each) / 5, rel=1e-5)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        SIGReg(num_slices=4, batch_first=True)(sequences[:1], step=0)


@pytest.mark.parametrize(
    "statistic", ["epps_pulley", *(pytest.param(name, marks=pytest.mark.slow) for name in COMPARED_STATISTICS)]
)
def test_compiles_into_one_graph(statistic):
    eager = SIGReg(num_slices=8, statistic=statistic)
    graphs = CompileCounterWithBackend("aot_eager")
    torch.compiler.reset()
    compiled = torch.compile(SIGReg(num_slices=8, statistic=statistic), fullgraph=True, backend=graphs)
    for _ in range(4):  # each with other directions, and without another graph
        projections = torch.randn(3, 40, 6, generator=generator(), requires_grad=True)
        loss, expected = compiled(projections), eager(projections)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        (grad,), (expected_grad,) = (torch.autograd.grad(value, projections) for value in (loss, expected))
        torch.testing.assert_close(grad, expected_grad, rtol=1e-3, atol=1e-5)
    assert graphs.frame_count == 1
    for step in (3, 4, 5, torch.tensor(6)):
        assert compiled(projections, step).item() == pytest.approx(eager(projections, step).item(), rel=1e-4)
    assert graphs.frame_count <= 4  # a number, any number, a tensor


@pytest.mark.slow
def test_two_processes_with_uneven_batches(two_processes):
    assert two_processes(Path(__file__).parents[1] / "two_process_sigreg.py").count("agrees") == 2


def test_compiles_under_autocast():
    compiled = torch.compile(SIGReg(num_slices=8), fullgraph=True, backend="aot_eager")
    projections = torch.randn(3, 40, 6, generator=generator()).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = compiled(projections, 2)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(SIGReg(num_slices=8)(projections, 2).item(), rel=1e-4)


def test_nothing_is_kept_in_the_state_dict():
    assert not SIGReg().state_dict()


def effective_rank(embeddings):
    spectrum = torch.linalg.svdvals(embeddings - embeddings.mean(0))
    share = spectrum / spectrum.sum()
    return torch.exp(-(share * share.clamp_min(1e-12).log()).sum()).item()


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "collapses"), [(0.0, True), (0.05, False)])
def test_the_weight_decides_about_collapse(weight, collapses):
    from lejepa_hf.losses.prediction import prediction_loss

    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    sigreg = SIGReg(num_slices=64)
    for step in range(400):
        images = torch.randn(128, 16)
        views = images + 0.3 * torch.randn(4, 128, 16)
        projections = encoder(views)
        loss = (1 - weight) * prediction_loss(projections, 2) + weight * sigreg(projections, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    embeddings = encoder(torch.randn(256, 16)).detach()
    if collapses:
        assert embeddings.std(0).mean() < 0.1
    else:
        assert embeddings.std(0).mean() > 0.5 and effective_rank(embeddings) > 7


def test_every_statistic_can_be_configured():
    assert ("epps_pulley", *COMPARED_STATISTICS) == CONFIGURABLE


def test_null_and_collapsed_means():
    sigreg = SIGReg(num_slices=64)
    assert sigreg.null_mean == pytest.approx(1.0525, abs=1e-4)
    assert sigreg.collapsed_mean == pytest.approx(0.402048, abs=1e-5)
    assert SIGReg(num_knots=33, t_max=6.0).null_mean == pytest.approx(1.0594, abs=1e-3)  # of the whole line
    assert sigreg(torch.zeros(2, 50, 4), step=0).item() == pytest.approx(50 * sigreg.collapsed_mean, rel=1e-4)
    samples = torch.randn(200, 16, 8, generator=torch.Generator().manual_seed(0))
    assert SIGReg(num_slices=256)(samples, step=0).item() == pytest.approx(sigreg.null_mean, rel=0.05)
    for other in (SIGReg(views="pooled"), SIGReg(statistic="cramer_von_mises")):
        assert other.null_mean is None and other.collapsed_mean is None


def test_a_compiled_step_draws_outside_of_cuda_graphs():
    """Otherwise a replayed graph would have the same directions in each step."""
    if "cudagraph_unsafe" not in dir(torch.Tag):
        pytest.skip("this PyTorch has no such tag")
    assert torch.Tag.cudagraph_unsafe in torch.ops.lejepa_hf.draw_directions.default.tags
