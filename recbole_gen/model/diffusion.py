"""Gaussian diffusion over item vectors: schedules, forward process, posterior, samplers, guidance.

Nothing here knows of items, users or encoders. All denoisers predict the clean vector x0.

Index convention: arrays have length T; index ``t`` (0-based) is step ``t + 1`` of the papers, and the signal level
before the first step is 1. Coefficients are computed in float64 and kept as float32 buffers that are not part of
checkpoints: they follow from the configuration.

Sources: Ho et al. 2020 (DDPM) eq. 4, 6, 7; Song et al. 2021 (DDIM) eq. 12 with eta = 0; Ho and Salimans 2021
(classifier-free guidance).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from recbole_gen.errors import UserError

SCHEDULES = ("linear", "exp", "cosine", "sqrt")
LEVEL_SCHEDULES = ("sqrt", "cosine", "linear")

Denoiser = Callable[[torch.Tensor, int], torch.Tensor]
"""(x_t [B, d], t) -> predicted x0 [B, d]"""


def beta_schedule(name: str, timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Noise rates beta_t of the four schedules that DreamRec and PreferDiff use, float64 [T].

    ``linear``: equally spaced from ``beta_start`` to ``beta_end``, not rescaled with T (so a short chain ends far from
    pure noise: alphas_cumprod is 0.13 at T = 200).
    ``exp``: the discretised variance-preserving SDE with rates 0.1 to 10.
    ``cosine``: Nichol and Dhariwal 2021 eq. 17, with rates clipped to [1e-4, 0.9999].
    ``sqrt``: Li et al. 2022 (Diffusion-LM) appendix A, with rates clipped at 0.999: without the clip the last one
    exceeds 1 and the noise level becomes the root of a negative number.

    Raises UserError for an unknown name or ``timesteps`` < 2.
    """
    if timesteps < 2:
        raise UserError(f"timesteps must be at least 2, got {timesteps}")
    if name == "linear":
        return np.linspace(beta_start, beta_end, timesteps, dtype=np.float64)
    if name == "exp":
        slowest, fastest = 0.1, 10.0
        x = np.linspace(1, 2 * timesteps + 1, timesteps, dtype=np.float64)
        return 1 - np.exp(-slowest / timesteps - x * (fastest - slowest) / (2 * timesteps**2))
    u = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    if name == "cosine":
        level = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.clip(1 - level[1:] / level[:-1], 1e-4, 0.9999)
    if name == "sqrt":
        level = 1 - np.sqrt(u + 1e-4)
        return np.minimum(1 - level[1:] / level[:-1], 0.999)
    raise UserError(f"unknown noise schedule '{name}': choose one of {', '.join(SCHEDULES)}")


