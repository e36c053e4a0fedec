"""ACVAE: Xie et al., "Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation", WWW 2021.

A GRU and a causal convolution, both fed with noise, turn each prefix of a sequence into a latent vector, from which the
next item is predicted. There is no density of the latent vectors: an adversary learns how they differ from a normal
prior, and a contrastive critic whether a latent sequence belongs to a user's items.

    paper                 here                       meaning
    x_{u,t}               x                          vector of the item at step t, a row of the item table
    h_{u,t}               h                          state of the GRU, eq. 11
    f_eps                 Encoder.add_noise          a vector plus a learned transformation of normal noise
    f_v, c_{u,t}          Encoder.convolution        the last m steps at once, section 3.4.2
    z_phi(x_u, eps)       z                          latent vector, a sample of q(z_t | x_{1:t})
    P_theta(x_{t+1} | z)  decode                     eq. 3
    T_Psi                 adversary (Adversary)      estimates log q(z_t | x_t) - log p(z_t), eq. 7-9
    G_omega               critic (ContrastiveCritic) tells z of this user from z of another, eq. 12
    alpha, beta           kl_weight, contrast_weight eq. 13

Differences from the paper
    - Where the paper and the released code disagree, the structure is that of the code, with which the published
      numbers were made: softplus after each of three convolutions, two of them 1 x 1, instead of after the GRU and
      before the last layer (`gru_softplus` adds the former); a dense filter instead of one m x 1 filter for all columns
      (`conv_type`; `vertical` replaces only the middle convolution); AdamW with ten times the learning rate; both
      phases of algorithm 1 at every batch instead of in turn (`adv_schedule`).
    - T sees the item x_t only, not x_{1:t}, and has one output for each dimension of z, as in the code.
    - The second term of eq. 12 is read as log(1 - sigma(G)); printed is log(sigma(1 - G)), which settles at G = 0.5
      instead of 0 where the two cannot be told apart.
    - At recommendation z has no noise (`eval_noise`; the code draws some, which adds nothing but scatter).
Differences from the released code
    - log sigma is computed in one piece, in single precision at least; theirs, log(sigma + 1e-9), has no gradient where
      a network is far off.
    - The other user's latent vector counts only at steps that this user has (`contrast_valid_pair`): about half of
      theirs lie on padding, which is easy to tell. A batch of one row has no other user, and no contrastive term.
    - Padding is no class of the softmax, and its vector stays 0.
    - By default the encoder does not get a second step, of the critic's SGD (`encoder_extra_sgd`).
    - A weight of 0 leaves T or G out altogether; theirs would still be decayed.
    - The dropout of the encoders without convolution is `dropout_prob` too; theirs is fixed at 0.2.
    - One backward pass instead of two (see `calculate_loss`). Layers that their module never uses do not exist here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import nn

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length
from recbole_gen.model.dropout import Dropout
from recbole_gen.model.item_losses import ItemLoss
from recbole_gen.model.layers import HistoryNoise, one_of
from recbole_gen.model.positions import NEXT


def wide(logits: torch.Tensor) -> torch.Tensor:
    """In single precision at least: under autocast, losses are not computed in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def discrimination_loss(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """-log sigma(positive) - log(1 - sigma(negative)), elementwise: minus eq. 7, and eq. 12."""
    return F.softplus(-wide(positive)) + F.softplus(wide(negative))


class Encoder(nn.Module):
    """From the states of the GRU to latent vectors, sections 3.4.2 and 3.4.3: h [B, L, H] -> z [B, L, Z].

    Args:
        kind: `fc_cnn`, or a network without the convolution, `fc`; `fc_no_res` has no residual connection either.
        kernel_size: m.
        vertical: one m x 1 filter for all columns, instead of a dense one to twice as many channels.
    """

    def __init__(self, kind: str, size: int, latent_size: int, kernel_size: int, vertical: bool, dropout: float):
        super().__init__()
        self.has_convolution, self.residual = kind == "fc_cnn", kind != "fc_no_res"
        self.noise = nn.Linear(size, size)  # one for both places
        self.input = nn.Linear(size, size)
        self.vertical, self.kernel_size = vertical, kernel_size
        inner = size
        if self.has_convolution and vertical:
            self.convolution: nn.Module = nn.Conv2d(1, 1, (kernel_size, 1))
        elif self.has_convolution:
            inner = 2 * size
            self.convolution = nn.Conv1d(size, inner, kernel_size)
        self.output = nn.Linear(inner, size)
        self.dropout = Dropout(dropout)
        self.latent = nn.Linear(size, latent_size)

    def forward(self, h: torch.Tensor, noise: str, source: HistoryNoise | None = None) -> torch.Tensor:
        """``noise`` and ``source`` as in `add_noise`."""
        a = F.softplus(self.input(self.add_noise(h, noise, source) if self.has_convolution else h))
        a = self.add_noise(a, noise, source)
        if self.has_convolution:
            c = F.softplus(self.output(F.softplus(self.convolve(a))))
            return self.latent(self.dropout(h + c))
        c = self.dropout(self.add_noise(F.softplus(self.output(a)), noise, source))
        return self.latent(h + c if self.residual else c)

    def add_noise(self, v: torch.Tensor, noise: str, source: HistoryNoise | None) -> torch.Tensor:
        """f_eps(v) = v + tanh(W n + b), n ~ N(0, I) at every step.

        Args:
            noise: `sample`; `mean` for the mean over n, which does not depend on v; `none` for v itself.
            source: of `sample`, for v [B, L, H]; None for torch's own generator, on the device of v.
        """
        if noise == "none":
            return v
        if noise == "mean":
            return v + self.mean_noise()
        n = torch.randn_like(v) if source is None else source.normal(*v.shape[1:]).to(v)
        return v + torch.tanh(self.noise(n))

    def mean_noise(self) -> torch.Tensor:
        """E[tanh(W n + b)], [H]: unit j of W n + b is N(b_j, |W_j|^2); an even grid is as good as exact for normals."""
        weight, bias = self.noise.weight, self.noise.bias
        grid = torch.linspace(-8, 8, 201, dtype=weight.dtype, device=weight.device)
        values = torch.tanh(bias.unsqueeze(1) + weight.norm(dim=1, keepdim=True) * grid)
        return values @ (-grid.pow(2) / 2).softmax(0)

    def convolve(self, a: torch.Tensor) -> torch.Tensor:
        """Steps t - m + 1 to t -> step t; all padding is before the first, so that no step sees a later one."""
        before = self.kernel_size - 1
        if self.vertical:
            return self.convolution(F.pad(a, (0, 0, before, 0)).unsqueeze(1)).squeeze(1)
        return self.convolution(F.pad(a.transpose(1, 2), (before, 0))).transpose(1, 2)


class Adversary(nn.Module):
    """T_Psi: x [n, E], z [n, Z] -> [n, Z], one logit for each dimension of z; positive where z looks inferred."""

    def __init__(self, embedding_size: int, latent_size: int, dropout: float):
        super().__init__()
        d = embedding_size
        self.input = nn.Linear(d + latent_size, d)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(d, d), nn.Linear(d, d)) for _ in range(2))
        self.output = nn.Linear(d, latent_size)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        y = self.dropout(self.input(torch.cat([x, z], dim=-1)))
        for block in self.blocks:
            y = F.elu(y + block(y))
        return wide(self.dropout(self.output(y))) + wide(z).pow(2) / 2  # -log p(z) of the prior, but for a constant


