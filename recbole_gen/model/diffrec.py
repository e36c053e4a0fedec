"""DiffRec: Du et al., "Sequential Recommendation with Diffusion Models", arXiv:2304.04541.

The history is followed by one more slot, which holds the target item under noise; a Transformer reads both and predicts
the target's vector, and from it the item. At recommendation the slot holds nothing but noise. (Not the DiffRec of Wang
et al., which RecBole has: that one knows no order, and is `--model=recbole.DiffRec` here.)

    paper             here                 meaning
    h_T^0, E(v_T)     h0                   vector of the target item, a row of the item table
    h_T^n             h_n                  the same after n steps of noise, eq. 7
    f_theta(h_T^n, n) denoise              predicts h_T^0: the Denoise Sequential Recommender, eq. 14-16
    y_t, z_n          position_embedding, sinusoid
    W, b              output               eq. 8; not tied to E
    N, p_n            timesteps, StepSampler.probabilities
    T                 MAX_ITEM_LIST_LENGTH + 1: the slot takes one of the paper's T positions

`train_pairs: positions` learns all targets of a window at once (`causal: True`, `positions_from: start`): beside one
shared history there is a slot for each of its events, which sees the events before that and itself. A target's loss is
that of its row in which the slot has the position behind the history's last, instead of y_T for all; dropout of the
history is shared, and so is the step n, which z_n tells every event of the history, so that a window has one value in
the estimate of p_n, its mean L_n.

Differences from the paper (its code was never published)
    - The cross-entropy reads the predicted h_T^0, as algorithm 1 does; eq. 13 prints the clean one, with which it would
      never train the Transformer (`rec_on`).
    - L_n is averaged over the d dimensions and weighted by 1 / (N p_n); eq. 17-18 print sums, N d times as large,
      beside which the cross-entropy is nothing (`mse_reduction`, `step_weight`).
    - How p_n is estimated is not said: the last ten losses of each step, uniform until each has ten, and a floor, as in
      the paper's source for it (Nichol and Dhariwal 2021).
    - Eq. 3 prints sqrt(abar_n) where sqrt(alpha_n) is right; abar_N is about 0, not 1; noise schedules are clipped
      where the formulas leave (0, 1) (`recbole_gen.model.diffusion.level_schedule`).
    - Algorithm 2 draws its start anew at every step; here it is drawn once.
    - Not said and chosen here: post-norm blocks with GELU, inner size 4d, bidirectional attention (`causal`), all
      prefixes as training rows (`train_pairs`), small initial vectors (`embedding_std`), and no gradient to the
      target's vector from the error or the noised input (`detach_target`, `detach_noised`): where the noise does not
      hide the target, the model copies it instead of reading the history (docs/reproduction.md).
    - The slot holds the last item's vector, too (`last_item_in_slot`): with attention alone it is slow to learn what
      follows an item (docs/reproduction.md). Off in the published settings.
    - z_n and the noisy target are made smaller where the Transformer reads them (`step_scale`, `slot_scale`): beside
      them, small vectors of items and positions are next to nothing of what the first norm reads. 1 in the published
      settings.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length, looked_up_once
from recbole_gen.model.diffusion import GaussianDiffusion, level_schedule
from recbole_gen.model.dropout import Dropout, attention, dropout
from recbole_gen.model.item_losses import ItemLoss
from recbole_gen.model.layers import HistoryNoise, one_of, sinusoid
from recbole_gen.model.positions import NEXT, states_and_targets

SEQUENCES = 640
"""Sequences that are encoded together at most, one for each row and content of its slot: they take much memory."""

CHUNK = 2**19
"""Probabilities that are computed together at recommendation."""


class StepSampler(nn.Module):
    """Importance sampling of diffusion steps, p_n proportional to sqrt(E[L_n^2]); section 4.5.1, eq. 18.

    Args:
        timesteps: N.
        history: how many values of each L_n are kept.
        floor: share of the probability that is spread evenly, so that no step dies out.

    Buffers, kept in checkpoints: ``losses`` [N, history], ``counts`` [N], how many values each step has ever had.
    """

    losses: torch.Tensor
    counts: torch.Tensor

    def __init__(self, timesteps: int, history: int, floor: float):
        super().__init__()
        if history < 1 or not 0 <= floor <= 1:
            raise UserError(f"is_history must be at least 1 and is_floor from 0 to 1, got {history} and {floor}")
        self.floor = floor
        self.register_buffer("losses", torch.zeros(timesteps, history))
        self.register_buffer("counts", torch.zeros(timesteps, dtype=torch.int64))

    def probabilities(self) -> torch.Tensor:
        """p_n for n = 1..N, [N]: uniform until every step has a full history."""
        size = self.losses.pow(2).mean(1).sqrt()
        even = torch.full_like(size, 1 / len(size))
        p = (1 - self.floor) * size / size.sum().clamp(min=1e-30) + self.floor * even
        full = (self.counts >= self.losses.shape[1]).all() & (size.sum() > 0)
        return torch.where(full, p, even)

    def draw(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps n in 1..N of so many rows, and 1 / (N p_n), the weight with which L_n estimates the mean over steps."""
        p = self.probabilities()
        index = torch.multinomial(p, rows, replacement=True)
        return index + 1, 1 / (len(p) * p[index])

    @torch.no_grad()
    def record(self, n: torch.Tensor, losses: torch.Tensor) -> None:
        """Add the unweighted losses [B] of steps n [B] to the history, in place of the oldest values."""
        width = self.losses.shape[1]
        index, order = (n - 1).sort(stable=True)
        rank = torch.arange(len(index), device=n.device) - torch.searchsorted(index, index)  # among rows of that step
        place = (self.counts[index] + rank) % width
        newest = torch.searchsorted(index, index, right=True) - torch.searchsorted(index, index) - rank <= width
        losses = torch.where(torch.isfinite(losses), losses, 0)  # the trainer says so; here it would end in a bad draw
        self.losses[index[newest], place[newest]] = losses.to(self.losses)[order][newest]
        self.counts += torch.bincount(index, minlength=len(self.counts))


