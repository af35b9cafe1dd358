import math

import numpy as np
import pytest
import scipy.stats
import torch

from lejepa_hf.losses import univariate_statistics

KEYS = [
    "anderson_darling",
    "cramer_von_mises",
    "watson",
    "shapiro_wilk",
    "entropy",
    "moments",
    "extended_jarque_bera",
    "vcreg",
]
STATISTICS = {name: getattr(univariate_statistics, name) for name in KEYS}
every = pytest.mark.parametrize("name", KEYS)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def evaluate(name, sample):
    """One statistic of a sample of any array type, in float64."""
    return STATISTICS[name](torch.as_tensor(sample, dtype=torch.float64).view(1, -1, 1)).item()


def value_and_gradient(name, sample):
    sample = sample.clone().requires_grad_()
    value = STATISTICS[name](sample)
    value.sum().backward()
    return value.detach(), sample.grad


# Skewed, shifted and wide, so that no term is zero. Even, odd, small N.
@pytest.fixture(params=[2, 3, 8, 31, 200])
def sample(request):
    draws = normal(request.param, seed=request.param, dtype=torch.float64)
    return (0.3 + 1.2 * draws + 0.4 * draws.square()).numpy()


def test_anderson_darling_is_the_textbook_sum(sample):
    num, ordered = len(sample), np.sort(sample)
    logs = scipy.stats.norm.logcdf(ordered) + scipy.stats.norm.logsf(ordered[::-1])
    expected = -num - np.sum((2 * np.arange(1, num + 1) - 1) * logs) / num
    assert evaluate("anderson_darling", sample) == pytest.approx(expected, rel=1e-9)


def test_cramer_von_mises_is_scipys(sample):
    expected = scipy.stats.cramervonmises(sample, "norm").statistic
    assert evaluate("cramer_von_mises", sample) == pytest.approx(expected, rel=1e-9)


def test_watson_is_rotation_invariant_and_below_cramer_von_mises(sample):
    num, levels = len(sample), np.sort(scipy.stats.norm.cdf(sample))
    # Watson's own double sum of a circular distance (his V_N), without order statistics.
    gaps = np.abs(levels[:, None] - levels[None, :])
    expected = num / 12 - np.sum(gaps * (1 - gaps)) / (2 * num)
    assert evaluate("watson", sample) == pytest.approx(expected, rel=1e-9)
    rotated = scipy.stats.norm.ppf((levels + 0.37) % 1)
    assert evaluate("watson", rotated) == pytest.approx(expected, rel=1e-9)
    mean_part = num * (levels.mean() - 0.5) ** 2
    assert evaluate("cramer_von_mises", sample) - expected == pytest.approx(mean_part, rel=1e-9)


@pytest.mark.parametrize("num", [20, 100, 1000])
def test_shapiro_wilk_is_near_scipys_and_exactly_a_correlation(num):
    draws = normal(num, seed=num, dtype=torch.float64).numpy()
    for sample in (draws, np.exp(0.7 * draws)):
        w = 1 - evaluate("shapiro_wilk", sample) / num
        assert w == pytest.approx(scipy.stats.shapiro(sample).statistic, abs=0.015)
        scores = scipy.stats.norm.ppf((np.arange(1, num + 1) - 0.375) / (num + 0.25))
        assert w == pytest.approx(np.corrcoef(scores, np.sort(sample))[0, 1] ** 2, abs=1e-7)
        assert 1 - evaluate("shapiro_wilk", 5 - 3 * sample) / num == pytest.approx(w, abs=1e-7)


def test_entropy_is_cross_entropy_minus_vasicek(sample):
    num = len(sample)
    window = {2: 1, 3: 1, 8: 3, 31: 6, 200: 14}[num]
    if num == 2:  # both spacings are the whole range; scipy wants more samples
        vasicek = math.log(np.ptp(sample))
    else:
        vasicek = scipy.stats.differential_entropy(sample, window_length=window, method="vasicek")
    expected = -scipy.stats.norm.logpdf(sample).sum() - num * vasicek
    assert evaluate("entropy", sample) == pytest.approx(expected, rel=1e-9)


def test_entropy_recovers_a_known_divergence():
    num = 20_000  # the bias is about 0.003 here
    divergence = math.log(1 / 1.5) + (1.5**2 + 0.7**2 - 1) / 2
    assert evaluate("entropy", 0.7 + 1.5 * normal(num)) / num == pytest.approx(divergence, abs=0.03)


