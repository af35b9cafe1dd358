"""
Univariate normality statistics for comparison with Epps-Pulley (arXiv 2511.08544, section on its tests).

[`SIGReg`] can use what the paper compares Epps-Pulley with: `anderson_darling` and `cramer_von_mises` for distribution
functions, `extended_jarque_bera` and `vcreg` for moments. The others are for studies:
`watson(projections @ draw_directions(dim, num_slices, seed, step)).mean()` is the corresponding loss.

Every function maps floating-point samples of shape `(V, N, M)`, N >= 2, to statistics of shape `(V, M)` of the same
dtype. The N samples of each column are compared with N(0, 1) itself, without standardisation, because mean and
variance are part of what SIGReg enforces. Small is good. Arguments are not checked, and with several processes the
caller gathers the samples. Values and gradients stay finite for constant and tied samples and for magnitudes up to
about 1e4 in fp32.

Scale: like Epps-Pulley all have a factor N. They stay O(1) for normal samples (except `entropy`; `shapiro_wilk`
increases slowly) and grow with N for every law that they distinguish from it, so that weights stay comparable.

| statistic            | mean for normal samples                      | all samples 0 | distinguishes from N(0, 1)  |
|----------------------|----------------------------------------------|---------------|-----------------------------|
| anderson_darling     | 1                                            | 0.386 N       | every other law; sorts      |
| cramer_von_mises     | 1/6                                          | N/12          | every other law; sorts      |
| watson               | 1/12                                         | N/12          | every other law; sorts      |
| shapiro_wilk         | 1.2 (N = 64), 1.6 (512), 1.8 (4096)          | N             | what is not normal; sorts   |
| entropy              | 8.7 (N = 64), 10 (512), -2.9 (4096)          | 7.7 N (512)   | every other law; sorts      |
| moments              | 1                                            | 0.148 N       | what differs in moments 1-4 |
| extended_jarque_bera | 4                                            | 0.875 N       | what differs in moments 1-4 |
| vcreg                | 1.5                                          | N             | what differs in moments 1-2 |

Those that sort need all samples in one place, and their gradient jumps where two samples swap. Those that use only a
few moments are not recommended: finitely many moments do not identify a law, so embeddings can have these moments
without being normal (the paper's theorem 3).
"""

import math

import torch
from torch.autograd import Function

# A slice with a smaller spread counts as constant, which bounds gradients of its log and of quotients by it.
_SPREAD = 1e-4


