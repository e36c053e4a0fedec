"""PASRec: Chai et al., "When and What to Recommend: Joint Modeling of Timing and Content for Active Sequential
Recommendation". With its times switched off it is PreferDiff: Liu et al., "Preference Diffusion for
Recommendation", ICLR 2025.

A Transformer reads items and their times; one head predicts the time of interest (when the user will act next) and
enriches the guidance with it; a diffusion model, guided by that, generates the item of interest. The denoiser is
trained to do better on the item that came than on the mean of the other items of the batch.

    paper             here                 meaning
    TE(t), tau_j      time_encoding        vector of a time, eq. 3-5
    g_u               g                    user representation, section 4.3
    M_phi             toi_predictor        predicts tau_n, the time of interest, eq. 8
    g'_u              enriched             guidance with the predicted time in it, eq. 9-10; gamma mixes
    e_n^0, e_n^t      x0, x_t              target item, clean and noised, eq. 11
    e_n^0-            centroid             mean of negative items, section 4.5
    p_theta           denoise              predicts e_n^0, eq. 12
    Phi               null_guidance        learned stand-in for g'_u
    lambda, eta, k    lambda_, eta, kappa  weights of eq. 16, 17 and 15
    T, w              timesteps, guidance_scale

Differences from the paper (its code was never published; where it builds on PreferDiff, PreferDiff's code is followed)
    - Eq. 15 compares each vector with itself, and as similarities in the wrong direction: here errors of the two
      predictions, as in PreferDiff, and kappa is 5 as in its code, not the number of negatives.
    - Algorithm 1 forgets to drop the guidance, without which Phi of eq. 20 would never be trained; it is dropped after
      the time of interest is predicted.
    - alpha in eq. 18-21 and in the algorithms is abar (eq. 11).
    - Squared errors are averaged over the dimensions (eq. 14 prints a norm): `error: mse_sum` is the other.
    - The range over which times are scaled is not said: `time_range`. Sizes and the shapes of M_phi and of the MLP of
      eq. 9 are not said: PreferDiff's sizes, and two layers with GELU.
    - By default no gradient reaches the target's vector (`detach_target`, `detach_noised`); in PreferDiff's code one
      does.
Differences from PreferDiff's code
    - DDIM ends each stride at the noise level that the network is told (`ddim_compat: True` for the code's count), and
      its steps are composed into one map where the denoiser is linear and small (`sampler: auto`).
    - Padding is masked by item id; the centroid is (sum - own) / (B - 1), without a [B, B - 1, d] gather.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length, looked_up_once, used_lengths
from recbole_gen.model.day_search import search_days
from recbole_gen.model.diffusion import ClosedForm, GaussianDiffusion, beta_schedule, guide
from recbole_gen.model.dropout import Dropout
from recbole_gen.model.layers import (
    HistoryNoise,
    LinearOfParts,
    StepEmbedding,
    item_denoiser,
    one_of,
    sinusoid,
)

COMPOSED_UP_TO = 512
"""Largest hidden_size for which `sampler: auto` composes the steps: beyond, d x d products cost more than they save."""

PLACES = 1024
"""Places of a batch up to which its histories are read in one piece: most of the work is that of a row."""


class When(NamedTuple):
    """Predicted days of the next interaction, int64 [B] each, counted from 1970-01-01.

    ``day`` is the best, ``earliest`` and ``latest`` bound the days that cannot be told from it.
    """

    day: torch.Tensor
    earliest: torch.Tensor
    latest: torch.Tensor


class TimeEncoding(nn.Module):
    """TE(t) of times t in [0, 1], eq. 3-5; nothing in it is learned. Works in the precision of its input."""

    frequencies: torch.Tensor

    def __init__(self, name: str, size: int, sigma: float, freq: float, time_scale: float, seed: int):
        super().__init__()
        self.name, self.size, self.sigma, self.freq, self.time_scale = name, size, sigma, freq, time_scale
        if not (sigma > 0 and freq > 1 and time_scale > 0):
            raise UserError(
                f"sigma and time_scale must be positive and freq above 1, got {sigma}, {time_scale} and {freq}"
            )
        if name == "gaussian" and time_scale != 1:
            raise UserError(f"the gaussian encoding has its centers in [0, 1]: time_scale must be 1, got {time_scale}")
        if name == "rff":
            draw = torch.Generator().manual_seed(seed)
            self.register_buffer("frequencies", sigma * torch.randn(size // 2, generator=draw))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """t [...] -> [..., d]."""
        t = t * self.time_scale
        if self.name == "sinusoidal":
            return sinusoid(t, self.size, self.freq)
        if self.name == "gaussian":
            centers = torch.linspace(0, 1, self.size, dtype=t.dtype, device=t.device)
            return torch.exp(-((t.unsqueeze(-1) - centers) ** 2) / (2 * self.sigma**2))
        angles = 2 * math.pi * t.unsqueeze(-1) * self.frequencies.to(t.dtype)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class GuidanceEncoder(nn.Module):
    """One Transformer block, read at the last item: TR of section 4.3.

    As in PreferDiff's code: the query alone is normalised, scores are scaled by the full size, there is no output
    projection, the feed-forward net has inner size d and ReLU, and the input is added to the attention's result and
    that to the output.
    """

    def __init__(self, size: int, n_heads: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.query_norm, self.attention_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward_norm, self.output_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.value = nn.Linear(size, size), nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # a bias of the keys would cancel in the softmax
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.query.bias), nn.init.zeros_(self.value.bias)
        self.feed_forward = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), Dropout(dropout))
        self.dropout = Dropout(dropout)

    def forward(self, tokens: torch.Tensor, real: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        """Items with their times or positions [B, L, d], real [B, L], last [B] (index) -> g_u [B, d]."""
        rows = torch.arange(len(tokens), device=tokens.device)
        z = self.dropout(tokens) * real.unsqueeze(-1)
        q = self.query_norm(z[rows, last])
        # One query a row, so nothing is projected at every position: with the weights W of one head,
        # q'(Wk z_j) = (Wk'q)'z_j, and sum_j a_j (Wv z_j + b) = Wv (sum_j a_j z_j) + b sum_j a_j.
        heads = self.query(q).unflatten(-1, (self.n_heads, -1))  # [B, heads, d / heads]
        keys = torch.einsum("bhk,hkd->bhd", heads, self.key.weight.unflatten(0, (self.n_heads, -1)))
        hidden = ~real
        hidden[:, 0] = False  # an empty row attends to its padding token, not to nothing
        scores = keys @ z.transpose(1, 2) / z.shape[-1] ** 0.5  # [B, heads, L]
        weights = self.dropout(scores.masked_fill(hidden.unsqueeze(1), -torch.inf).softmax(dim=-1))
        value, bias = (part.unflatten(0, (self.n_heads, -1)) for part in (self.value.weight, self.value.bias))
        read = torch.einsum("bhd,hkd->bhk", weights @ z, value) + weights.sum(-1, keepdim=True) * bias
        residual = z[rows, last] + read.flatten(1) + q
        u = self.attention_norm(residual)
        out = self.feed_forward_norm(self.feed_forward(u) + u) * real[rows, last].unsqueeze(-1)
        return self.output_norm(residual + out)


class PASRec(SequentialRecommender):
    """The paper in the order of its section 4; every size and switch is described in properties/model/PASRec.yaml."""

    input_type = InputType.POINTWISE
    item_vectors_name = "item_embedding"
    loss_names: tuple[str, ...] = ("reconstruction", "preference", "toi")
    encodings: tuple[str, ...] = ("sinusoidal", "gaussian", "rff", "position")

    @staticmethod
    def needs_times(config) -> bool:
        """Whether this configuration reads times; the data set adds them, scaled, for a model that does."""
        return config["time_encoding"] != "position"

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        d, n_heads = config["hidden_size"], config["n_heads"]
        if d % n_heads:
            raise UserError(f"hidden_size must be a multiple of n_heads ({n_heads}), got {d}")
        self.uncond_prob, self.guidance_scale = config["uncond_prob"], config["guidance_scale"]
        self.lambda_, self.kappa = config["lambda_"], config["kappa"]
        self.gamma, self.eta = config["gamma"], config["eta"]
        for name in ("lambda_", "gamma", "eta"):
            if not 0 <= config[name] <= 1:
                raise UserError(f"{name} must be from 0 to 1, got {config[name]}")
        self.error_kind = one_of(config, "error", ("mse_mean", "mse_sum", "cos_sq"))
        self.negatives, self.num_negatives = one_of(config, "negatives", ("batch", "random")), config["num_negatives"]
        if self.num_negatives < 1:
            raise UserError(f"num_negatives must be at least 1, got {self.num_negatives}")
        self.detach_target, self.detach_noised = config["detach_target"], config["detach_noised"]
        self.oracle = one_of(config, "oracle", ("sample", "mean"))
        self.score_function = one_of(config, "score_function", ("inner", "cosine"))
        encoding = one_of(config, "time_encoding", self.encodings)
        self.uses_time = self.needs_times(config)

        # N(0, 1), the diffusion's unit variance: smaller initial vectors would drown in the noise of the first steps.
        self.item_embedding = nn.Embedding(self.n_items, d, padding_idx=0)
        self.encoder = GuidanceEncoder(d, n_heads, config["dropout_prob"])
        self.null_guidance = nn.Parameter(torch.randn(d))
        self.step_embedding = StepEmbedding(d)
        kind = one_of(config, "denoiser", ("linear", "mlp"))
        self.is_linear, self.denoiser = kind == "linear", item_denoiser(kind, d)
        if self.uses_time:
            self.TOI = config["TOI_FIELD"]
            self.TOI_SEQ = self.TOI + config["LIST_SUFFIX"]
            self.time_encoding = TimeEncoding(
                encoding, d, config["sigma"], config["freq"], config["time_scale"], config["seed"]
            )
            self.toi_predictor = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, d))  # M_phi
            self.fusion = nn.Sequential(nn.Linear(2 * d, d), nn.GELU(), nn.Linear(d, d))  # the MLP of eq. 9
            scale = dataset.day_range
            self.register_buffer("day_range", torch.tensor([scale.first, scale.last]))
        else:
            if self.gamma != 0 or self.eta != 1:
                raise UserError(
                    f"time_encoding: position reads no times and has none to predict, so gamma must be 0 and eta 1 "
                    f"(got {self.gamma} and {self.eta}); --model=PreferDiff has them so"
                )
            self.position_embedding = nn.Embedding(self.max_seq_length, d)  # N(0, 1), from the oldest kept item
            self.loss_names = self.loss_names[:2]

        self.diffusion = GaussianDiffusion(
            beta_schedule(config["noise_schedule"], config["timesteps"], config["beta_start"], config["beta_end"])
        )
        self.ddim_stride, self.ddim_compat = config["ddim_stride"], config["ddim_compat"]
        self.diffusion.ddim_steps(self.ddim_stride)  # refuses a stride that does not divide T
        sampler = one_of(config, "sampler", ("auto", "closed_form", "stepwise"))
        if sampler == "closed_form" and not self.is_linear:
            raise UserError("sampler: closed_form needs denoiser: linear; use sampler: stepwise (or auto)")
        self.use_closed_form = sampler == "closed_form" or (
            sampler == "auto" and self.is_linear and d <= COMPOSED_UP_TO
        )
        self.seed = config["seed"]
        self._closed_form: ClosedForm | None = None

    def train(self, mode: bool = True):
        self._closed_form = None  # the weights may change before the next evaluation
        return super().train(mode)

    def load_state_dict(self, state_dict, *args, **kwargs):
        """Raises UserError for weights that were trained with times on another scale."""
        self._closed_form = None
        if self.uses_time and "day_range" in state_dict:
            theirs, ours = state_dict["day_range"].tolist(), self.day_range.tolist()
            if theirs != ours:
                raise UserError(
                    f"these weights know the days {theirs[0]} to {theirs[1]} (since 1970-01-01) as times 0 to 1, and "
                    f"the data has {ours[0]} to {ours[1]}: use the times, the split and the time_range of their run"
                )
        return super().load_state_dict(state_dict, *args, **kwargs)

    # Time of interest, sections 4.2 and 4.3

    def represent(self, interaction) -> tuple[torch.Tensor, torch.Tensor | None]:
        """g_u [B, d] of eq. 7 and section 4.3, and the predicted time of interest, tau_n hat of eq. 8 [B, d].

        It is predicted from the history and its times alone. None without times.
        """
        item_seq = interaction[self.ITEM_SEQ]
        last = (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0)
        histories = [item_seq, interaction[self.TOI_SEQ]] if self.uses_time else [item_seq]
        g = encode_by_length(self._read, used_lengths(item_seq), histories, [last], places=PLACES)
        if not self.uses_time:
            return g, None
        tau_last = self.time_encoding(interaction[self.TOI_SEQ].gather(1, last.unsqueeze(1)).squeeze(1))
        return g, self.toi_predictor(torch.cat([g, tau_last], dim=-1))

    def _read(self, item_seq: torch.Tensor, *times_and_last: torch.Tensor) -> torch.Tensor:
        """g_u [B, d] of item_seq [B, L], their times [B, L] if they are read, and the index of the last item [B]."""
        *times, last = times_and_last
        if times:  # sines take longer than to find the days that are the same
            distinct, place = times[0].unique(return_inverse=True)
            added = F.embedding(place, self.time_encoding(distinct))
        else:
            added = self.position_embedding.weight[: item_seq.shape[1]]
        return self.encoder(self.item_embedding(item_seq) + added, item_seq != 0, last)

    def enrich(self, g: torch.Tensor, tau_hat: torch.Tensor | None) -> torch.Tensor:
        """g'_u = (1 - gamma) g_u + gamma MLP(g_u, tau_n hat), eq. 9-10: [B, d]."""
        if tau_hat is None:
            return g
        return (1 - self.gamma) * g + self.gamma * self.fusion(torch.cat([g, tau_hat], dim=-1))

    # Item of interest, sections 4.4 and 4.5

    def denoise(self, x_t: torch.Tensor, h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """p_theta(e_n^t, t, g'_u), eq. 12: x_t [..., B, d], h [B, d], t [B], or [1] for all rows -> [..., B, d]."""
        step = self.step_embedding(t)
        if not self.is_linear:
            return self.denoiser(torch.cat(torch.broadcast_tensors(x_t, h, step), dim=-1))
        return LinearOfParts.apply(self.denoiser.weight, self.denoiser.bias, x_t, h, step)

    def centroid(self, x0: torch.Tensor) -> torch.Tensor:
        """Mean of the other rows' targets, [B, d], also where they are the same item; 0 for a row alone in its batch.

        Of all of them (PreferDiff's default), or of `num_negatives` that are drawn.
        """
        B = len(x0)
        if self.negatives == "batch" or self.num_negatives + 1 >= B:
            return (x0.sum(0) - x0) / max(B - 1, 1)
        chance = torch.rand(B, B, device=x0.device).fill_diagonal_(-1)
        drawn = chance.topk(self.num_negatives, dim=1).indices
        return torch.zeros_like(chance).scatter_(1, drawn, 1 / self.num_negatives).to(x0.dtype) @ x0

    def error(self, prediction: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
        """How far predictions [B, d] are from vectors [B, d], one number for the batch."""
        if self.error_kind == "cos_sq":
            return (F.cosine_similarity(prediction, x0, dim=-1) - 1).pow(2).mean()
        error = (prediction - x0).pow(2)
        return error.mean() if self.error_kind == "mse_mean" else error.sum(-1).mean()

    def preference(self, error_positive: torch.Tensor, error_negative: torch.Tensor) -> torch.Tensor:
        """L_BPR of eq. 15, as it must be: smaller for a small error on the positive and a large one on the centroid."""
        return -F.logsigmoid(-self.kappa * (error_positive - error_negative))

    def calculate_loss(self, interaction) -> tuple[torch.Tensor, ...]:
        """Eq. 17, its terms with their weights: eta lambda L_Normal, eta (1 - lambda) L_BPR, (1 - eta) L_ToI."""
        item_seq, item = interaction[self.ITEM_SEQ], interaction[self.POS_ITEM_ID]
        with looked_up_once(self.item_embedding, torch.cat([item_seq.flatten(), item])):
            target = self.item_embedding(item)
            g, tau_hat = self.represent(interaction)
        h = self.enrich(g, tau_hat)
        dropped = torch.rand(len(h), 1, device=h.device) < self.uncond_prob
        h = torch.where(dropped, self.null_guidance, h)
        t = torch.randint(self.diffusion.timesteps, (len(h),), device=h.device)
        x0 = torch.stack([target, self.centroid(target)])  # [2, B, d]: the same step for both, fresh noise each
        noised = x0.detach() if self.detach_noised else x0
        x_t = self.diffusion.q_sample(noised, t, torch.randn_like(x0))
        goal = x0.detach() if self.detach_target else x0
        positive, negative = (self.error(*pair) for pair in zip(self.denoise(x_t, h, t), goal, strict=True))
        loss_ioi = (self.lambda_ * positive, (1 - self.lambda_) * self.preference(positive, negative))
        if tau_hat is None:
            return tuple(self.eta * term for term in loss_ioi)
        tau = self.time_encoding(interaction[self.TOI])
        loss_toi = -F.cosine_similarity(tau, tau_hat, dim=-1).mean()  # eq. 13
        return (*(self.eta * term for term in loss_ioi), (1 - self.eta) * loss_toi)

    # Inference, section 4.6 and algorithm 2

    def compose(self) -> ClosedForm:
        """The whole DDIM chain as one affine map of its start, for the present weights of a linear denoiser."""
        Wx, Wh, Ws = self.denoiser.weight.chunk(3, dim=1)
        steps = torch.tensor(self.diffusion.ddim_steps(self.ddim_stride, self.ddim_compat), device=Ws.device)
        offset = F.linear(self.step_embedding(steps), Ws, self.denoiser.bias)
        return self.diffusion.closed_form(Wx, Wh, offset, self.ddim_stride, self.ddim_compat).to(Ws)

    def start_noise(self, interaction) -> HistoryNoise:
        """The noise that generation starts from: that of the history's items and, where times are read, their days."""
        item_seq = interaction[self.ITEM_SEQ]
        days = [self.day_of(interaction[self.TOI_SEQ])] if self.uses_time else []
        return HistoryNoise(self.seed, item_seq, *days)

    def generate(self, h: torch.Tensor, noise: HistoryNoise) -> torch.Tensor:
        """Generated items [B, d] for guidance h [B, d]: DDIM with classifier-free guidance, eq. 20-21."""
        if self.oracle == "mean":
            x_T = torch.zeros_like(h)  # for a linear denoiser the expectation over all starts
        else:
            x_T = noise.normal(h.shape[1]).to(h)
        # Eq. 20 on the two conditions: a linear denoiser is affine in them, so this guides its output.
        guided = guide(h, self.null_guidance, self.guidance_scale)
        if self.use_closed_form:
            if self._closed_form is None:
                self._closed_form = self.compose()
            return self._closed_form.sample(guided, x_T)
        if self.is_linear:
            Wx, Wh, Ws = self.denoiser.weight.chunk(3, dim=1)
            condition = F.linear(guided, Wh, self.denoiser.bias)  # the same at every step

            def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
                step = self.step_embedding(torch.tensor([t], device=x.device))
                return F.linear(x, Wx) + condition + F.linear(step, Ws)
        else:

            def denoise(x: torch.Tensor, t: int) -> torch.Tensor:
                step = torch.tensor([t], device=x.device)
                return guide(
                    self.denoise(x, h, step),
                    self.denoise(x, self.null_guidance.expand_as(h), step),
                    self.guidance_scale,
                )

        return self.diffusion.ddim_sample(denoise, x_T, self.ddim_stride, self.ddim_compat)

    def user_vectors(self, interaction) -> torch.Tensor:
        """Generated items [B, d], of length 1 where scores are cosines."""
        oracle = self.generate(self.enrich(*self.represent(interaction)), self.start_noise(interaction))
        return F.normalize(oracle, dim=-1) if self.score_function == "cosine" else oracle

    def item_vectors(self) -> torch.Tensor:
        """What they are compared with, [n_items, d]."""
        table = self.item_embedding.weight
        return F.normalize(table, dim=-1) if self.score_function == "cosine" else table

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores [B, n_items]: the inner product of the generated item with every item."""
        return self.user_vectors(interaction) @ self.item_vectors().T

    def predict(self, interaction) -> torch.Tensor:
        """Scores [B] of the rows' own items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    # From a predicted time to the calendar

    @torch.no_grad()
    def when(self, interaction, horizon: int = 365, noise: float = 0.01) -> When:
        """The day of each user's next interaction, by `decode`. Reads histories and their times only.

        Raises UserError for a model that reads no times.
        """
        _, tau_hat = self.represent(interaction)
        if tau_hat is None:
            raise UserError(f"this {type(self).__name__} reads no times and predicts none: train PASRec")
        return self.decode(tau_hat, self.last_day(interaction), horizon, noise)

    def last_day(self, interaction) -> torch.Tensor:
        """Day of the latest interaction of each history, counted from 1970-01-01: int64 [B]."""
        last = (interaction[self.ITEM_SEQ_LEN] - 1).clamp(min=0).unsqueeze(1)
        return self.day_of(interaction[self.TOI_SEQ].gather(1, last).squeeze(1))

    def day_of(self, t: torch.Tensor) -> torch.Tensor:
        """Days since 1970-01-01 of scaled times: int64, of the same shape."""
        return (t.double() * (self.day_range[1] - self.day_range[0])).round().long() + self.day_range[0]

    @torch.no_grad()
    def decode(self, tau_hat: torch.Tensor, not_before: torch.Tensor, horizon: int = 365, noise: float = 0.01) -> When:
        """The days whose encodings are most similar to tau_hat [B, d], searched in float64; ties go to the earliest.

        An encoding tells a day from its neighbours only so well: ``earliest`` and ``latest`` bound the days that an
        error of tau_hat of at most ``noise`` times its length could make the answer. The sinusoid is so flat on [0, 1]
        that this is years. (Of a log over more than SEARCHED_DAYS they are found among every n-th day.)

        Args:
            tau_hat: predicted encodings.
            not_before: [B] days since 1970-01-01; earlier days are no answer.
            horizon: how many days after the data's last the search ends (Gaussian: at 1.1, behind its last center),
                or a day after a history that ends later.

        Raises UserError if tau_hat is not finite.
        """
        if not torch.isfinite(tau_hat).all():
            raise UserError("predicted times are not numbers: the model's weights have diverged")
        first, last = (int(day) for day in self.day_range)
        end = last + horizon
        if self.time_encoding.name == "gaussian":
            end = min(end, last + (last - first) // 10)
        tau = F.normalize(tau_hat.double(), dim=-1)
        return When(*search_days(self._encode_days, tau, not_before, (first, end), noise))

    def _encode_days(self, days: torch.Tensor) -> torch.Tensor:
        """Encodings of length 1 of days since 1970-01-01: [...] -> [..., d], float64."""
        first, last = (int(day) for day in self.day_range)
        return F.normalize(self.time_encoding((days - first).double() / (last - first)), dim=-1)


class PreferDiff(PASRec):
    """PASRec without its times: positions instead of time encodings, no time of interest (gamma 0, eta 1)."""

    encodings = ("position",)

    @staticmethod
    def needs_times(config) -> bool:
        """Never."""
        return False