def test_moments_are_in_units_of_their_null_variance(sample):
    expected = 0
    for k in range(1, 5):
        null_mean, null_square = (scipy.stats.norm.moment(order) for order in (k, 2 * k))
        expected += len(sample) * (np.mean(sample**k) - null_mean) ** 2 / (null_square - null_mean**2) / 4
    assert evaluate("moments", sample) == pytest.approx(expected, rel=1e-9)


def test_extended_jarque_bera_is_the_sum_over_hermite_polynomials(sample):
    expected = 0
    for k in range(1, 5):
        hermite = np.polynomial.hermite_e.hermeval(sample, np.eye(5)[k])
        expected += len(sample) * hermite.mean() ** 2 / math.factorial(k)
    assert evaluate("extended_jarque_bera", sample) == pytest.approx(expected, rel=1e-9)


def test_extended_jarque_bera_tends_to_the_textbook_form_and_to_chi2():
    values, differences = [], []
    for seed in range(50):
        sample = normal(50_000, seed=seed, dtype=torch.float64).numpy()
        textbook = scipy.stats.jarque_bera(sample).statistic
        textbook += len(sample) * (sample.mean() ** 2 + (sample.var() - 1) ** 2 / 2)
        values.append(evaluate("extended_jarque_bera", sample))
        differences.append(values[-1] - textbook)
    assert np.abs(differences).max() < 0.5
    assert scipy.stats.kstest(values, scipy.stats.chi2(4).cdf).pvalue > 0.01


def test_vcreg_is_mean_and_std(sample):
    expected = len(sample) * (sample.mean() ** 2 + (sample.std(ddof=1) - 1) ** 2)
    assert evaluate("vcreg", sample) == pytest.approx(expected, rel=1e-6)  # its floor under the variance


@pytest.mark.parametrize("num", [16, 128])
@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("anderson_darling", 1),
        ("cramer_von_mises", 1 / 6),
        ("watson", 1 / 12),
        ("moments", 1),
        ("extended_jarque_bera", 4),
        ("vcreg", None),
    ],
)
def test_null_mean(name, mean, num):
    if mean is None:  # 1 + 2 N (1 - c_4(N)), of which the limit is 1.5
        c4 = math.sqrt(2 / (num - 1)) * math.exp(math.lgamma(num / 2) - math.lgamma((num - 1) / 2))
        mean = 1 + 2 * num * (1 - c4)
        assert mean == pytest.approx(1.5, abs=0.6 / num)
    values = STATISTICS[name](normal(4, num, 3000, seed=num)).flatten()
    assert values.mean().item() == pytest.approx(mean, abs=4 * values.std().item() / math.sqrt(len(values)))