class ContrastiveCritic(nn.Module):
    """G_omega: x [B, L, E], z [B, L, Z] -> logits [B, L]; positive where the z are those of the sequence x."""

    def __init__(self, embedding_size: int, latent_size: int):
        super().__init__()
        self.gru = nn.GRU(embedding_size + latent_size, embedding_size, batch_first=True)
        self.output = nn.Linear(embedding_size, 1)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.output(F.gelu(self.gru(torch.cat([x, z], dim=-1))[0])).squeeze(-1)


class ACVAE(SequentialRecommender):
    input_type = InputType.POINTWISE
    item_vectors_name = "item_embedding"
    loss_names = ("nll", "kl", "contrast", "adversary")
    reads_item_loss = True
    averages_windows = True  # not targets: the terms of eq. 13 are sums over the steps of a user

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        if (config["train_neg_sample_args"] or {}).get("distribution", "none") != "none":
            raise UserError("ACVAE learns from no sampled items: set train_neg_sample_args: ~")
        embedding_size, latent_size, size = config["embedding_size"], config["latent_size"], config["rnn_size"]
        kind = one_of(config, "encoder_type", ("fc_cnn", "fc", "fc_no_res"))
        vertical = one_of(config, "conv_type", ("dense", "vertical")) == "vertical"
        if config["kernel_size"] < 1:
            raise UserError(f"kernel_size must be at least 1, got {config['kernel_size']}")
        self.kl_weight, self.contrast_weight = config["kl_weight"], config["contrast_weight"]
        if not (self.kl_weight >= 0 and self.contrast_weight >= 0):
            weights = f"{self.kl_weight} and {self.contrast_weight}"
            raise UserError(f"kl_weight and contrast_weight must not be negative, got {weights}")
        self.gru_softplus, self.valid_pair = config["gru_softplus"], config["contrast_valid_pair"]
        self.every_step = config["train_pairs"] != "all"  # with a row for each prefix, each predicts its own target
        self.eval_noise = one_of(config, "eval_noise", ("none", "mean", "sample"))
        self.seed, self.item_loss = config["seed"], ItemLoss(config)
        self.alternate = one_of(config, "adv_schedule", ("same_batch", "alternate")) == "alternate"
        self.encoder_extra_sgd = config["encoder_extra_sgd"]
        self.settings = {"contrast": config["contrast_optimizer"], "adversary": config["adversary_optimizer"]}

        self.item_embedding = nn.Embedding(self.n_items, embedding_size, padding_idx=0)
        self.embedding_dropout = Dropout(config["emb_dropout_prob"])
        self.gru = nn.GRU(embedding_size, size, batch_first=True)
        dropout = config["dropout_prob"]
        self.encoder = Encoder(kind, size, latent_size, config["kernel_size"], vertical, dropout)
        self.hidden, self.output = nn.Linear(latent_size, embedding_size), nn.Linear(embedding_size, self.n_items)
        for layer in (self.hidden, self.output):
            nn.init.xavier_normal_(layer.weight)
        adversary = Adversary(embedding_size, latent_size, config["adv_dropout_prob"])
        self.adversary = adversary if self.kl_weight > 0 else None
        self.critic = ContrastiveCritic(embedding_size, latent_size) if self.contrast_weight > 0 else None

    # Optimisers

    def optimizer_spec(self) -> dict[str, tuple[list[nn.Parameter], dict | None]]:
        """Parameters and settings of each optimiser, in the order of their steps; None for the run's own settings."""
        of_critic = list(self.critic.parameters()) if self.critic else []
        of_adversary = list(self.adversary.parameters()) if self.adversary else []
        others = {id(parameter) for parameter in of_critic + of_adversary}
        main = [parameter for parameter in self.parameters() if id(parameter) not in others]
        spec: dict[str, tuple[list[nn.Parameter], dict | None]] = {"main": (main, None)}
        if self.critic:
            extra = list(self.encoder.parameters()) if self.encoder_extra_sgd else []
            spec["contrast"] = (of_critic + extra, self.settings["contrast"])
        if self.adversary:
            spec["adversary"] = (of_adversary, self.settings["adversary"])
        return spec

    def active_optimizers(self, step: int) -> set[str] | None:
        """Those that step in training step number ``step`` of the run, counted from 0; None for all (algorithm 1)."""
        if not self.alternate or not self.adversary:
            return None
        if step % 2:
            return {"adversary"}
        return {"main", "contrast"} if self.critic else {"main"}

    # Inference model, section 3.4, and generative model, eq. 3

    def infer(self, item_seq: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Item vectors x [B, L, E] and latent vectors z [B, L, Z] of item_seq [B, L], padded with 0 on the right."""
        x = self.item_embedding(item_seq)
        h = self.gru(self.embedding_dropout(x))[0]
        if self.gru_softplus:
            h = F.softplus(h)
        if self.training:
            return x, self.encoder(h, "sample")
        return x, self.encoder(h, self.eval_noise, HistoryNoise(self.seed, item_seq))

    def latent(self, interaction) -> torch.Tensor:
        """z at the last step of the history, [B, Z]."""
        item_seq, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]

        def read(item_seq: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
            return self.gather_indexes(self.infer(item_seq)[1], length - 1)

        return encode_by_length(read, length, [item_seq], [length])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """What the output layer reads: z [..., Z] -> [..., E]."""
        return torch.tanh(self.hidden(z))

    # Training, sections 3.3.2, 3.5 and 3.6; each loss is a sum over steps

    def reconstruction_loss(self, z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """-log P(x_{t+1} | z_t), z [n, Z], target [n]; padding is no item."""
        if not len(target):
            return z.sum()
        return self.item_loss(self.decode(z), self.output.weight, target, self.output.bias) * len(target)

    def divergence(self, adversary: Adversary, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """KL(q || p) as T estimates it, E_q[T] of eq. 9; a gradient reaches x and z, but not T."""
        fixed = {name: parameter.detach() for name, parameter in adversary.named_parameters()}
        return torch.func.functional_call(adversary, fixed, (x, z)).mean(-1).sum()

    def adversary_loss(self, adversary: Adversary, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Minus eq. 7; a gradient reaches T only."""
        x, z = x.detach(), z.detach()
        return discrimination_loss(adversary(x, z), adversary(x, torch.randn_like(z))).mean(-1).sum()

    def contrastive_loss(self, critic: ContrastiveCritic, x, z, valid, counted) -> torch.Tensor:
        """Eq. 12; the other user of a row is the next row. Steps of `valid` [B, L] exist, those of `counted` count."""
        own, other = critic(torch.cat([x, x]), torch.cat([z, z.roll(-1, 0)])).chunk(2)
        if self.valid_pair:
            other = other.masked_fill(~valid.roll(-1, 0), -torch.inf)  # its loss is 0
        return discrimination_loss(own[counted], other[counted]).sum()

    def calculate_loss(self, interaction) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The terms of eq. 13, weighted, as sums over steps and means over rows; 0 for what is switched off.

        One backward pass over their sum gives every parameter the gradient of its own objective: T is fixed in the
        second term, x and z in the last. In turns (`adv_schedule: alternate`) the same is computed at each step, and
        what belongs to the optimisers that do not step is thrown away.
        """
        length = interaction[self.ITEM_SEQ_LEN].unsqueeze(1)
        item_seq = interaction[self.ITEM_SEQ][:, : int(length.max())]  # no step sees a later one
        step = torch.arange(item_seq.shape[1], device=item_seq.device)
        valid = (item_seq != 0) & (step < length)
        counted = valid if self.every_step else valid & (step == length - 1)
        next_item = item_seq.roll(-1, 1).scatter(1, length - 1, interaction[self.POS_ITEM_ID].unsqueeze(1))
        return self.losses_at(item_seq, next_item, valid, counted)

    def calculate_positions_loss(self, interaction) -> tuple[torch.Tensor, ...]:
        """The same for windows, which are rows of which every step may count: sums over steps, means over windows."""
        item_seq, next_item = interaction[self.ITEM_SEQ], interaction[NEXT + self.ITEM_SEQ]
        return self.losses_at(item_seq, next_item, item_seq != 0, next_item != 0)

    def losses_at(
        self, item_seq, next_item, valid, counted
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The terms of eq. 13; all [B, L]: items, the items behind them, which of them exist, and which steps count."""
        rows = len(item_seq)
        x, z = self.infer(item_seq)
        x_t, z_t = x[counted], z[counted]
        nll = self.reconstruction_loss(z_t, next_item[counted]) / rows
        kl = contrast = adversary = nll.new_zeros(())
        if self.adversary:
            kl = self.kl_weight / rows * self.divergence(self.adversary, x_t, z_t)
        if self.critic and rows > 1:  # a single row would be its own other user
            contrast = self.contrast_weight / rows * self.contrastive_loss(self.critic, x, z, valid, counted)
        if self.adversary:
            adversary = self.adversary_loss(self.adversary, x_t, z_t) / rows
        return nll, kl, contrast, adversary

    # Recommendation, section 4.4

    def user_vectors(self, interaction) -> torch.Tensor:
        """What the output layer reads, and a 1 that its bias is multiplied with: [B, E + 1]."""
        return F.pad(self.decode(self.latent(interaction)), (0, 1), value=1.0)

    def item_vectors(self) -> torch.Tensor:
        """The output layer as vectors, the last number its bias: [n_items, E + 1]."""
        return torch.cat([self.output.weight, self.output.bias.unsqueeze(1)], dim=1)

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Logits of the next item, [B, n_items]."""
        return self.output(self.decode(self.latent(interaction)))

    def predict(self, interaction) -> torch.Tensor:
        """Scores [B] of the rows' own items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
