"""DreamRec: Yang et al., "Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion",
NeurIPS 2023.

A Transformer reads the history into a guidance vector; a diffusion model, guided by it, generates the vector of the
"oracle" item that the user would like next; the items nearest to it are recommended. No negative samples.

    paper             here                 meaning
    e_n^0             x0                   vector of the target item, a row of the item table
    e_n^t             x_t                  the same after t steps of noise
    c_{n-1}           h                    guidance, eq. 10
    Phi               null_guidance        learned stand-in for h, dropped in with probability p_u
    f_theta           denoise              predicts e_n^0, eq. 13
    T, p_u, w         timesteps, uncond_prob, guidance_scale

Differences from the paper
    - The reverse step is DDPM's posterior; eq. 7 prints it with a wrong index, eq. 16 and algorithm 2 with misplaced
      roots and bars.
    - The weight of each step in eq. 14 is dropped, as in the paper's own algorithm 1.
    - By default the target's vector is data, not a parameter: no gradient reaches it from the loss or the noised input
      (the paper does not say). The released code trains it in both places (`detach_target` and `detach_noised` False),
      and its item table shrinks towards one point, where the loss is zero: docs/reproduction.md.
    - With a linear denoiser the T reverse steps are composed into one Gaussian with the same law (`sampler: auto`).
Differences from the released code
    - Evaluation is in evaluation mode (theirs keeps dropout on), does not rank the padding row, and drops no rows.
    - `train_pairs: positions` reads the guidance before every target of a user from one pass of the encoder; the same
      loss, where the history fits in, but that the dropout of a user's targets is shared.
    - Padding is masked by item id (theirs tests for vectors that sum to exactly zero, which real ones can).
    - Layers that their module creates and never uses, and the keys' bias, which has no effect, do not exist here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length, looked_up_once, used_lengths
from recbole_gen.model.diffusion import ClosedForm, GaussianDiffusion, beta_schedule, guide
from recbole_gen.model.dropout import Dropout, attention
from recbole_gen.model.layers import HistoryNoise, StepEmbedding, item_denoiser, one_of
from recbole_gen.model.positions import NEXT, states_and_targets

PLACES = 4096
"""Places of a batch up to which its histories are read in one piece: most of the work is that of a row."""


class GuidanceEncoder(nn.Module):
    """One Transformer block of one head, read at the last item; the T-enc of eq. 10.

    The paper does not describe it. As in the released code: the query alone is normalised and is also the residual,
    there is no output projection, and the feed-forward net has inner size d and ReLU.
    """

    def __init__(self, size: int, max_seq_length: int, dropout: float):
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_length, size)  # N(0, 1), counted from the oldest kept item
        self.query_norm, self.attention_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.feed_forward_norm, self.output_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.value = nn.Linear(size, size), nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # a bias of the keys would cancel in the softmax
        self.feed_forward = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size), Dropout(dropout))
        self.dropout = Dropout(dropout)

    def forward(self, items: torch.Tensor, real: torch.Tensor, item_seq_len: torch.Tensor) -> torch.Tensor:
        """Item vectors [B, L, d], real [B, L] (False on padding), item_seq_len [B] -> guidance [B, d].

        A row without history is one padding token: its guidance is the constant ``output_norm.bias``.
        """
        rows = torch.arange(len(items), device=items.device)
        last = (item_seq_len - 1).clamp(min=0)
        z = self.dropout(items + self.position_embedding.weight[: items.shape[1]]) * real.unsqueeze(-1)
        # Only the last item's output is used, so there is one query, and no position needs projecting:
        # q'(Wk z_j) = (Wk'q)'z_j, and sum_j a_j (Wv z_j + b) = Wv (sum_j a_j z_j) + b sum_j a_j.
        q = self.query_norm(z[rows, last])  # [B, d]
        key = self.query(q) @ self.key.weight
        scores = (z @ key.unsqueeze(-1)).squeeze(-1) / z.shape[-1] ** 0.5  # [B, L]
        hidden = ~real
        hidden[:, 0] = False  # an empty row attends to its padding token, not to nothing
        weights = self.dropout(scores.masked_fill(hidden, -torch.inf).softmax(dim=-1))
        context = (weights.unsqueeze(1) @ z).squeeze(1)  # [B, d]
        attended = context @ self.value.weight.T + weights.sum(-1, keepdim=True) * self.value.bias
        u = self.attention_norm(attended + q)
        out = self.feed_forward_norm(self.feed_forward(u) + u) * real[rows, last].unsqueeze(-1)
        return self.output_norm(out)

    def at_every_item(self, items: torch.Tensor) -> torch.Tensor:
        """Item vectors [B, L, d] -> guidance [B, L, d] by each item and those before it; dropout is shared by all."""
        z = self.dropout(items + self.position_embedding.weight[: items.shape[1]])
        q = self.query_norm(z)
        rate = self.dropout.p if self.training else 0.0
        attended = attention(self.query(q), self.key(z), self.value(z), None, rate, is_causal=True)
        u = self.attention_norm(attended + q)
        return self.output_norm(self.feed_forward_norm(self.feed_forward(u) + u))


class DreamRec(SequentialRecommender):
    """The paper in the order of its section 4; every size and switch is described in properties/model/DreamRec.yaml."""

    input_type = InputType.POINTWISE
    item_vectors_name = "item_embedding"

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        d = config["hidden_size"]
        self.uncond_prob = config["uncond_prob"]
        self.guidance_scale = config["guidance_scale"]
        self.detach_target, self.detach_noised = config["detach_target"], config["detach_noised"]
        self.oracle = one_of(config, "oracle", ("sample", "mean"))
        self.score_function = one_of(config, "score_function", ("inner", "cosine"))
        ddim_stride = config["ddim_stride"]
        self.ddim_stride = ddim_stride if one_of(config, "sampling", ("ancestral", "ddim")) == "ddim" else None

        # N(0, 1), the diffusion's unit variance: smaller initial vectors would drown in the noise of the first steps.
        self.item_embedding = nn.Embedding(self.n_items, d, padding_idx=0)
        self.encoder = GuidanceEncoder(d, self.max_seq_length, config["dropout_prob"])
        self.null_guidance = nn.Parameter(torch.randn(d))
        self.step_embedding = StepEmbedding(d)
        kind = one_of(config, "denoiser", ("linear", "mlp"))
        self.is_linear, self.denoiser = kind == "linear", item_denoiser(kind, d)
        self.diffusion = GaussianDiffusion(
            beta_schedule(config["noise_schedule"], config["timesteps"], config["beta_start"], config["beta_end"])
        )
        if self.ddim_stride is not None:
            self.diffusion.ddim_steps(self.ddim_stride)  # refuses a stride that does not divide T
        sampler = one_of(config, "sampler", ("auto", "closed_form", "stepwise"))
        if sampler == "closed_form" and not self.is_linear:
            raise UserError("sampler: closed_form needs denoiser: linear; use sampler: stepwise (or auto)")
        self.use_closed_form = self.is_linear and sampler != "stepwise"

        self.seed = config["seed"]
        self._closed_form: ClosedForm | None = None

    def train(self, mode: bool = True):
        self._closed_form = None  # the weights may change before the next evaluation
        return super().train(mode)

    def load_state_dict(self, *args, **kwargs):
        self._closed_form = None
        return super().load_state_dict(*args, **kwargs)

    # Learning phase, section 4.2.1 and algorithm 1

    def guidance(self, interaction) -> torch.Tensor:
        """c_{n-1} = T-enc(e_{1:n-1}), eq. 10: [B, d]."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]

        def read(item_seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.item_embedding(item_seq), item_seq != 0, length)

        return encode_by_length(read, used_lengths(item_seq), [item_seq], [length], places=PLACES)

    def guidance_at_positions(self, interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """The same before every target of a batch of windows, [P, d], and the targets [P]."""
        items = self.item_embedding(interaction[self.ITEM_SEQ])  # of all windows at once: one gradient of the table
        return states_and_targets(self, interaction, lambda _, part: self.encoder.at_every_item(part), items)

    def denoise(self, x_t: torch.Tensor, h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """f_theta(e_n^t, c_{n-1}, t) of eq. 13: x_t and h [B, d], t [B], or [1] for all rows -> [B, d]."""
        step = self.step_embedding(t).expand(len(x_t), -1)
        return self.denoiser(torch.cat([x_t, h, step], dim=-1))

    def calculate_loss(self, interaction) -> torch.Tensor:
        """Algorithm 1: a number."""
        item_seq, item = interaction[self.ITEM_SEQ], interaction[self.POS_ITEM_ID]
        with looked_up_once(self.item_embedding, torch.cat([item_seq.flatten(), item])):
            return self.target_loss(item, self.guidance(interaction))

    def calculate_positions_loss(self, interaction) -> torch.Tensor:
        """Algorithm 1 at every target of a batch of windows, each with a step, noise and guidance of its own."""
        items, following = interaction[self.ITEM_SEQ], interaction[NEXT + self.ITEM_SEQ]
        with looked_up_once(self.item_embedding, torch.cat([items.flatten(), following.flatten()])):
            h, target = self.guidance_at_positions(interaction)
            return self.target_loss(target, h)

    def target_loss(self, target: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        """Lines 3 to 8 of algorithm 1 for targets [B] and their guidance h [B, d], averaged over them."""
        x0 = self.item_embedding(target)
        dropped = torch.rand(len(h), 1, device=h.device) < self.uncond_prob
        t = torch.randint(self.diffusion.timesteps, (len(h),), device=h.device)
        return self.loss_of_draws(x0, h, dropped, t, torch.randn_like(x0))

    def loss_of_draws(self, x0, h, dropped: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The squared norm of line 8, averaged over d too, a factor that Adam does not see.

        x0, h and noise [B, d]; dropped [B, 1], where Phi stands for h; t [B].
        """
        h = torch.where(dropped, self.null_guidance, h)
        x_t = self.diffusion.q_sample(x0.detach() if self.detach_noised else x0, t, noise)
        return F.mse_loss(self.denoise(x_t, h, t), x0.detach() if self.detach_target else x0)

    # Generation phase, section 4.2.2 and algorithm 2

    def compose(self) -> ClosedForm:
        """The whole reverse chain as one Gaussian, for the present weights of a linear denoiser."""
        Wx, Wh, Ws = self.denoiser.weight.split(self.denoiser.in_features // 3, dim=1)
        every = range(self.diffusion.timesteps)
        visited = every if self.ddim_stride is None else self.diffusion.ddim_steps(self.ddim_stride)
        offset = self.step_embedding(torch.tensor(visited, device=Ws.device)) @ Ws.T + self.denoiser.bias  # [steps, d]
        return self.diffusion.closed_form(Wx, Wh, offset, self.ddim_stride).to(Ws)

    def generate(self, h: torch.Tensor, noise: HistoryNoise) -> torch.Tensor:
        """Oracle items [B, d] for guidance h [B, d]; algorithm 2, or its law in one step where that is known."""

        def randn() -> torch.Tensor:
            return noise.normal(h.shape[1]).to(h)

        if self.use_closed_form:
            if self._closed_form is None:
                self._closed_form = self.compose()
            # Eq. 15 on the two conditions: f is affine in them, so this guides its output.
            h = guide(h, self.null_guidance, self.guidance_scale)
            if self.oracle == "mean":
                return self._closed_form.mean(h)
            return self._closed_form.sample(h, randn())

        conditions = torch.cat([h, self.null_guidance.expand_as(h)])

        def guided(x: torch.Tensor, t: int) -> torch.Tensor:
            """Line 6 of algorithm 2, eq. 15."""
            both = self.denoise(x.repeat(2, 1), conditions, torch.tensor([t], device=x.device))
            conditional, unconditional = both.chunk(2)
            return guide(conditional, unconditional, self.guidance_scale)

        still = self.oracle == "mean"  # for a denoiser that is not affine: the chain without noise, not the expectation
        x_T = torch.zeros_like(h) if still else randn()
        if self.ddim_stride is not None:
            return self.diffusion.ddim_sample(guided, x_T, self.ddim_stride)
        return self.diffusion.ancestral_sample(guided, x_T, lambda: torch.zeros_like(h) if still else randn())

    # Retrieval, section 4.2.3

    def user_vectors(self, interaction) -> torch.Tensor:
        """Oracle items [B, d], of length 1 where scores are cosines."""
        noise = HistoryNoise(self.seed, interaction[self.ITEM_SEQ])
        oracle = self.generate(self.guidance(interaction), noise)
        return F.normalize(oracle, dim=-1) if self.score_function == "cosine" else oracle

    def item_vectors(self) -> torch.Tensor:
        """What they are compared with, [n_items, d]."""
        table = self.item_embedding.weight
        return F.normalize(table, dim=-1) if self.score_function == "cosine" else table

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores [B, n_items]: the inner product of the oracle item with every item."""
        return self.user_vectors(interaction) @ self.item_vectors().T

    def predict(self, interaction) -> torch.Tensor:
        """Scores [B] of the rows' own items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
