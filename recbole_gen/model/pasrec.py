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
    - The history can have vectors of its own (`history_vectors: own`, `history_optimizer`); PreferDiff's code has one
      table.
    - The encoder can begin as one that hands on the last item (`encoder_start: last_item`); PreferDiff's code draws all
      of its weights.
    - By default no gradient reaches the target's vector (`detach_target`, `detach_noised`); in PreferDiff's code one
      does.
    - `train_pairs: positions` reads the guidance before every target of a user from one pass of the encoder; the same
      loss, where the history fits in, but that the dropout of a user's targets is shared, and that a centroid is over
      the targets of other windows and of the same one.
Differences from PreferDiff's code
    - DDIM ends each stride at the noise level that the network is told (`ddim_compat: True` for the code's count), and
      its steps are composed into one map where the denoiser is linear and small (`sampler: auto`).
    - Padding is masked by item id; the centroid is (sum - own) / (B - 1), without a [B, B - 1, d] gather.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length, looked_up_once, used_lengths
from recbole_gen.model.diffusion import ClosedForm, GaussianDiffusion, beta_schedule, guide
from recbole_gen.model.dropout import Dropout, attention
from recbole_gen.model.layers import (
    HistoryNoise,
    LinearOfParts,
    StepEmbedding,
    item_denoiser,
    once_each,
    one_of,
)
from recbole_gen.model.next_day import Calendar, TimeEncoding
from recbole_gen.model.positions import NEXT, states_and_targets

CHANCES = 2**20
"""Random numbers that decide together on negative items."""

COMPOSED_UP_TO = 512
"""Largest hidden_size for which `sampler: auto` composes the steps: beyond, d x d products cost more than they save."""

POSITION_SPREADS = {"drawn": 1.0, "last_item": 0.1}
"""Of the position vectors, by `encoder_start`: small where the guidance is to begin as the last item's vector."""

PLACES = 1024
"""Places of a batch up to which its histories are read in one piece: most of the work is that of a row."""


class GuidanceEncoder(nn.Module):
    """One Transformer block, read at the last item: TR of section 4.3.

    As in PreferDiff's code: the query alone is normalised, scores are scaled by the full size, there is no output
    projection, the feed-forward net has inner size d and ReLU, and the input is added to the attention's result and
    that to the output.

    With ``start`` "last_item", not "drawn", it begins as a function of the last token's direction alone.
    """

    def __init__(self, size: int, n_heads: int, dropout: float, start: str = "drawn"):
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

        if start == "last_item":  # neither attention nor feed-forward net add to the last token yet
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.feed_forward_norm.weight)

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

    def at_every_token(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [B, L, d] -> g_u [B, L, d] by each of them and those before it; dropout is shared by all."""
        z = self.dropout(tokens)
        q = self.query_norm(z)
        heads, keys, values = (
            each.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for each in (self.query(q) * self.n_heads**-0.5, self.key(z), self.value(z))
        )
        rate = self.dropout.p if self.training else 0.0
        read = attention(heads, keys, values, None, rate, is_causal=True).transpose(1, 2).flatten(2)
        residual = z + read + q
        u = self.attention_norm(residual)
        return self.output_norm(residual + self.feed_forward_norm(self.feed_forward(u) + u))


class PASRec(Calendar, SequentialRecommender):
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
        # Its own vectors become a memory of what follows each item, while those of the targets can stay as they are.
        self.has_own_history = one_of(config, "history_vectors", ("shared", "own")) == "own"
        self.history_optimizer = config["history_optimizer"]
        if self.has_own_history:
            self.history_embedding = nn.Embedding(self.n_items, d, padding_idx=0)
        elif self.history_optimizer is not None:
            raise UserError("history_optimizer is for history_vectors: own; vectors that are shared learn as the rest")
        start = one_of(config, "encoder_start", tuple(POSITION_SPREADS))
        self.encoder = GuidanceEncoder(d, n_heads, config["dropout_prob"], start)
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
            self.position_embedding.weight.data.mul_(POSITION_SPREADS[start])
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

    def optimizer_spec(self) -> dict[str, tuple[list[nn.Parameter], dict | None]] | None:
        """The optimiser of the history's own vectors beside that of the rest; None where one has them all."""
        if self.history_optimizer is None:
            return None
        own = self.history_embedding.weight
        others = [parameter for parameter in self.parameters() if parameter is not own]
        return {"main": (others, None), "history": ([own], self.history_optimizer)}

    # Time of interest, sections 4.2 and 4.3

    def history_table(self) -> nn.Embedding:
        """The vectors of the items of a history."""
        return self.history_embedding if self.has_own_history else self.item_embedding

    @contextmanager
    def looked_up(self, histories: torch.Tensor, targets: torch.Tensor):
        """Within it the vectors of these items are gathered once, from the table that each is read from."""
        own = looked_up_once(self.history_table(), histories) if self.has_own_history else nullcontext()
        read = targets if self.has_own_history else torch.cat([histories, targets])
        with own, looked_up_once(self.item_embedding, read):
            yield

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
        tau_last = once_each(self.time_encoding, interaction[self.TOI_SEQ].gather(1, last.unsqueeze(1)).squeeze(1))
        return g, self.toi_predictor(torch.cat([g, tau_last], dim=-1))

    def _read(self, item_seq: torch.Tensor, *times_and_last: torch.Tensor) -> torch.Tensor:
        """g_u [B, d] of item_seq [B, L], their times [B, L] if they are read, and the index of the last item [B]."""
        *times, last = times_and_last
        if times:
            added = once_each(self.time_encoding, times[0])
        else:
            added = self.position_embedding.weight[: item_seq.shape[1]]
        return self.encoder(self.history_table()(item_seq) + added, item_seq != 0, last)

    def represent_at_positions(self, interaction) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """The same before every target of a batch of windows, [P, d] each, and the targets [P]."""
        items = self.history_table()(interaction[self.ITEM_SEQ])  # of all windows at once: one gradient of the table
        if self.uses_time:
            added = once_each(self.time_encoding, interaction[self.TOI_SEQ])  # [W, L, d]
        else:
            added = self.position_embedding.weight[: items.shape[1]]
        g, target = states_and_targets(
            self, interaction, lambda _, tokens: self.encoder.at_every_token(tokens), items + added
        )
        if not self.uses_time:
            return g, None, target
        last = added[interaction[NEXT + self.ITEM_SEQ] != 0]
        return g, self.toi_predictor(torch.cat([g, last], dim=-1)), target

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
        drawn = []
        for rows in torch.arange(B, device=x0.device).split(max(1, CHANCES // B)):
            chance = torch.rand(len(rows), B, device=x0.device).scatter_(1, rows.unsqueeze(1), -1)
            drawn.append(chance.topk(self.num_negatives, dim=1).indices)
        return F.embedding_bag(torch.cat(drawn), x0, mode="mean")

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
        with self.looked_up(item_seq.flatten(), item):
            g, tau_hat = self.represent(interaction)
            return self.target_loss(item, interaction[self.TOI] if self.uses_time else None, g, tau_hat)

    def calculate_positions_loss(self, interaction) -> tuple[torch.Tensor, ...]:
        """Eq. 17 at every target of a batch of windows, each with a step, noise and guidance of its own."""
        following = interaction[NEXT + self.ITEM_SEQ]
        time = interaction[NEXT + self.TOI_SEQ][following != 0] if self.uses_time else None
        with self.looked_up(interaction[self.ITEM_SEQ].flatten(), following.flatten()):
            g, tau_hat, target = self.represent_at_positions(interaction)
            return self.target_loss(target, time, g, tau_hat)

    def target_loss(self, target: torch.Tensor, time: torch.Tensor | None, g, tau_hat) -> tuple[torch.Tensor, ...]:
        """Eq. 17 for targets [B] and their times [B], averaged over them; g and tau_hat as `represent` returns them."""
        h = self.enrich(g, tau_hat)
        dropped = torch.rand(len(h), 1, device=h.device) < self.uncond_prob
        t = torch.randint(self.diffusion.timesteps, (len(h),), device=h.device)
        vectors = self.item_embedding(target)
        x0 = torch.stack([vectors, self.centroid(vectors)])  # [2, B, d]: the same step for both, fresh noise each
        loss_ioi = self.loss_of_draws(x0, h, dropped, t, torch.randn_like(x0))
        if tau_hat is None or time is None:
            return tuple(self.eta * term for term in loss_ioi)
        tau = once_each(self.time_encoding, time)
        loss_toi = -F.cosine_similarity(tau, tau_hat, dim=-1).mean()  # eq. 13
        return (*(self.eta * term for term in loss_ioi), (1 - self.eta) * loss_toi)

    def loss_of_draws(self, x0, h, dropped: torch.Tensor, t: torch.Tensor, noise: torch.Tensor):
        """Eq. 16, its terms with their weights: lambda L_Normal and (1 - lambda) L_BPR.

        x0 and noise [2, B, d], of targets and centroids; h [B, d]; dropped [B, 1], where Phi stands for h; t [B].
        """
        h = torch.where(dropped, self.null_guidance, h)
        x_t = self.diffusion.q_sample(x0.detach() if self.detach_noised else x0, t, noise)
        goal = x0.detach() if self.detach_target else x0
        positive, negative = (self.error(*pair) for pair in zip(self.denoise(x_t, h, t), goal, strict=True))
        return self.lambda_ * positive, (1 - self.lambda_) * self.preference(positive, negative)

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
        # For a linear denoiser, 0 gives the expectation over all starts.
        x_T = torch.zeros_like(h) if self.oracle == "mean" else noise.normal(h.shape[1]).to(h)
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


class PreferDiff(PASRec):
    """PASRec without its times: positions instead of time encodings, no time of interest (gamma 0, eta 1)."""

    encodings = ("position",)

    @staticmethod
    def needs_times(config) -> bool:
        """Never."""
        return False