def _order(samples: torch.Tensor, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted samples and their plotting positions `(i - offset) / (N + 1 - 2 * offset)`, of shape `(N, 1)`."""
    num = samples.shape[1]
    ranks = torch.arange(1, num + 1, dtype=samples.dtype, device=samples.device).unsqueeze(1)
    return samples.sort(1).values, (ranks - offset) / (num + 1 - 2 * offset)


class _LogNdtr(Function):
    """`torch.special.log_ndtr` with a right gradient in the tail: PyTorch's is 5 % off at -1e3, sixfold at -1e4."""

    @staticmethod
    def forward(ctx: Function, values: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(values)
        return torch.special.log_ndtr(values)

    @staticmethod
    def backward(ctx: Function, grad: torch.Tensor) -> torch.Tensor:
        (values,) = ctx.saved_tensors
        return grad * math.sqrt(2 / math.pi) / torch.special.erfcx(-values / math.sqrt(2))


def anderson_darling(samples: torch.Tensor) -> torch.Tensor:
    """
    Anderson-Darling A^2, the only distance of distribution functions here that does not saturate: a single far outlier
    adds about x^2 / (2 N), so it is pulled back.

    Source: Anderson and Darling, "A test of goodness of fit", JASA 49 (1954).
    """
    ordered, positions = _order(samples, 0.5)
    below, above = _LogNdtr.apply(ordered), _LogNdtr.apply(-ordered)
    # The textbook's -N is spread over the terms, which loses fewer digits.
    return -(1 + 2 * (positions * below + (1 - positions) * above)).sum(1)


def cramer_von_mises(samples: torch.Tensor) -> torch.Tensor:
    """
    Cramér-von Mises W^2, at most about N/3. Its gradient is proportional to the normal density, so it vanishes for
    samples far from 0.

    Source: Csörgő and Faraway, "The exact and asymptotic distributions of Cramér-von Mises statistics", JRSS B 58
    (1996).
    """
    ordered, positions = _order(samples, 0.5)
    return 1 / (12 * samples.shape[1]) + (positions - torch.special.ndtr(ordered)).square().sum(1)


def watson(samples: torch.Tensor) -> torch.Tensor:
    """
    Watson U^2, at most about N/12: W^2 without the contribution of the mean of Phi(x), hence weak against shifts. If
    all samples have the same value, it is about N/12 for any value. Gradients vanish far from 0 as for W^2.

    Source: Watson, "Goodness-of-fit tests on a circle", Biometrika 48 (1961).
    """
    excess = torch.special.ndtr(samples).mean(1) - 0.5
    return cramer_von_mises(samples) - samples.shape[1] * excess.square()


def shapiro_wilk(samples: torch.Tensor) -> torch.Tensor:
    """
    N (1 - W') in [0, N], with W' the squared correlation of sorted samples and Blom's scores.

    Not recommended: it does not depend on location and scale, so embeddings may drift or shrink. Its gradient grows as
    1 / std until the value jumps to N below a std of about 1e-4.

    Source: Shapiro and Francia, "An approximate analysis of variance test for normality", JASA 67 (1972). Differs:
    scores of Blom, "Statistical estimates and transformed beta-variables" (1958), and a floor under the variance.
    """
    ordered, positions = _order(samples, 0.375)
    scores = torch.special.ndtri(positions)
    centred = ordered - ordered.mean(1, keepdim=True)
    covariance = (scores * centred).mean(1)
    variances = scores.square().mean(0) * (centred.square().mean(1) + _SPREAD**2)
    return samples.shape[1] * (1 - covariance.square() / variances)


def entropy(samples: torch.Tensor) -> torch.Tensor:
    """
    N times an estimate of KL(law of the samples, N(0, 1)): cross entropy minus Vasicek's estimate of the entropy, from
    spacings m ranks up and m down with m = floor(sqrt(N) + 1/2), at least 1 and below N/2.

    The estimate is consistent but biased at finite N: too small in the bulk, by about 1 / (4 m), and of either sign at
    the ends. Times N this bias is not constant (see the module's table), and the minimum is negative. The standard
    deviation is about 0.25 sqrt(N). Spacings below 1e-4 count as 1e-4 and have no gradient, so a slice that has
    collapsed further is not pushed apart.

    Source: Vasicek, "A test for normality based on sample entropy", JRSS B 38 (1976).
    """
    num = samples.shape[1]
    window = max(1, min(math.floor(math.sqrt(num) + 0.5), (num - 1) // 2))
    ordered = samples.sort(1).values
    first, last = (end.expand(-1, window, -1) for end in (ordered[:, :1], ordered[:, -1:]))
    spacings = torch.cat([ordered[:, window:], last], 1) - torch.cat([first, ordered[:, :-window]], 1)
    estimate = (spacings.clamp_min(_SPREAD) * (num / (2 * window))).log().mean(1)
    return num * (0.5 * math.log(2 * math.pi) + 0.5 * samples.square().mean(1) - estimate)


def moments(samples: torch.Tensor) -> torch.Tensor:
    """
    Mean over k = 1 to 4 of N (m_k - mu_k)^2 / Var(x^k), with raw moments m_k of the sample and mu_k of N(0, 1). The
    terms are correlated, so their sum is not a chi^2. Not recommended, see the module.

    Source: the moment matching of arXiv 2511.08544, theorem 3. Differs: weights 1 / Var(x^k).
    """
    null = ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96))
    terms = [(samples.pow(k).mean(1) - mean).square() / variance for k, mean, variance in null]
    return samples.shape[1] * sum(terms, samples.new_zeros(())) / len(terms)


def extended_jarque_bera(samples: torch.Tensor) -> torch.Tensor:
    """
    Sum over k = 1 to 4 of N mean(He_k(x))^2 / k!, Neyman's smooth test with Hermite polynomials He_k.

    It stands in for the textbook's N (mean^2 + (var - 1)^2 / 2 + skewness^2 / 6 + (kurtosis - 3)^2 / 24). For normal
    samples their difference tends to 0, and both tend to a chi^2 with 4 degrees of freedom. Far from N(0, 1) they
    differ: this one does not divide by a vanishing variance, and its skewness and kurtosis are taken about 0 and 1,
    not about the sample's mean and variance. Not recommended, see the module.

    Source: Jarque and Bera, "A test for normality of observations and regression residuals", Int. Stat. Rev. 55
    (1987), extended as in arXiv 2511.08544; Rayner and Best, "Smooth tests of goodness of fit" (1989).
    """
    square = samples.square()
    hermite = (samples, square - 1, samples * (square - 3), square * (square - 6) + 3)
    terms = [values.mean(1).square() / math.factorial(k) for k, values in enumerate(hermite, 1)]
    return samples.shape[1] * sum(terms, samples.new_zeros(()))


def vcreg(samples: torch.Tensor) -> torch.Tensor:
    """
    N (mean^2 + (std - 1)^2), VICReg's constraints in one dimension; the std has N - 1 in its denominator. Not
    recommended, see the module.

    Source: arXiv 2105.04906 and, as a univariate statistic, arXiv 2511.08544. Differs: the factor N, and no hinge on
    the std.
    """
    std = (samples.var(1) + _SPREAD**2).sqrt()
    return samples.shape[1] * (samples.mean(1).square() + (std - 1).square())
