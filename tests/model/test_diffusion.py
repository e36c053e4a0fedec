"""The diffusion core against independent formulas: brute-force Bayes, hand-made chains, exact denoisers."""

import math

import numpy as np
import pytest
import torch

from recbole_gen.errors import UserError
from recbole_gen.model.diffusion import (
    LEVEL_SCHEDULES,
    SCHEDULES,
    GaussianDiffusion,
    beta_schedule,
    guide,
    level_schedule,
)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def exact(betas: np.ndarray) -> GaussianDiffusion:
    """A process whose buffers are float64, from the formulas written out here (the module keeps float32)."""
    diffusion = GaussianDiffusion(betas)
    abar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], abar[:-1]])
    diffusion.alphas_cumprod = torch.tensor(abar)
    diffusion.posterior_coef_x0 = torch.tensor(np.sqrt(before) * betas / (1 - abar))
    diffusion.posterior_coef_xt = torch.tensor(np.sqrt(1 - betas) * (1 - before) / (1 - abar))
    diffusion.posterior_variance = torch.tensor((1 - before) / (1 - abar) * betas)
    return diffusion


def printed(betas: np.ndarray, equation: int) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of x0 and x_t as DreamRec prints them."""
    abar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], abar[:-1]])
    if equation == 7:
        return np.sqrt(before) * betas / (1 - abar), np.sqrt(1 - betas) * (1 - abar) / (1 - abar)
    return np.sqrt(before * betas) / (1 - abar), np.sqrt(abar * (1 - before)) / (1 - abar)


def affine_denoiser(timesteps: int, d: int, d_h: int, dtype: torch.dtype):
    """Random f(x, h, t) = x Wx' + h Wh' + offset[t], tame enough that a chain neither explodes nor forgets its noise.

    Returns the three tensors and f as a function of (x, h, t).
    """
    generator = torch.Generator().manual_seed(7)
    Wx = 0.8 * torch.eye(d) + 0.2 / math.sqrt(d) * torch.randn(d, d, generator=generator)
    Wh = torch.randn(d, d_h, generator=generator) / math.sqrt(d_h)
    offset = torch.randn(timesteps, d, generator=generator)
    Wx, Wh, offset = Wx.to(dtype), Wh.to(dtype), offset.to(dtype)
    return (Wx, Wh, offset), lambda x, h, t: x @ Wx.T + h @ Wh.T + offset[t]


# Schedules


@pytest.mark.parametrize(
    ("name", "last_level"),
    [
        ("linear", {50: 0.603, 100: 0.364, 200: 0.132, 500: 6.353e-3, 1000: 4.04e-5, 2000: 1.63e-9}),
        ("exp", {50: 5.81e-3, 100: 6.10e-3, 200: 6.25e-3, 500: 6.346e-3, 1000: 6.38e-3, 2000: 6.39e-3}),
        ("cosine", {50: 9.71e-8, 100: 2.43e-8, 200: 6.07e-9, 500: 9.71e-10, 1000: 2.43e-10, 2000: 6.06e-11}),
        ("sqrt", {50: 1.01e-5, 100: 5.01e-6, 200: 2.48e-6, 500: 9.60e-7, 1000: 4.55e-7, 2000: 2.02e-7}),
    ],
)
def test_T01_last_signal_level(name, last_level):
    for timesteps, level in last_level.items():
        diffusion = GaussianDiffusion(beta_schedule(name, timesteps))
        assert diffusion.alphas_cumprod[-1].item() == pytest.approx(level, rel=0.01)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("linear", 1e-4, 0.02), ("exp", 2.20e-4, 0.0198), ("cosine", 1e-4, 0.9999), ("sqrt", 0.0362, 0.999)],
)
def test_T01_first_and_last_rate_of_500_steps(name, first, last):
    betas = beta_schedule(name, 500)
    assert betas[[0, -1]] == pytest.approx([first, last], rel=0.01)
    assert 1 - betas[-1] == pytest.approx(1 - last, rel=0.01)  # the clips, where 1 % of the rate would say nothing


@pytest.mark.parametrize("timesteps", [2, 10, 50, 500, 2000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_T01_rates_are_probabilities_and_the_signal_fades(name, timesteps):
    betas = beta_schedule(name, timesteps)
    assert betas.shape == (timesteps,) and betas.dtype == np.float64
    assert ((betas > 0) & (betas < 1)).all()
    diffusion = GaussianDiffusion(betas)
    level = diffusion.alphas_cumprod
    assert (level.diff() < 0).all() and level[-1] > 0 and level[0] < 1
    for name in ("betas", "alphas_cumprod", "posterior_coef_x0", "posterior_coef_xt", "posterior_variance"):
        values = getattr(diffusion, name)
        assert values.dtype == torch.float32 and values.shape == (timesteps,) and values.isfinite().all()
        assert (values >= 0).all()


def test_T01_closed_expressions_of_exp_and_sqrt():
    for timesteps in (2, 50, 500):
        level = np.cumprod(1 - beta_schedule("exp", timesteps))
        assert level[-1] == pytest.approx(math.exp(-5.05 - 4.95 / timesteps), rel=1e-9)
        level = np.cumprod(1 - beta_schedule("sqrt", timesteps))
        n = np.arange(1, timesteps)
        assert level[:-1] == pytest.approx((1 - np.sqrt(n / timesteps + 1e-4)) / 0.99, rel=1e-9)


def test_T01_linear_rates_are_configurable_and_bad_ones_are_refused():
    assert beta_schedule("linear", 3, 0.1, 0.3) == pytest.approx([0.1, 0.2, 0.3])
    with pytest.raises(UserError, match=r"unknown noise schedule 'quadratic'.*linear, exp, cosine, sqrt"):
        beta_schedule("quadratic", 10)
    with pytest.raises(UserError, match="timesteps must be at least 2"):
        beta_schedule("linear", 1)
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="between 0 and 1"):
            GaussianDiffusion(np.array([0.1, bad]))


def test_T01_coefficients_stay_out_of_checkpoints():
    assert not GaussianDiffusion(beta_schedule("exp", 10)).state_dict()


@pytest.mark.parametrize("timesteps", [2, 10, 50, 500, 1000, 2000])
@pytest.mark.parametrize("name", LEVEL_SCHEDULES)
def test_T01_given_levels_make_rates_that_are_probabilities(name, timesteps):
    betas = level_schedule(name, timesteps)
    assert betas.shape == (timesteps,) and betas.dtype == np.float64
    assert ((betas > 0) & (betas < 1)).all()
    diffusion = GaussianDiffusion(betas)
    level = diffusion.alphas_cumprod
    assert (level.diff() < 0).all() and level[-1] > 0 and level[0] < 1
    assert all(values.isfinite().all() for values in diffusion.buffers())


@pytest.mark.parametrize("timesteps", [2, 10, 50, 500, 1000, 2000])
def test_T01_levels_are_those_that_diffrec_prints(timesteps):
    """At n = N the printed ones are negative (sqrt) and 0 (cosine); that rate is clipped at 0.999."""

    def g(n):
        return np.cos((n / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    n = np.arange(1, timesteps + 1)
    for name, printed_levels in (("sqrt", 1 - np.sqrt(n / timesteps + 1e-4)), ("cosine", g(n) / g(0))):
        level = np.cumprod(1 - level_schedule(name, timesteps))
        assert printed_levels[-1] < 1e-30 and (printed_levels[:-1] > 0).all()
        assert level[:-1] == pytest.approx(printed_levels[:-1], rel=1e-9)
        assert level[-1] == pytest.approx(0.001 * level[-2], rel=1e-9)


def test_T01_ends_of_diffrecs_default_of_1000_steps():
    assert level_schedule("sqrt", 1000)[0] == pytest.approx(0.0332, abs=5e-5)  # the level before the first step is 1
    assert beta_schedule("sqrt", 1000)[0] < 0.03  # and here 0.99
    for name in ("sqrt", "cosine"):
        assert math.sqrt(np.prod(1 - level_schedule(name, 1000))) <= 0.003


def test_T01_given_levels_refuse_what_they_do_not_know():
    assert np.array_equal(level_schedule("linear", 7, 0.1, 0.3), beta_schedule("linear", 7, 0.1, 0.3))
    with pytest.raises(UserError, match=r"unknown noise schedule 'exp'.*sqrt, cosine, linear"):
        level_schedule("exp", 10)
    for name in LEVEL_SCHEDULES:
        with pytest.raises(UserError, match="timesteps must be at least 2, got 1"):
            level_schedule(name, 1)


# Forward process and posterior


@pytest.mark.parametrize("t", [0, 250, 499])
def test_T02_q_sample_moments(t):
    n, x0 = 200_000, 1.7
    betas = beta_schedule("exp", 500)
    level = np.prod(1 - betas[: t + 1])
    x = GaussianDiffusion(betas).q_sample(torch.full((n, 1), x0), torch.full((n,), t), torch.randn(n, 1)).double()
    std = math.sqrt(1 - level)
    assert x.mean().item() == pytest.approx(math.sqrt(level) * x0, abs=4 * std / math.sqrt(n))
    assert x.std().item() == pytest.approx(std, abs=4 * std / math.sqrt(2 * n))


def test_T02_q_sample_has_one_noise_level_a_row():
    betas = beta_schedule("exp", 10)
    t = torch.tensor([0, 4, 9])
    signal, noise = torch.ones(3, 3), torch.zeros(3, 3)  # square, so that a level along d would not fail by its shape
    level = torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)[t].unsqueeze(1).expand(3, 3)
    diffusion = GaussianDiffusion(betas)
    torch.testing.assert_close(diffusion.q_sample(signal, t, noise), level.sqrt())
    torch.testing.assert_close(diffusion.q_sample(noise, t, signal), (1 - level).sqrt())


def bayes_posterior(betas: np.ndarray, t: int, x0: float, x_t: float) -> tuple[float, float]:
    """Mean and variance of p(x_{t-1} | x_t, x0), prior times likelihood, on a grid; t is 0-based."""
    level = np.prod(1 - betas[:t])
    grid = np.linspace(-8, 8, 400_001)
    log_p = -((grid - math.sqrt(level) * x0) ** 2) / (2 * (1 - level))
    log_p -= (x_t - math.sqrt(1 - betas[t]) * grid) ** 2 / (2 * betas[t])
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = (p * grid).sum()
    return mean, (p * (grid - mean) ** 2).sum()


@pytest.mark.parametrize("step", [2, 50, 100])
@pytest.mark.parametrize("name", SCHEDULES)
def test_T03_posterior_equals_bayes(name, step):
    betas, x0, x_t = beta_schedule(name, 100), 1.7, -0.6
    mean, variance = GaussianDiffusion(betas).q_posterior(torch.tensor([[x0]]), torch.tensor([[x_t]]), step - 1)
    expected_mean, expected_variance = bayes_posterior(betas, step - 1, x0, x_t)
    assert mean.item() == pytest.approx(expected_mean, abs=1e-6)
    assert variance.item() == pytest.approx(expected_variance, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_T03_posterior_keeps_a_noiseless_path_noiseless(name):
    betas = beta_schedule(name, 100)
    level = np.cumprod(1 - betas)
    diffusion, x0 = exact(betas), torch.tensor([[1.7]], dtype=torch.float64)
    for t in (1, 49, 99):
        mean, _ = diffusion.q_posterior(x0, math.sqrt(level[t]) * x0, t)
        assert mean.item() == pytest.approx(math.sqrt(level[t - 1]) * 1.7, rel=1e-9)


@pytest.mark.parametrize("equation", [7, 16])
def test_T03_coefficients_printed_in_dreamrec_are_not_the_posterior(equation):
    betas, x0, x_t = beta_schedule("linear", 100), 1.7, -0.6
    coef_x0, coef_xt = printed(betas, equation)
    for t in (1, 49, 99):
        right, _ = bayes_posterior(betas, t, x0, x_t)
        assert abs(coef_x0[t] * x0 + coef_xt[t] * x_t - right) > 1e-3


# Chains


def standard_normal_chain(diffusion: GaussianDiffusion, n: int = 20_000) -> torch.Tensor:
    """What a chain generates with the optimal denoiser of N(0, 1) data, E[x0 | x_t] = sqrt(abar_t) x_t."""
    root = diffusion.alphas_cumprod.sqrt()
    return diffusion.ancestral_sample(lambda x, t: root[t] * x, torch.randn(n, 1), lambda: torch.randn(n, 1))


@pytest.mark.parametrize(("name", "timesteps"), [("linear", 200), ("exp", 200), ("cosine", 200), ("sqrt", 2000)])
def test_T04_chain_generates_standard_normal_data(name, timesteps):
    # The posterior's variance is a little too small for data with spread: sqrt's coarse steps lose 5 % at T = 200.
    x = standard_normal_chain(GaussianDiffusion(beta_schedule(name, timesteps)))
    assert 0.97 < x.std().item() < 1.03
    assert abs(x.mean().item()) < 0.03


@pytest.mark.parametrize("equation", [7, 16])
def test_T04_chain_with_the_printed_coefficients_diverges(equation):
    betas = beta_schedule("linear", 200)
    diffusion = GaussianDiffusion(betas)
    coef_x0, coef_xt = printed(betas, equation)
    diffusion.posterior_coef_x0 = torch.tensor(coef_x0, dtype=torch.float32)
    diffusion.posterior_coef_xt = torch.tensor(coef_xt, dtype=torch.float32)
    x = standard_normal_chain(diffusion)
    assert not x.std() < 1000  # NaN counts as divergence


def generated_std(diffusion: GaussianDiffusion, reverse_variance: str) -> float:
    """As above but without chance: a linear chain is known from its answers to each unit noise."""
    timesteps, root = diffusion.timesteps, diffusion.alphas_cumprod.sqrt()
    noises = iter(torch.eye(timesteps).unsqueeze(-1))
    x_T = next(noises)
    effects = diffusion.ancestral_sample(lambda x, t: root[t] * x, x_T, lambda: next(noises), reverse_variance)
    return effects.norm().item()


@pytest.mark.parametrize("name", LEVEL_SCHEDULES)
@pytest.mark.parametrize("timesteps", [20, 200])
def test_T04_reverse_variance_beta_keeps_standard_normal_data(name, timesteps):
    """x_n is N(0, 1) at every n, so that q(x_{n-1} | x_n) has variance beta_n; the last step adds none and loses it."""
    betas = level_schedule(name, timesteps)
    diffusion = GaussianDiffusion(betas)
    assert generated_std(diffusion, "beta") == pytest.approx(math.sqrt(1 - betas[0]), abs=1e-4)
    assert generated_std(diffusion, "posterior") < generated_std(diffusion, "beta") - 0.005


def test_T04_reverse_variances_of_200_linear_steps():
    diffusion = GaussianDiffusion(level_schedule("linear", 200))
    assert generated_std(diffusion, "beta") == pytest.approx(1.000, abs=5e-4)
    assert generated_std(diffusion, "posterior") == pytest.approx(0.990, abs=1e-3)


@pytest.mark.parametrize(("name", "std"), [("linear", 0.26), ("sqrt", 0.35)])
def test_T04_coefficients_printed_in_diffrec_eq_3_shrink_the_data(name, std):
    betas = level_schedule(name, 200)
    diffusion, abar = GaussianDiffusion(betas), np.cumprod(1 - betas)
    before = np.append(1.0, abar[:-1])
    diffusion.posterior_coef_xt = torch.tensor(np.sqrt(abar) * (1 - before) / (1 - abar), dtype=torch.float32)
    assert generated_std(diffusion, "beta") == pytest.approx(std, abs=0.01)


@pytest.mark.parametrize(("names", "rate"), [((), "posterior"), (("posterior",), "posterior"), (("beta",), "beta")])
def test_T04_noise_of_a_step_has_the_named_variance(names, rate):
    diffusion = GaussianDiffusion(level_schedule("sqrt", 2))
    level, beta = 1 - math.sqrt(0.5001), 0.999
    variance = {"beta": beta, "posterior": beta * (1 - level) / (1 - level * (1 - beta))}[rate]
    noise, seen = torch.randn(3, 2), []

    def denoise(x, t):
        seen.append(x)
        return torch.zeros_like(x)

    diffusion.ancestral_sample(denoise, torch.zeros(3, 2), lambda: noise, *names)
    torch.testing.assert_close(seen[1], math.sqrt(variance) * noise)


@pytest.mark.parametrize("name", SCHEDULES)
def test_T08_last_step_returns_the_prediction_without_noise(name):
    timesteps, draws, predictions = 10, [], []

    def randn():
        draws.append(torch.randn(4, 3))
        return draws[-1]

    def denoise(x, t):
        predictions.append((t, torch.randn(4, 3)))
        return predictions[-1][1]

    x = GaussianDiffusion(beta_schedule(name, timesteps)).ancestral_sample(denoise, torch.randn(4, 3), randn)
    assert [t for t, _ in predictions] == list(reversed(range(timesteps)))
    assert torch.equal(x, predictions[-1][1])
    assert len(draws) == timesteps - 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 4, 10, 40])
def test_T05_ddim_with_a_perfect_denoiser_is_exact(name, stride):
    timesteps, calls = 40, []
    x0 = torch.randn(5, 3)

    def perfect(x, t):
        calls.append(t)
        return x0

    x = GaussianDiffusion(beta_schedule(name, timesteps)).ddim_sample(perfect, torch.randn(5, 3), stride)
    assert torch.equal(x, x0)
    assert calls == list(range(timesteps - 1, -1, -stride))
    assert len(calls) == timesteps // stride and set(calls) <= set(range(timesteps))


def test_T05_ddim_follows_the_noiseless_ode_of_equation_12():
    """x_next = sqrt(abar_next) x0 + sqrt(1 - abar_next) eps, with the eps that the prediction x0 implies."""
    betas = beta_schedule("exp", 6)
    level = np.cumprod(1 - betas)
    _, f = affine_denoiser(6, 3, 2, torch.float64)
    h = torch.randn(4, 2, dtype=torch.float64)
    x = x_T = torch.randn(4, 3, dtype=torch.float64)
    for t in (5, 3, 1):
        x0 = f(x, h, t)
        eps = (x - math.sqrt(level[t]) * x0) / math.sqrt(1 - level[t])
        following = level[t - 2] if t > 1 else 1.0
        x = math.sqrt(following) * x0 + math.sqrt(1 - following) * eps
    out = GaussianDiffusion(betas).ddim_sample(lambda x, t: f(x, h, t), x_T, stride=2)
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 4, 10, 40])
def test_T05_compat_ddim_with_a_perfect_denoiser_is_exact(name, stride):
    timesteps, told = 40, []
    x0 = torch.randn(5, 3)

    def perfect(x, t):
        told.append(t)
        return x0

    diffusion = GaussianDiffusion(beta_schedule(name, timesteps))
    assert torch.equal(diffusion.ddim_sample(perfect, torch.randn(5, 3), stride, compat=True), x0)
    assert len(told) == timesteps // stride + 1
    assert told == list(range(timesteps, -1, -stride)) == diffusion.ddim_steps(stride, compat=True)[::-1]


def test_T05_compat_ddim_is_the_released_code_of_preferdiff():
    """It holds levels abar[0] and abar[n s - 1] (n = 1..T / s) and tells the network n s."""
    betas = beta_schedule("exp", 6)
    level = np.cumprod(1 - betas)
    _, f = affine_denoiser(7, 3, 2, torch.float64)  # T itself is told: one offset more
    h = torch.randn(4, 2, dtype=torch.float64)
    x = x_T = torch.randn(4, 3, dtype=torch.float64)
    levels = [level[5], level[3], level[1], level[0], 1.0]
    for told, at, following in zip((6, 4, 2, 0), levels, levels[1:], strict=False):
        x0 = f(x, h, told)
        eps = (x - math.sqrt(at) * x0) / math.sqrt(1 - at)
        x = math.sqrt(following) * x0 + math.sqrt(1 - following) * eps
    out = GaussianDiffusion(betas).ddim_sample(lambda x, t: f(x, h, t), x_T, stride=2, compat=True)
    torch.testing.assert_close(out, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [3, 11, 20, 0, -1])
def test_T06_compat_does_not_lift_the_need_to_divide(stride):
    diffusion, identity = GaussianDiffusion(beta_schedule("linear", 10)), torch.eye(2)
    with pytest.raises(UserError, match=rf"ddim_stride \({stride}\) must divide timesteps \(10\)"):
        diffusion.ddim_steps(stride, compat=True)
    with pytest.raises(UserError, match="must divide"):
        diffusion.ddim_sample(lambda x, t: x, identity, stride, compat=True)
    with pytest.raises(UserError, match="must divide"):
        diffusion.closed_form(identity, identity, torch.zeros(11, 2), ddim_stride=stride, ddim_compat=True)


@pytest.mark.parametrize("stride", [3, 11, 20, 0, -1])
def test_T06_ddim_stride_must_divide_the_steps(stride):
    diffusion = GaussianDiffusion(beta_schedule("linear", 10))
    identity = torch.eye(2)
    with pytest.raises(UserError, match=rf"ddim_stride \({stride}\) must divide timesteps \(10\)"):
        diffusion.ddim_steps(stride)
    with pytest.raises(UserError, match="must divide"):
        diffusion.ddim_sample(lambda x, t: x, identity, stride)
    with pytest.raises(UserError, match="must divide"):
        diffusion.closed_form(identity, identity, torch.zeros(10, 2), ddim_stride=stride)


def test_T07_ddim_with_the_exact_denoiser_of_gaussian_data():
    """The chain is affine in x_T ~ N(0, 1): its ends at x_T = 0 and 1 give the generated mean and deviation."""
    mean, std, betas = 1.5, 0.6, beta_schedule("linear", 2000)
    diffusion, level = GaussianDiffusion(betas), np.cumprod(1 - betas)

    def posterior_mean(x, t):
        root = math.sqrt(level[t])
        return mean + std**2 * root * (x - root * mean) / (level[t] * std**2 + 1 - level[t])

    spread = {}
    for stride in (100, 20, 1):
        at_0, at_1 = diffusion.ddim_sample(posterior_mean, torch.tensor([[0.0], [1.0]]).double(), stride).flatten()
        assert at_0.item() == pytest.approx(mean, abs=0.01)
        spread[stride] = (at_1 - at_0).item()
    assert spread[100] == pytest.approx(0.50, abs=0.005)
    assert spread[20] == pytest.approx(0.578, abs=0.002)
    assert spread[1] == pytest.approx(std, abs=0.002)


def test_T07_compat_ddim_finds_gaussian_data_though_told_a_step_too_high():
    mean, std, betas = 1.5, 0.6, beta_schedule("linear", 2000)
    diffusion, level = GaussianDiffusion(betas), np.cumprod(1 - betas)

    def posterior_mean(x, t):
        told = level[min(t, 1999)]  # the network believes the index, and has never seen 2000
        root = math.sqrt(told)
        return mean + std**2 * root * (x - root * mean) / (told * std**2 + 1 - told)

    start = torch.tensor([[0.0], [1.0]]).double()
    at_0, at_1 = diffusion.ddim_sample(posterior_mean, start, 100, compat=True).flatten()
    assert at_0.item() == pytest.approx(mean, abs=0.01)
    assert (at_1 - at_0).item() == pytest.approx(0.50, abs=0.005)


def test_T09_guidance_extrapolates_from_the_unconditional_prediction():
    f_h, f_null = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 1.0]])
    torch.testing.assert_close(guide(f_h, f_null, 2.0), 3 * f_h - 2 * f_null)  # eq. 15
    assert torch.equal(guide(f_h, f_null, 0), f_h)
    assert torch.equal(guide(f_h, f_null, -1), f_null)


# Closed form


@pytest.mark.parametrize("name", SCHEDULES)
def test_T11_closed_form_has_the_exact_mean_and_covariance_of_the_chain(name):
    """A chain that is affine in its T d noises is known from its answers to no noise and to each unit noise."""
    timesteps, d, d_h = 50, 5, 3
    diffusion = exact(beta_schedule(name, timesteps))
    weights, f = affine_denoiser(timesteps, d, d_h, torch.float64)
    closed = diffusion.closed_form(*weights)

    def chain(h, noises):  # noises [T, B, d]: x_T, then one for every step but the last
        rest = iter(noises[1:])
        return diffusion.ancestral_sample(lambda x, t: f(x, h, t), noises[0], lambda: next(rest))

    h = torch.cat([torch.zeros(1, d_h), torch.eye(d_h), torch.randn(4, d_h)]).double()
    means = chain(h, torch.zeros(timesteps, len(h), d, dtype=torch.float64))
    torch.testing.assert_close(closed.mean(h), means, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(closed.m, means[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(closed.H, (means[1 : d_h + 1] - means[0]).T, rtol=1e-9, atol=1e-9)

    units = torch.eye(timesteps * d, dtype=torch.float64).reshape(-1, timesteps, d).transpose(0, 1)
    effects = chain(torch.zeros(timesteps * d, d_h, dtype=torch.float64), units) - means[0]  # [T d, d]
    covariance = effects.T @ effects
    assert covariance.diagonal().min() > 1e-4  # there is something to compare
    torch.testing.assert_close(closed.factor @ closed.factor.T, covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("defective", [False, True])
def test_T11_closed_form_of_weights_without_eigenvectors(defective):
    """A Jordan block has a single eigenvector, so the composition must not rely on a basis of them."""
    timesteps, d = 30, 4
    diffusion = exact(beta_schedule("exp", timesteps))
    Wx = 0.7 * torch.eye(d, dtype=torch.float64) + torch.diag(torch.ones(d - 1, dtype=torch.float64), 1) * defective
    Wh, offset = torch.randn(d, 3).double(), torch.randn(timesteps, d).double()
    h, zeros = torch.randn(6, 3).double(), torch.zeros(6, d, dtype=torch.float64)
    chain = diffusion.ancestral_sample(lambda x, t: x @ Wx.T + h @ Wh.T + offset[t], zeros, lambda: zeros)
    torch.testing.assert_close(diffusion.closed_form(Wx, Wh, offset).mean(h), chain, rtol=1e-9, atol=1e-9)


def test_T11_closed_form_sample_is_mean_plus_factor_times_noise():
    weights, _ = affine_denoiser(10, 4, 3, torch.float64)
    closed = GaussianDiffusion(beta_schedule("exp", 10)).closed_form(*weights)
    h, z = torch.randn(6, 3).double(), torch.randn(6, 4).double()
    torch.testing.assert_close(closed.mean(h), h @ closed.H.T + closed.m)
    torch.testing.assert_close(closed.sample(h, z) - closed.mean(h), z @ closed.factor.T)
    single = closed.to(torch.zeros(1))
    assert single.mean(h.float()).dtype == single.factor.dtype == torch.float32


@pytest.mark.parametrize(("name", "timesteps"), [("exp", 2000), ("linear", 2000), ("cosine", 500)])
def test_T11_closed_form_mean_equals_the_noiseless_float32_chain(name, timesteps):
    d, w = 64, 2.0
    diffusion = GaussianDiffusion(beta_schedule(name, timesteps))
    weights, f = affine_denoiser(timesteps, d, d, torch.float32)
    h, null = torch.randn(20, d), torch.randn(d)
    zeros = torch.zeros(20, d)

    def guided(x, t):
        return guide(f(x, h, t), f(x, null, t), w)

    chain = diffusion.ancestral_sample(guided, zeros, lambda: zeros)
    closed = diffusion.closed_form(*weights).to(h)
    torch.testing.assert_close(closed.mean(guide(h, null, w)), chain, rtol=1e-4, atol=1e-4)


def test_T11_closed_form_covariance_equals_that_of_sampled_chains():
    timesteps, d, n = 200, 8, 20_000
    diffusion = GaussianDiffusion(beta_schedule("exp", timesteps))
    weights, f = affine_denoiser(timesteps, d, d, torch.float32)
    h = torch.randn(1, d)
    closed = diffusion.closed_form(*weights)
    expected = closed.factor @ closed.factor.T

    def agrees(samples):
        samples = samples.double()
        error = samples.T.cov() - expected
        variance = expected.diagonal()
        assert (error / ((variance[:, None] * variance + expected**2) / n).sqrt()).abs().max() < 4.5
        assert ((samples.mean(0) - closed.mean(h.double())) / (variance / n).sqrt()).abs().max() < 4.5

    agrees(diffusion.ancestral_sample(lambda x, t: f(x, h, t), torch.randn(n, d), lambda: torch.randn(n, d)))
    agrees(closed.sample(h.double().expand(n, d), torch.randn(n, d).double()))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 5, 50])
def test_T11_closed_form_of_ddim_equals_the_chain_from_the_same_start(name, stride):
    timesteps, d, d_h = 50, 6, 3
    diffusion = GaussianDiffusion(beta_schedule(name, timesteps))
    weights, f = affine_denoiser(timesteps, d, d_h, torch.float64)
    h, x_T = torch.randn(7, d_h).double(), torch.randn(7, d).double()
    chain = diffusion.ddim_sample(lambda x, t: f(x, h, t), x_T, stride)
    Wx, Wh, offset = weights
    closed = diffusion.closed_form(Wx, Wh, offset[diffusion.ddim_steps(stride)], ddim_stride=stride)
    torch.testing.assert_close(closed.sample(h, x_T), chain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("stride", [1, 5, 50])
def test_T11_closed_form_of_compat_ddim_equals_the_chain_from_the_same_start(name, stride):
    timesteps, d, d_h = 50, 6, 3
    diffusion = GaussianDiffusion(beta_schedule(name, timesteps))
    (Wx, Wh, offset), f = affine_denoiser(timesteps + 1, d, d_h, torch.float64)  # index T is told too
    h, x_T = torch.randn(7, d_h).double(), torch.randn(7, d).double()
    chain = diffusion.ddim_sample(lambda x, t: f(x, h, t), x_T, stride, compat=True)
    visited = offset[::stride]
    closed = diffusion.closed_form(Wx, Wh, visited, ddim_stride=stride, ddim_compat=True)
    torch.testing.assert_close(closed.sample(h, x_T), chain, rtol=1e-9, atol=1e-9)