@pytest.mark.parametrize(
    ("name", "num", "mean"),
    [
        ("shapiro_wilk", 64, 1.17),
        ("shapiro_wilk", 512, 1.56),
        ("shapiro_wilk", 4096, 1.83),
        ("entropy", 64, 8.68),
        ("entropy", 512, 10.2),
        ("entropy", 4096, -2.9),
    ],
)
def test_documented_null_means(name, num, mean):
    values = STATISTICS[name](normal(1, num, 800_000 // num, seed=num)).flatten()
    error = values.std().item() / math.sqrt(len(values))
    assert values.mean().item() == pytest.approx(mean, abs=4 * error + 0.03)
    if name == "entropy" and num > 64:
        assert values.std().item() == pytest.approx(0.25 * math.sqrt(num), rel=0.2)


@every
def test_grows_in_proportion_to_the_batch_off_the_null(name):
    def mean(num):
        uniform = torch.rand(1, num, 50, generator=torch.Generator().manual_seed(num), dtype=torch.float64)
        return STATISTICS[name](3 * uniform).mean().item()

    rate = (mean(4000) - mean(2000)) / 2000
    assert rate == pytest.approx(mean(4000) / 4000, rel=0.1)
    assert mean(4000) > 10 * mean(200)
    assert mean(4000) > 10 * abs(STATISTICS[name](normal(1, 4000, 50)).mean().item())


# Per N.
AT_ZERO = {
    "anderson_darling": 2 * math.log(2) - 1,
    "cramer_von_mises": 1 / 12,
    "watson": 1 / 12,
    "shapiro_wilk": 1,
    "entropy": 7.7196,
    "moments": (1 / 2 + 9 / 96) / 4,
    "extended_jarque_bera": 1 / 2 + 9 / 24,
    "vcreg": 1,
}


@every
def test_collapse_costs_as_documented(name):
    num = 512
    assert STATISTICS[name](torch.zeros(1, num, 1)).item() / num == pytest.approx(AT_ZERO[name], rel=1e-3)


@pytest.mark.parametrize("name", ["shapiro_wilk", "watson"])
def test_collapse_costs_the_same_anywhere(name):
    for place in (-3.0, 0.7, 1e4):
        assert STATISTICS[name](torch.full((1, 512, 1), place)).item() / 512 == pytest.approx(AT_ZERO[name], rel=1e-3)


@every
@pytest.mark.parametrize("num", [2, 3, 12])
def test_gradient(name, num):
    # Distinct samples, apart by more than the step of the finite differences.
    sample = 2 * normal(2, num, 3, seed=num, dtype=torch.float64)
    assert sample.sort(1).values.diff(dim=1).min() > 1e-3
    torch.autograd.gradcheck(STATISTICS[name], sample.requires_grad_())


@pytest.mark.parametrize("sign", [-1, 1])
def test_anderson_darling_pulls_far_outliers_back_in_fp32(sign):
    sizes = torch.linspace(100, 10_000, 8)
    weights = 2 - (2 * torch.arange(1, 9) - 1) / 8  # the farthest has the smallest
    value, gradient = value_and_gradient("anderson_darling", sign * sizes.view(1, 8, 1))
    # log Phi(-a) = -a^2 / 2 - log(a sqrt(2 pi)) + o(1), with the slope -(a + 1 / a).
    logs = sizes.square() / 2 + (sizes * math.sqrt(2 * math.pi)).log()
    assert value.item() == pytest.approx((weights * logs).sum().item() - 8, rel=1e-4)
    torch.testing.assert_close(gradient.flatten(), sign * weights * (sizes + 1 / sizes), rtol=1e-4, atol=0)


EXTREMES = {
    "zero": torch.zeros(1, 64, 2),
    "constant": torch.full((1, 64, 2), 0.3),
    "far right": torch.full((1, 64, 2), 1e4),
    "far left": torch.full((1, 64, 2), -1e4),
    "wide": 1e4 * normal(1, 64, 2),
    "narrow": 1e-6 * normal(1, 64, 2),
    "tied": normal(1, 64, 2).sign(),
    "one outlier": torch.cat([torch.zeros(1, 63, 2), torch.full((1, 1, 2), 1e4)], 1),
    "two equal": torch.zeros(1, 2, 2),
}


@every
@pytest.mark.parametrize("case", EXTREMES)
def test_extremes_are_finite(name, case):
    value, gradient = value_and_gradient(name, EXTREMES[case])
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@every
def test_order_of_samples_does_not_matter(name):
    sample = 0.5 + normal(2, 50, 3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    value, gradient = value_and_gradient(name, sample)
    moved_value, moved_gradient = value_and_gradient(name, sample[:, order])
    torch.testing.assert_close(moved_value, value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved_gradient, gradient[:, order], rtol=1e-3, atol=1e-4)


@every
def test_sign_does_not_matter(name):
    sample = 0.5 + normal(1, 50, 3, dtype=torch.float64).exp()
    torch.testing.assert_close(STATISTICS[name](-sample), STATISTICS[name](sample))


@every
def test_views_and_slices_are_separate(name):
    sample = normal(3, 40, 5) * torch.linspace(0.5, 2, 15).view(3, 1, 5)
    together = STATISTICS[name](sample)
    assert together.shape == (3, 5)
    assert together.dtype == torch.float32
    separate = [[STATISTICS[name](sample[v : v + 1, :, m : m + 1]).item() for m in range(5)] for v in range(3)]
    torch.testing.assert_close(together, torch.tensor(separate), rtol=1e-4, atol=1e-4)


@every
def test_fp32_agrees_with_fp64(name):
    sample = normal(2, 4096, 4)
    exact = STATISTICS[name](sample.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(STATISTICS[name](sample).double(), exact, rtol=1e-3, atol=5e-3)


@every
def test_descent_mends_what_the_statistic_sees(name):
    sample = (0.5 + 1.5 * normal(1, 128, 1, seed=3)).requires_grad_()
    start = STATISTICS[name](sample).item()
    optimizer = torch.optim.Adam([sample], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        STATISTICS[name](sample).sum().backward()
        optimizer.step()
    end, result = STATISTICS[name](sample).item(), sample.detach().flatten().numpy()
    distance = scipy.stats.kstest(result, "norm").statistic
    assert end < 0.05 * start
    if name == "shapiro_wilk":
        assert result.mean() > 0.5
        assert result.std() > 1.4
    elif name in ("moments", "extended_jarque_bera", "vcreg"):
        assert distance > 0.1  # the moments fit, the law does not: the paper's theorem 3
        assert (result.mean(), result.std()) == pytest.approx((0, 1), abs=0.03)
    else:
        assert distance < 0.08