def level_schedule(name: str, timesteps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Noise rates beta_t, float64 [T], of schedules given by their levels alphas_cumprod; DiffRec section 5.3.1.

    ``sqrt``: 1 - sqrt(n / N + 1e-4) for n = 1..N. ``cosine``: g(n) / g(0) with g(n) = cos^2 of a quarter turn.
    ``linear``: as in `beta_schedule`. They differ from those of `beta_schedule` in that the level before the first step
    is 1 (so ``sqrt`` begins with a large rate) and no rate is raised to a minimum. Rates are clipped at 0.999: the
    formulas end in a level of -5e-5 (``sqrt``) and of 0 (``cosine``), whose root and quotient are no numbers.

    Raises UserError for an unknown name or ``timesteps`` < 2.
    """
    if name == "linear":
        return beta_schedule(name, timesteps, beta_start, beta_end)
    if name not in LEVEL_SCHEDULES:
        raise UserError(f"unknown noise schedule '{name}': choose one of {', '.join(LEVEL_SCHEDULES)}")
    if timesteps < 2:
        raise UserError(f"timesteps must be at least 2, got {timesteps}")
    u = np.arange(timesteps + 1, dtype=np.float64) / timesteps
    if name == "cosine":
        level = np.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    else:
        level = np.append(1.0, 1 - np.sqrt(u[1:] + 1e-4))
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Classifier-free guidance, (1 + w) f(h) - w f(null); DreamRec eq. 15.

    Applied to two predictions or, where the denoiser is affine in its condition, to the two conditions themselves:
    both give the same prediction, the second with one network call.
    """
    return (1 + guidance_scale) * conditional - guidance_scale * unconditional


@dataclass(frozen=True)
class ClosedForm:
    """A whole reverse chain in one step: x0 = h @ H.T + m + z @ factor.T with z ~ N(0, I).

    H [d, d_h], m [d], factor [d, d]. For DDIM, z is the chain's start x_T itself.
    """

    H: torch.Tensor
    m: torch.Tensor
    factor: torch.Tensor

    def mean(self, h: torch.Tensor) -> torch.Tensor:
        """Expectation over all draws, [B, d], of what the chain generates for conditions h [B, d_h]."""
        return torch.addmm(self.m, h, self.H.T)

    def sample(self, h: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """The chain's draw, [B, d], for conditions h [B, d_h] and standard normal z [B, d]."""
        return torch.addmm(self.mean(h), z, self.factor.T)

    def to(self, like: torch.Tensor) -> ClosedForm:
        """The same with device and precision of ``like``."""
        return ClosedForm(self.H.to(like), self.m.to(like), self.factor.to(like))


class GaussianDiffusion(nn.Module):
    """A fixed noising process of ``len(betas)`` steps and its reversal, for vectors [B, d].

    Buffers (float32, [T]): ``betas``, ``alphas_cumprod``, and the posterior's ``posterior_coef_x0``,
    ``posterior_coef_xt``, ``posterior_variance``.
    """

    betas: torch.Tensor
    alphas_cumprod: torch.Tensor
    posterior_coef_x0: torch.Tensor
    posterior_coef_xt: torch.Tensor
    posterior_variance: torch.Tensor

    def __init__(self, betas: np.ndarray):
        super().__init__()
        betas = np.asarray(betas, dtype=np.float64)
        if not ((betas > 0) & (betas < 1)).all():
            raise UserError("noise rates must lie strictly between 0 and 1")
        self.timesteps = len(betas)
        alphas_cumprod = np.cumprod(1 - betas)
        previous = np.append(1.0, alphas_cumprod[:-1])
        # DDPM eq. 6-7. DreamRec's eq. 7 prints a wrong index and eq. 16 misplaced roots and bars; chains run with the
        # printed forms diverge (tests/model/test_diffusion.py shows it).
        self._coefficients = {
            "betas": betas,
            "alphas_cumprod": alphas_cumprod,
            "posterior_coef_x0": np.sqrt(previous) * betas / (1 - alphas_cumprod),
            "posterior_coef_xt": np.sqrt(1 - betas) * (1 - previous) / (1 - alphas_cumprod),
            "posterior_variance": betas * (1 - previous) / (1 - alphas_cumprod),
        }
        for name, values in self._coefficients.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def q_sample(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) noise; x0 and noise [B, d], t [B] in 0..T-1."""
        level = self.alphas_cumprod[t].unsqueeze(-1)  # [B, 1]: one noise level a row
        return level.sqrt() * x0 + (1 - level).sqrt() * noise

    def q_posterior(self, x0: torch.Tensor, x_t: torch.Tensor, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean [B, d] and variance (a scalar) of q(x_{t-1} | x_t, x0); DDPM eq. 6-7, DreamRec eq. 6-7."""
        mean = self.posterior_coef_x0[t] * x0 + self.posterior_coef_xt[t] * x_t
        return mean, self.posterior_variance[t]

    @torch.no_grad()
    def ancestral_sample(
        self,
        denoise: Denoiser,
        x_T: torch.Tensor,
        randn: Callable[[], torch.Tensor],
        reverse_variance: str = "posterior",
    ) -> torch.Tensor:
        """Run all T reverse steps; DreamRec algorithm 2, DiffRec algorithm 2.

        The last step adds no noise, so T - 1 draws of ``randn() -> [B, d]`` are used, scaled to the ``posterior``'s
        variance (DreamRec eq. 16 and code; line 7 of its algorithm prints the other) or to ``beta`` (DiffRec eq. 4).
        """
        x = x_T
        for t in reversed(range(self.timesteps)):
            x, variance = self.q_posterior(denoise(x, t), x, t)
            if t > 0:
                variance = {"posterior": variance, "beta": self.betas[t]}[reverse_variance]
                x = x + variance.sqrt() * randn()
        return x

    def ddim_steps(self, stride: int, compat: bool = False) -> list[int]:
        """The indices that the network is told, lowest first: stride-1, 2 stride-1, ..., T-1.

        ``compat`` counts as PreferDiff's code: 0, stride, ..., T, one call more. Its index is one too high for the
        noise at hand, and T itself never occurs in training; x0 is found all the same.

        Raises UserError unless the stride divides T: otherwise the chain would start below the last noise level.
        """
        if stride < 1 or self.timesteps % stride:
            raise UserError(f"ddim_stride ({stride}) must divide timesteps ({self.timesteps})")
        return list(range(0, self.timesteps + 1, stride) if compat else range(stride - 1, self.timesteps, stride))

    def _ddim_coefficients(self, stride: int, compat: bool) -> list[tuple[int, float, float]]:
        """For each visited t, last first: (t, A, B) of x <- A f(x, t) + B x; DDIM eq. 12 for predictions of x0."""
        steps = self.ddim_steps(stride, compat)
        levels = self._coefficients["alphas_cumprod"][[max(t - compat, 0) for t in steps]]
        coefficients = []
        for t, a, a_next in zip(reversed(steps), levels[::-1], [*levels[-2::-1], 1.0], strict=True):
            B = math.sqrt(1 - a_next) / math.sqrt(1 - a)
            coefficients.append((t, math.sqrt(a_next) - B * math.sqrt(a), B))
        return coefficients

    @torch.no_grad()
    def ddim_sample(self, denoise: Denoiser, x_T: torch.Tensor, stride: int, compat: bool = False) -> torch.Tensor:
        """Deterministic sampling with one call for each of `ddim_steps`; the result is the last predicted x0."""
        x = x_T
        for t, A, B in self._ddim_coefficients(stride, compat):
            x0 = denoise(x, t)
            x = x0 if B == 0 else A * x0 + B * x
        return x

    def closed_form(
        self,
        Wx: torch.Tensor,
        Wh: torch.Tensor,
        offset: torch.Tensor,
        ddim_stride: int | None = None,
        ddim_compat: bool = False,
    ) -> ClosedForm:
        """Compose the chain of an affine denoiser f(x, h, t) = x Wx.T + h Wh.T + offset[t] into one Gaussian.

        Every reverse step is x <- (A_t Wx + B_t I) x + A_t (Wh h + offset_t) + sigma_t z. With P_t the product of the
        steps after t, all of them together are x0 = P x_T + sum_t P_t (A_t (Wh h + offset_t) + sigma_t z_t), which for
        independent z_t is N(H h + m, S). All P_t are polynomials of Wx, so in its eigenvectors they are diagonal and
        the sums cost d^3 + T d^2; if these are too ill-conditioned for that, the products are formed, T d^3.

        Args:
            Wx: [d, d]; Wh: [d, d_h].
            offset: bias and step term of every index, [T, d]; for a DDIM chain of those in `ddim_steps`, in that order.
            ddim_stride, ddim_compat: no stride for the ancestral chain, whose law is returned exactly; else the DDIM
                chain, returned as the map of x_T.

        Returns the composition in float64 on the CPU, good for one set of weights.
        """
        Wx, Wh, offset = (tensor.detach().double().cpu() for tensor in (Wx, Wh, offset))
        if ddim_stride is None:
            c = self._coefficients
            A, B = torch.from_numpy(c["posterior_coef_x0"]), torch.from_numpy(c["posterior_coef_xt"])
            variance = torch.from_numpy(c["posterior_variance"])
        else:
            chain = torch.tensor(self._ddim_coefficients(ddim_stride, ddim_compat)[::-1], dtype=torch.float64)
            A, B = chain[:, 1], chain[:, 2]
            variance = torch.zeros_like(A)
        eigenvalues, Q = torch.linalg.eig(Wx)
        if torch.linalg.cond(Q) < 1e3:  # then results in the eigenvectors keep ten digits of float64
            A_sum, m, S, P = _compose_diagonally(eigenvalues, Q, A, B, offset, variance)
        else:
            A_sum, m, S, P = _compose_by_products(Wx, A, B, offset, variance)
        if ddim_stride is not None:
            return ClosedForm(A_sum @ Wh, m, P)
        values, vectors = torch.linalg.eigh(S + P @ P.T)
        return ClosedForm(A_sum @ Wh, m, vectors * values.clamp(min=0).sqrt())


# Both return sum_t A_t P_t, m, sum_t variance_t P_t P_t' and P; the arrays run from t = 0, the last step, upwards.


def _compose_diagonally(eigenvalues, Q, A, B, offset, variance) -> tuple[torch.Tensor, ...]:
    inverse = torch.linalg.inv(Q)
    steps = A.unsqueeze(1) * eigenvalues + B.unsqueeze(1)  # [T, d]
    products = torch.cat([torch.ones_like(steps[:1]), steps.cumprod(0)])
    p, last = products[:-1], products[-1]
    A_sum = Q * (A.to(p.dtype) @ p) @ inverse
    m = Q @ (A.unsqueeze(1) * p * (offset.to(p.dtype) @ inverse.T)).sum(0)
    noisy = variance.sqrt().unsqueeze(1) * p
    S = Q @ ((inverse @ inverse.mH) * (noisy.T @ noisy.conj())) @ Q.mH
    return A_sum.real, m.real, S.real, (Q * last @ inverse).real


def _compose_by_products(Wx, A, B, offset, variance) -> tuple[torch.Tensor, ...]:
    P = torch.eye(len(Wx), dtype=torch.float64)  # what the steps after t make of x_t
    A_sum, m, S = torch.zeros_like(P), torch.zeros_like(P[0]), torch.zeros_like(P)
    for a, b, c, v in zip(A.tolist(), B.tolist(), offset, variance.tolist(), strict=True):
        if v > 0:
            S.addmm_(P, P.T, alpha=v)
        A_sum.add_(P, alpha=a)
        m.addmv_(P, c, alpha=a)
        P = torch.addmm(P, P, Wx, beta=b, alpha=a)
    return A_sum, m, S, P