class Block(nn.Module):
    """A post-norm Transformer block (Vaswani et al. 2017) whose output is computed for the first tokens only."""

    def __init__(self, size: int, n_heads: int, inner_size: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key_value = nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.attention_output = nn.Linear(size, size)
        self.feed_forward = nn.Sequential(nn.Linear(size, inner_size), nn.GELU(), nn.Linear(inner_size, size))
        self.attention_norm, self.output_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, sees: torch.Tensor) -> torch.Tensor:
        """x [B, K, d], sees [B, 1, Q, K] (which token reads which) -> the first Q tokens, [B, Q, d]."""
        first = x[:, : sees.shape[2]]
        q, k, v = self._project(first, x)
        read = attention(q, k, v, sees, self.dropout.p if self.training else 0.0)
        return self._finish(first, read)

    def beside_history(self, x: torch.Tensor, slots: int, slots_only: bool) -> torch.Tensor:
        """The block for windows and a slot for the event behind each of their events.

        x [B, 2 L, d] is the slots, then the events; slot i reads itself and the events 0 to i, event i the events 0 to
        i. Returns the same, or the slots alone, [B, L, d].
        """
        first = x[:, :slots] if slots_only else x
        rate = self.dropout.p if self.training else 0.0
        q, k, v = self._project(first, x)
        q_slot, k_slot, v_slot = (each[:, :, :slots] for each in (q, k, v))  # [B, heads, L, d / heads]
        k_event, v_event = k[:, :, slots:], v[:, :, slots:]
        q_slot = q_slot * q_slot.shape[-1] ** -0.5
        later = torch.ones(slots, slots, dtype=torch.bool, device=x.device).triu(1)
        scores = (q_slot @ k_event.transpose(-1, -2)).masked_fill(later, -torch.inf)
        own = (q_slot * k_slot).sum(-1, keepdim=True)
        weights = dropout(torch.cat([scores, own], dim=-1).softmax(-1), rate, True)
        read = weights[..., :-1] @ v_event + weights[..., -1:] * v_slot
        if not slots_only:
            of_events = attention(q[:, :, slots:], k_event, v_event, None, rate, is_causal=True)
            read = torch.cat([read, of_events], dim=2)
        return self._finish(first, read)

    def _project(self, first: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries of the first tokens, keys and values of all, [B, heads, ..., d / heads] each."""
        parts = self.query(first), *self.key_value(x).chunk(2, dim=-1)
        return tuple(part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in parts)

    def _finish(self, first: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """What is behind the attention, whose results [B, heads, Q, d / heads] are: [B, Q, d]."""
        read = self.attention_output(read.transpose(1, 2).flatten(2))
        attended = self.attention_norm(first + self.dropout(read))
        return self.output_norm(attended + self.dropout(self.feed_forward(attended)))


class DiffRec(SequentialRecommender):
    """The paper in the order of its section 4; every size and switch is described in properties/model/DiffRec.yaml."""

    input_type = InputType.POINTWISE
    loss_names = ("mse", "recommendation")
    reads_item_loss = True

    @staticmethod
    def why_no_positions(config) -> str | None:
        """Why a setting cannot train on every position of a window at once, or None."""
        if not config["causal"]:
            return "the events of a history see the noisy target in its slot (causal: False). Add --causal=True"
        if config["positions_from"] != "start":
            return (
                "position vectors are counted from the end of a history (positions_from: end), and each target of a "
                "window ends another one. Add --positions_from=start"
            )
        return None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        d, n_heads, dropout = config["hidden_size"], config["n_heads"], config["dropout_prob"]
        if d % 2 or d % n_heads:
            raise UserError(f"hidden_size must be even and a multiple of n_heads ({n_heads}), got {d}")
        self.rec_on = one_of(config, "rec_on", ("pred", "clean", "both"))
        self.mse_weight = config["mse_weight"]
        self.sums_dimensions = one_of(config, "mse_reduction", ("mean", "sum")) == "sum"
        self.sums_steps = one_of(config, "step_weight", ("mean", "sum")) == "sum"
        self.detach_target, self.detach_noised = config["detach_target"], config["detach_noised"]
        self.causal, self.step_scale = config["causal"], config["step_scale"]
        self.slot_scale, self.last_item_in_slot = config["slot_scale"], config["last_item_in_slot"]
        self.from_end = one_of(config, "positions_from", ("end", "start")) == "end"
        self.item_loss = ItemLoss(config)
        self.infer = one_of(config, "infer", ("fast", "full"))
        self.reverse_variance = one_of(config, "reverse_variance", ("beta", "posterior"))
        self.n_seeds, self.noise_per_user = config["n_seeds"], config["noise_per_user"]
        if self.n_seeds < 1:
            raise UserError(f"n_seeds must be at least 1, got {self.n_seeds}")

        self.item_embedding = nn.Embedding(self.n_items, d, padding_idx=0)
        self.position_embedding = nn.Embedding(self.max_seq_length + 1, d)  # the slot has the last, or the next
        self.input_norm, self.dropout = nn.LayerNorm(d), Dropout(dropout)
        inner = config["inner_size"]
        self.blocks = nn.ModuleList(Block(d, n_heads, inner, dropout) for _ in range(config["n_layers"]))
        self.output = nn.Linear(d, self.n_items)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for table in (self.item_embedding, self.position_embedding):
            nn.init.normal_(table.weight, std=config["embedding_std"])
        with torch.no_grad():
            self.item_embedding.weight[0] = 0
        if config["tie_weights"]:
            self.output.weight = self.item_embedding.weight

        self.diffusion = GaussianDiffusion(
            level_schedule(config["noise_schedule"], config["timesteps"], config["beta_start"], config["beta_end"])
        )
        self.importance_sampling = config["importance_sampling"]
        self.steps = StepSampler(self.diffusion.timesteps, config["is_history"], config["is_floor"])
        self.seed = config["seed"]
        self.noise_seed = config["seed"] + 1  # of what algorithm 2 draws after its start
        seeds = torch.Generator().manual_seed(config["seed"])
        self.register_buffer("noise_bank", torch.randn(self.n_seeds, d, generator=seeds))

    # Denoise Sequential Recommender, section 4.4

    def step_vectors(self, n: torch.Tensor) -> torch.Tensor:
        """z_n of steps n [B], times `step_scale`: [B, d]."""
        return self.step_scale * sinusoid(n, self.noise_bank.shape[1]).to(self.noise_bank)

    def denoise(self, item_seq: torch.Tensor, slots: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """f_theta(h_T^n, n), eq. 14-16, for S contents of the slot at once.

        item_seq [B, L], padded with 0 on the right; slots [B, S, d]; n [B] in 1..N -> [B, S, d].
        """
        length, most_rows = (item_seq != 0).sum(1), max(1, SEQUENCES // slots.shape[1])
        with looked_up_once(self.item_embedding, item_seq):
            return encode_by_length(self._encode, length.clamp(min=1), [item_seq], [length, slots, n], most_rows)

    def _encode(self, item_seq: torch.Tensor, length: torch.Tensor, slots: torch.Tensor, n: torch.Tensor):
        """The slots come first in the sequence; the order of the items is in their position vectors, y_T the slot's."""
        (B, S, d), L = slots.shape, item_seq.shape[1]
        step = torch.arange(L, device=item_seq.device)
        y, z = self.position_embedding.weight, self.step_vectors(n).unsqueeze(1)
        if self.from_end:
            position = (self.max_seq_length - length.unsqueeze(1) + step).clamp(max=self.max_seq_length)  # [B, L]
            y_item, y_slot = F.embedding(position, y), y[-1]
        else:
            y_item, y_slot = y[:L], F.embedding(length.unsqueeze(1), y)
        items = self.item_embedding(item_seq)
        history = items + y_item + z
        slots = self.slot_scale * slots + y_slot + z  # eq. 14 adds z_n at every position
        if self.last_item_in_slot:
            slots = slots + items[torch.arange(B, device=length.device), length - 1].unsqueeze(1)
        real = (step < length.unsqueeze(1)).unsqueeze(1)  # [B, 1, L]
        if self.causal:
            # The history does not see the slots, so all S of them share it; each sees itself and the history.
            x = torch.cat([slots, history], dim=1)
            alone = torch.eye(S + L, dtype=torch.bool, device=x.device)
            earlier = F.pad(step.unsqueeze(1) >= step, (0, 0, S, 0), value=True)  # [S + L, L]
            sees = alone | F.pad(earlier & real, (S, 0), value=False)  # [B, S + L, S + L]
        else:
            x = torch.cat([slots.flatten(0, 1).unsqueeze(1), history.repeat_interleave(S, 0)], dim=1)
            sees = F.pad(real, (1, 0), value=True).repeat_interleave(S, 0).expand(-1, 1 + L, -1)  # [B S, 1 + L, 1 + L]
        x = self.dropout(self.input_norm(x))
        for block in self.blocks[:-1]:
            x = block(x, sees.unsqueeze(1))
        x = self.blocks[-1](x, sees.unsqueeze(1)[:, :, : S if self.causal else 1])
        return x.reshape(B, S, d)

    def denoise_at_positions(self, interaction, slots: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """f_theta at every target of a batch of windows, as `denoise` for the history before each and one slot.

        slots [P, d] of the targets, window by window; n [W] in 1..N, of the windows -> [P, d].
        """
        item_seq, following = interaction[self.ITEM_SEQ], interaction[NEXT + self.ITEM_SEQ]
        (W, L), d = item_seq.shape, slots.shape[1]
        y, z = self.position_embedding.weight, self.step_vectors(n).unsqueeze(1)
        h_n = slots.new_zeros(W * L, d).index_copy(0, following.flatten().nonzero().squeeze(1), slots).view(W, L, d)
        items = self.item_embedding(item_seq)
        history, h_n = items + y[:L] + z, self.slot_scale * h_n + y[1 : L + 1] + z
        if self.last_item_in_slot:
            h_n = h_n + items  # the slot of the event behind each

        def encode(_, history: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
            x = self.dropout(self.input_norm(torch.cat([slots, history], dim=1)))
            for place, block in enumerate(cast("list[Block]", self.blocks), 1):
                x = block.beside_history(x, slots.shape[1], slots_only=place == len(self.blocks))
            return x

        return states_and_targets(self, interaction, encode, history, h_n)[0]

    # Training, section 4.3 and algorithm 1

    def recommendation_loss(self, h0: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-log p(v_T | h_T^0) of eq. 8, averaged over the rows; padding is no item."""
        return self.item_loss(h0, self.output.weight, target, self.output.bias)

    def draw_steps(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Steps n in 1..N of so many rows, or windows, and the weights of their L_n."""
        if self.importance_sampling:
            return self.steps.draw(rows)
        n = torch.randint(1, self.diffusion.timesteps + 1, (rows,), device=self.noise_bank.device)
        return n, torch.ones_like(n, dtype=self.noise_bank.dtype)

    def noised(self, h0: torch.Tensor, n: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """h_T^n of eq. 7, for h0 and noise [B, d] and n [B]."""
        return self.diffusion.q_sample(h0.detach() if self.detach_noised else h0, n - 1, noise)

    def denoising_error(self, h0: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """L_n of eq. 17, [B]."""
        error = ((h0.detach() if self.detach_target else h0) - prediction).pow(2)
        return error.sum(-1) if self.sums_dimensions else error.mean(-1)

    def calculate_loss(self, interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 18: the weighted error of the denoiser, and the recommendation loss."""
        item_seq, target = interaction[self.ITEM_SEQ], interaction[self.POS_ITEM_ID]
        with looked_up_once(self.item_embedding, torch.cat([item_seq.flatten(), target])):
            return self._losses(item_seq, target)

    def _losses(self, item_seq: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h0 = self.item_embedding(target)  # q_phi of eq. 6, with beta_0 = 0
        n, weight = self.draw_steps(len(target))
        h_n = self.noised(h0, n, torch.randn_like(h0))
        prediction = self.denoise(item_seq, h_n.unsqueeze(1), n).squeeze(1)
        L_n = self.denoising_error(h0, prediction)
        if self.importance_sampling:
            self.steps.record(n, L_n.detach())
        return self.weighted_losses(h0, prediction, target, weight, L_n)

    def calculate_positions_loss(self, interaction) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 18 at every target of a batch of windows: noise for each, and a step for each window."""
        following = interaction[NEXT + self.ITEM_SEQ]
        window, target = (following != 0).nonzero()[:, 0], following[following != 0]
        n, weight = self.draw_steps(len(following))
        with looked_up_once(self.item_embedding, torch.cat([interaction[self.ITEM_SEQ].flatten(), target])):
            h0 = self.item_embedding(target)
            h_n = self.noised(h0, n[window], torch.randn_like(h0))
            prediction = self.denoise_at_positions(interaction, h_n, n)
        L_n = self.denoising_error(h0, prediction)
        if self.importance_sampling:
            number = torch.bincount(window, minlength=len(n))
            total = L_n.new_zeros(len(n)).index_add(0, window, L_n.detach())
            self.steps.record(n[number > 0], (total / number)[number > 0])  # of a window the mean: one step, one value
        return self.weighted_losses(h0, prediction, target, weight[window], L_n)

    def weighted_losses(self, h0, prediction, target, weight, L_n) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 18 for predictions and clean vectors [B, d], targets [B], their L_n [B] and its weights [B]."""
        if self.sums_steps:
            weight = weight * self.diffusion.timesteps
        read = {"pred": [prediction], "clean": [h0], "both": [prediction, h0]}[self.rec_on]
        recommendation = torch.stack([self.recommendation_loss(each, target) for each in read]).sum()
        return self.mse_weight * (weight * L_n).mean(), recommendation

    # Inference, section 4.5.2

    def item_probabilities(self, h0: torch.Tensor) -> torch.Tensor:
        """p(v | h_T^0), eq. 8, averaged over the seeds: [B, S, d] -> [B, n_items], 0 for padding."""
        logits = F.linear(h0, self.output.weight[1:], self.output.bias[1:])
        return F.pad(logits.softmax(dim=-1).mean(1), (1, 0))

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Probabilities [B, n_items], averaged over the seeds; algorithm 3 (`infer: fast`) or 2 (`full`)."""
        item_seq = interaction[self.ITEM_SEQ]
        rows, d = len(item_seq), self.noise_bank.shape[1]
        # "Fix the seed, then draw" (algorithm 3): the same noise for every history, unless each is to have its own.
        own, generator = HistoryNoise(self.seed, item_seq), torch.Generator().manual_seed(self.noise_seed)

        def randn() -> torch.Tensor:
            """[B, S, d]"""
            if self.noise_per_user:
                return own.normal(self.n_seeds, d).to(self.noise_bank)
            shared = torch.randn(self.n_seeds, d, generator=generator)  # on the CPU, for one stream on every device
            return shared.to(self.noise_bank).expand(rows, -1, -1)

        noise = randn() if self.noise_per_user else self.noise_bank.expand(rows, -1, -1)

        def f(h_n: torch.Tensor, t: int) -> torch.Tensor:
            return self.denoise(item_seq, h_n, torch.full((rows,), t + 1, device=item_seq.device))

        if self.infer == "fast":
            h0 = f(noise, self.diffusion.timesteps - 1)
        else:
            h0 = self.diffusion.ancestral_sample(f, noise, randn, self.reverse_variance)
        # A few rows at a time: with all of them the probabilities leave the cache, and take three times as long.
        few = max(1, CHUNK // (self.n_seeds * self.n_items))
        return torch.cat([self.item_probabilities(part) for part in h0.split(few)])

    def predict(self, interaction) -> torch.Tensor:
        """Scores [B] of the rows' own items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
