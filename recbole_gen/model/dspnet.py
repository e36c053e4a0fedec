"""DSPnet: "Predicting User Behaviors with Scene via Dual Sequence Networks", anonymous, submitted to ICLR 2025.

Every event has an item and a scene, the part of the app or site in which it happened. Two Transformers read the items
and the scenes of the history; each side also sees what the other one has read, and predicts the set of later items or
scenes. Discriminators draw the users' vectors towards a standard normal distribution, and augmented copies of a history
are held close to it.

    paper                 here                             meaning
    V, S                  SIDES, seq                       items and scenes of the history
    e^v_k, e^s_k          item_embedding, scene_embedding  their vectors, as input and as candidates
    f, h                  f, encode                        encoder, and its state at the last event, eq. 2
    g, z                  g, fuse                          each side's view of both histories, eq. 3
    D                     D                                discriminators, eq. 4
    r, o                  r, query                         what the candidates are multiplied with, eq. 5
    K^v, K^s              K                                numbers of items and of scenes
    A(.), N_+             augment, n_views                 section 3.3
    s, w, tau             ccr                              eq. 8
    lambda, alpha, beta   lambda_, alpha, beta             eq. 9

Differences from the paper (its code was never published)
    - The candidates are the whole catalogue, and both losses of eq. 6 are divided by the number of items, as printed
      (`scene_norm`). alpha and beta are set as multiples of 1 / K (`alpha_k`, `beta_k`), or as they are, and all of
      eq. 9 but the discriminators' own loss is multiplied by K: the same optimum, with gradients above Adam's epsilon
      (`objective_scale`).
    - In training all logits get a constant, the log odds of the mean label; without it most of the training goes into
      learning how rare positives are. It changes no ranking and is left out at recommendation (`logit_bias`).
    - Eq. 8 compares by inner products, which have no bound and outweigh everything else: here by cosines
      (`ccr_similarity`). Its weights carry no gradient, with which they would attract negatives (`ccr_detach`). Users
      with the same history are not "dissimilar" (`ccr_mask_identical`).
    - alpha weighs what the encoders see of eq. 4 only; the discriminators have an optimiser of their own.
    - Not said and chosen here: a bidirectional encoder with learned positions, read at the last event; shapes of g, r
      and D; He's initial weights for g and r (with smaller ones the model stays long at popularity); masking or
      reordering with equal odds, for items and scenes apart; Beta(3, 3) for the masked share.
    - Ablations (`fusion`): without MLP, z_S = z_V = [h_S, h_V]. In DSPnet- (`one_to_one`) one encoder of width
      d_s + d_v reads [scene, item] at each position and its state stands for [h_S, h_V]; the rest stays, so that scenes
      are predicted as before. Its views keep the pairs, and there is one contrastive loss.
    - `causal` encoders let an event see only what came before it; then, or with one layer, which is read at the last
      event, `train_pairs: positions` trains on every position of a window at once. Both losses of eq. 6 and the prior
      are those of the rows; the contrast is at the last position of each window only, whose views augment the whole of
      it: one that stands for an earlier position would have to leave out later events. It is a mean over windows.
    - A weight of 0 leaves its part out. Without lambda, what only predicts scenes keeps its initial weights: r_S and,
      where nothing is concatenated, all of side S, which has no prior and no contrast either. Scene scores then mean
      nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.model.layers import TransformerEncoder
from recbole.utils import InputType
from torch import nn
from torch.func import functional_call

from recbole_gen.errors import UserError
from recbole_gen.model.alike_lengths import encode_by_length, looked_up_once
from recbole_gen.model.augmentation import augment
from recbole_gen.model.dropout import Dropout
from recbole_gen.model.kept_items import KeptItems, places_of_kept, rows_of_kept
from recbole_gen.model.layers import FUTURE, distinct, one_of
from recbole_gen.model.positions import NEXT, encode_windows
from recbole_gen.model.set_losses import full_bce, labels_of_later, labels_of_sets, sampled_bce

SIDES = ("S", "V")
"""Scenes and items, in the order in which the paper concatenates them."""

PRIOR_ROWS = 10_000
"""Training rows from which the constant of the logits is estimated."""

SAMPLES_SETS = (
    "train_pairs: positions goes through all items, and candidates are sampled here, as their number is above "
    "full_limit or candidates: sampled says: use --candidates=full, or --train_pairs=all"
)


# Conditional contrastive regularisation, eq. 8


def identical(seq: torch.Tensor) -> torch.Tensor:
    """Which rows of seq [B, L] equal each other, [B, B]."""
    number = seq.unique(dim=0, return_inverse=True)[1]
    return number == number.unsqueeze(1)


def ccr(
    h: torch.Tensor,
    views: torch.Tensor,
    same: torch.Tensor | None,
    tau_pos: float,
    tau_neg: float,
    cosine: bool = True,
    detach: bool = True,
) -> torch.Tensor:
    """h [B, d], their views [N_+, B, d]; the other rows are the negatives, but for those that are the same [B, B]."""
    with torch.autocast(h.device.type, enabled=False):
        wide = torch.promote_types(h.dtype, torch.float32)
        h, views = h.to(wide), views.to(wide)
        if cosine:
            h, views = F.normalize(h, dim=-1), F.normalize(views, dim=-1)
        s_pos = (h * views).sum(-1).T / tau_pos  # [B, N_+]
        s_neg = h @ h.T / tau_neg  # [B, B]
        excluded = torch.eye(len(h), dtype=torch.bool, device=h.device)
        if same is not None:
            excluded = excluded | same
        w_pos = (-s_pos).softmax(dim=1)
        w_neg = s_neg.masked_fill(excluded, torch.finfo(wide).min).softmax(dim=1)
        if detach:
            w_pos, w_neg = w_pos.detach(), w_neg.detach()
        return ((w_neg * s_neg).masked_fill(excluded, 0).sum(1) - (w_pos * s_pos).sum(1)).mean()


class Encoder(nn.Module):
    """f of eq. 2: the Transformer of BERT4Rec over one sequence of vectors, read at the last event."""

    def __init__(self, config, size: int):
        super().__init__()
        self.position_embedding = nn.Embedding(config["MAX_ITEM_LIST_LENGTH"], size)
        self.norm = nn.LayerNorm(size, eps=config["layer_norm_eps"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.layers = TransformerEncoder(
            n_layers=config["n_layers"],
            n_heads=config["n_heads"],
            hidden_size=size,
            inner_size=config["inner_mult"] * size,
            hidden_dropout_prob=config["hidden_dropout_prob"],
            attn_dropout_prob=config["attn_dropout_prob"],
            hidden_act=one_of(config, "hidden_act", ("gelu", "relu", "swish", "tanh", "sigmoid")),
            layer_norm_eps=config["layer_norm_eps"],
        )

    def forward(
        self, tokens: torch.Tensor, hidden: torch.Tensor | None, later: torch.Tensor | None, last: torch.Tensor | None
    ) -> torch.Tensor:
        """The state at the last event of each history, or at every event.

        Args:
            tokens: [B, L, d].
            hidden: [B, 1, 1, L] added to scores, low on padding; None without padding.
            later: [1, 1, L, L] added to scores, low where a key is later than its query; None where all are read.
            last: [B] index of the last event; None for the states at all of them.

        Returns h [B, d], or [B, L, d].
        """
        x = self.dropout(self.norm(tokens + self.position_embedding.weight[: tokens.shape[1]]))
        masks = [each for each in (hidden, later) if each is not None]
        lower_mask = sum(masks) if masks else None
        *lower, top = self.layers.layer
        for layer in lower:
            x = layer(x, lower_mask)
        if last is None:
            return top(x, lower_mask)
        read = x[torch.arange(len(x), device=x.device), last].unsqueeze(1)  # the last layer is for this position only
        return top.feed_forward(top.multi_head_attention(x, hidden, queries=read)).squeeze(1)


def mlp(n_in: int, n_out: int, layers: int) -> nn.Sequential:
    """Linear layers with ReLU between them, the first n_in -> n_out."""
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Linear(n_in if index == 0 else n_out, n_out), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def refuse_mistakes(config, n_scenes: int) -> None:
    """Raise a UserError for settings that contradict each other, the data or reason."""
    counts, weights = ("n_heads", "mlp_layers", "n_views", "num_sampled"), ("lambda_scene", "alpha_k", "beta_k")
    for key in (*counts, *weights, *(key for key in ("alpha", "beta") if config[key] is not None)):
        if config[key] < (key in counts):
            raise UserError(f"{key} must be at least {int(key in counts)}, got {config[key]}")
    d_v, d_s, heads = (config[key] for key in ("hidden_size", "scene_size", "n_heads"))
    ratio, samples = str(config["mask_ratio"]), (config["train_neg_sample_args"] or {}).get("distribution", "none")
    is_share = ratio.replace(".", "", 1).isdigit() and 0 < float(ratio) < 1
    taus = config["tau_pos"], config["tau_neg"]
    for good, message in (
        (samples == "none", f"DSPnet draws no negative rows: leave train_neg_sample_args unset, got '{samples}'"),
        (n_scenes > 2, f"fewer than two scenes in '{config['SCENE_FIELD']}': set SCENE_FIELD to a column with more"),
        (d_v % heads == d_s % heads == 0, f"n_heads must divide hidden_size {d_v} and scene_size {d_s}, got {heads}"),
        (d_v == d_s or not config["share_r"], f"share_r needs hidden_size {d_v} and scene_size {d_s} to be equal"),
        (ratio == "beta" or is_share, f"mask_ratio must be beta or a number between 0 and 1, got '{ratio}'"),
        (min(taus) > 0, f"tau_pos and tau_neg must be positive, got {taus[0]} and {taus[1]}"),
    ):
        if not good:
            raise UserError(message)


def later_events(model: DSPnet, interaction) -> dict[str, torch.Tensor]:
    """Items and scenes that a training batch is to predict, [B, W] each, by their places among the candidates."""
    items = places_of_kept(interaction[FUTURE + model.ITEM_SEQ], model.kept_items)
    return {"V": items, "S": interaction[FUTURE + model.SCENE_SEQ]}


class DSPnet(SequentialRecommender):
    """The paper in the order of its section 3; every size and switch is described in properties/model/DSPnet.yaml."""

    input_type = InputType.POINTWISE
    item_vectors_name = "item_embedding"
    loss_names = ("items", "scenes", "prior", "contrast", "discriminator")

    bias: torch.Tensor
    kept_items: KeptItems | None = None

    @staticmethod
    def needs_scenes(config) -> bool:
        """Whether the scenes of the history are read; the data set adds them."""
        return True

    @staticmethod
    def needs_future(config) -> bool:
        """Whether training rows need the sets of their later items and scenes; the data set adds them."""
        return True

    @staticmethod
    def why_no_positions(config) -> str | None:
        """Why `train_pairs: positions` cannot be with these settings, or None."""
        if config["n_layers"] > 1 and not config["causal"]:
            return "its encoders read every history as a whole: use --causal=True, --n_layers=1 or --train_pairs=all"
        return SAMPLES_SETS if config["candidates"] == "sampled" else None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.causal, self.future_events = config["causal"], config["future_events"]
        self.SCENE_SEQ = config["SCENE_FIELD"] + config["LIST_SUFFIX"]
        self.n_scenes = dataset.num(config["SCENE_FIELD"])
        refuse_mistakes(config, self.n_scenes)
        self.K = {"S": self.n_scenes - 1, "V": self.n_items - 1}
        K = self.K["V"]
        self.scale = K if one_of(config, "objective_scale", ("K", "none")) == "K" else 1
        self.lambda_, self.alpha, self.beta = config["lambda_scene"], config["alpha"], config["beta"]
        if self.alpha is None:
            self.alpha = config["alpha_k"] / K
        if self.beta is None:
            self.beta = config["beta_k"] / K
        self.divisor = {"S": K if one_of(config, "scene_norm", ("item", "own")) == "item" else self.K["S"], "V": K}
        candidates, self.num_sampled = one_of(config, "candidates", ("auto", "full", "sampled")), config["num_sampled"]
        self.samples = candidates == "sampled" or (candidates == "auto" and config["full_limit"] < K)
        self.saturating = one_of(config, "apr_generator", ("saturating", "nonsaturating")) == "saturating"
        self.discriminator_optimizer = config["discriminator_optimizer"]
        self.n_views = config["n_views"] if self.beta else 0
        self.mask_ratio = None if config["mask_ratio"] == "beta" else float(config["mask_ratio"])
        self.mask_identical = config["ccr_mask_identical"]
        cosine = one_of(config, "ccr_similarity", ("cosine", "dot")) == "cosine"
        self.ccr_settings = config["tau_pos"], config["tau_neg"], cosine, config["ccr_detach"]
        fusion = one_of(config, "fusion", ("full", "no_concat", "no_mlp", "one_to_one"))
        self.concatenates, self.one_to_one = fusion != "no_concat", fusion == "one_to_one"
        self.share_r = config["share_r"]

        d = {"S": config["scene_size"], "V": config["hidden_size"]}
        both = d["S"] + d["V"]
        self.item_embedding = nn.Embedding(self.n_items + 1, d["V"], padding_idx=0)  # the last row is [MASK]
        self.scene_embedding = nn.Embedding(self.n_scenes + 1, d["S"], padding_idx=0)
        widths = {"SV": both} if self.one_to_one else d
        self.f_sizes = [*widths.values()]
        self.f = nn.ModuleDict({name: Encoder(config, width) for name, width in widths.items()})
        for module in self.modules():  # as in BERT4Rec
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=config["initializer_range"])
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.item_embedding.weight[0], self.scene_embedding.weight[0] = 0, 0
        z_size = dict.fromkeys(SIDES, both) if fusion == "no_mlp" else d
        self.g, self.r, self.D = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for side in SIDES:
            read = both if self.concatenates else d[side]
            self.g[side] = nn.Identity() if fusion == "no_mlp" else mlp(read, d[side], config["mlp_layers"])
        for side in ("V",) if self.share_r else SIDES:
            self.r[side] = nn.Linear(sum(z_size.values()) if self.concatenates else z_size[side], d[side])
        for module in (*self.g.modules(), *self.r.modules()):
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

        self.trained: tuple[str, ...] = SIDES
        if not self.lambda_:
            idle = [] if self.share_r else [self.r["S"]]
            if not self.concatenates:
                self.trained = ("V",)
                idle += [self.scene_embedding, self.f["S"], self.g["S"]]
            for module in idle:
                module.requires_grad_(False)
        for side in self.trained if self.alpha else ():
            size = z_size[side]
            self.D[side] = nn.Sequential(nn.Linear(size, size), nn.LeakyReLU(0.2), nn.Linear(size, 1))
        use_prior = one_of(config, "logit_bias", ("prior", "none")) == "prior"
        self.register_buffer("bias", self._prior_logits(dataset.inter_feat) if use_prior else torch.zeros(2))

    def _prior_logits(self, rows) -> torch.Tensor:
        """Log odds of a label being positive, of scenes and of items, [2]."""
        count = min(len(rows), PRIOR_ROWS)
        rows = rows[torch.arange(count) * len(rows) // count]
        labels = {"S": rows[FUTURE + self.SCENE_SEQ], "V": rows[FUTURE + self.ITEM_SEQ]}
        p = [(distinct(labels[side]) != 0).sum(1).double().mean() / self.K[side] for side in SIDES]
        return torch.stack(p).clamp(1e-9, 0.5).logit().float()

    def optimizer_spec(self) -> dict[str, tuple[list[nn.Parameter], dict | None]]:
        """Parameters and settings of each optimiser, in the order of their steps; None stands for the run's own."""
        theirs = list(self.D.parameters())
        known = set(map(id, theirs))
        main = [p for p in self.parameters() if p.requires_grad and id(p) not in known]
        return {"main": (main, None), **({"discriminator": (theirs, self.discriminator_optimizer)} if theirs else {})}

    def candidates(self, side: str) -> torch.Tensor:
        """Vectors [K, d] of all scenes or items, without padding and [MASK]; of items those that training knows."""
        if side == "S":
            return self.scene_embedding.weight[1 : self.n_scenes]
        return rows_of_kept(self.item_embedding.weight[: self.n_items], self.kept_items)[1:]

    # Dual sequence learning, section 3.2

    def read(self, interaction) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Both histories, cut to the longest of the batch, and their lengths; no history is one event of padding."""
        length = interaction[self.ITEM_SEQ_LEN].clamp(min=1)
        width = int(length.max())
        real = torch.arange(width, device=length.device) < length.unsqueeze(1)
        seq = {"S": interaction[self.SCENE_SEQ], "V": interaction[self.ITEM_SEQ]}
        return {side: seq[side][:, :width].masked_fill(~real, 0) for side in SIDES}, length

    def _states(self, items: torch.Tensor, scenes: torch.Tensor, length: torch.Tensor, every: bool = False):
        """h of eq. 2 of all encoders side by side, [B, d]; ``every``: at all events, reading earlier ones, [B, l, d].

        items and scenes [B, l], of which nothing is read behind the length [B].
        """
        tokens = {"S": self.scene_embedding(scenes), "V": self.item_embedding(items)}
        if self.one_to_one:
            tokens = {"SV": torch.cat([tokens["S"], tokens["V"]], dim=-1)}
        step = torch.arange(items.shape[1], device=length.device)
        padding = step >= length.unsqueeze(1)
        zeros = tokens[next(iter(tokens))].new_zeros
        low = torch.finfo(zeros(1).dtype).min / 4  # two of them are no infinity
        hidden = later = None
        if every or self.causal:
            later = zeros(1, 1, len(step), len(step)).masked_fill_(step > step.unsqueeze(1), low)
        if not every and padding.any():
            hidden = zeros(len(length), 1, 1, len(step)).masked_fill_(padding[:, None, None], low)
        last = None if every else length - 1
        return torch.cat([f(tokens[name], hidden, later, last) for name, f in self.f.items()], dim=-1)

    def _by_encoder(self, states: torch.Tensor) -> dict[str, torch.Tensor]:
        """Parts [..., d] of states that lie side by side, by the name of the encoder."""
        return dict(zip(self.f, states.split(self.f_sizes, dim=-1), strict=True))

    def encode(self, seq: dict[str, torch.Tensor], length: torch.Tensor) -> dict[str, torch.Tensor]:
        """h of eq. 2, by the name of the encoder."""
        with looked_up_once(self.item_embedding, seq["V"]):
            return self._by_encoder(encode_by_length(self._states, length, [seq["V"], seq["S"]], [length]))

    def fuse(self, h: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """z of eq. 3."""
        if self.concatenates:
            h = dict.fromkeys(SIDES, torch.cat(list(h.values()), dim=-1))
        return {side: self.g[side](h[side]) for side in SIDES}

    def query(self, z: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """o of eq. 5."""
        if self.concatenates:
            z = dict.fromkeys(SIDES, torch.cat([z["S"], z["V"]], dim=-1))
        return {side: self.r["V" if self.share_r else side](z[side]) for side in SIDES}

    def adversarial_prior(self, z: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Eq. 4 as the encoders see it, through discriminators held fixed, and the discriminators' own loss."""
        generator, discriminator = [], []
        with torch.autocast(z["V"].device.type, enabled=False):
            for side, D in self.D.items():
                z_ = z[side].to(self.item_embedding.weight.dtype)
                fixed = {name: parameter.detach() for name, parameter in D.named_parameters()}
                a = functional_call(D, fixed, (z_,))
                generator.append((-F.softplus(a) if self.saturating else F.softplus(-a)).mean())
                a_prior, a = D(torch.randn_like(z_)), D(z_.detach())
                discriminator.append((F.softplus(-a_prior) + F.softplus(a)).mean())
        return torch.stack(generator).sum(), torch.stack(discriminator).sum()

    # Training, sections 3.3 and 3.4

    def views(self, seq: dict[str, torch.Tensor], length: torch.Tensor) -> dict[str, torch.Tensor]:
        """N_+ augmented copies of the histories [B, L], one copy of the batch behind the other, [N_+ B, L]."""
        width, copies = seq["V"].shape[1], length.repeat(self.n_views)
        positions = {side: augment(copies, width, self.mask_ratio) for side in SIDES}
        if self.one_to_one:
            positions["S"] = positions["V"]
        out = {}
        for side, mask_id in (("S", self.n_scenes), ("V", self.n_items)):
            source = F.pad(seq[side], (0, 1), value=mask_id).repeat(self.n_views, 1)
            out[side] = source.gather(1, positions[side])
        return out

    def prediction_loss(self, side: str, o: torch.Tensor, future: torch.Tensor) -> torch.Tensor:
        """Eq. 6 of rows whose later items or scenes are ``future`` [B, W], before the division by K."""
        rows, bias = self.candidates(side), self.bias[SIDES.index(side)]
        if side == "V" and self.samples:  # scenes are few, and never sampled
            return sampled_bce(o, rows, distinct(future), bias, self.num_sampled)
        return full_bce(o, rows, labels_of_sets(future), bias)

    def contrast(self, h: dict[str, torch.Tensor], views: dict[str, torch.Tensor], seq: dict[str, torch.Tensor]):
        """Eq. 8 of all encoders: states h [B, d], those of the views [N_+ B, d], histories [B, L]."""
        total = next(iter(h.values())).new_zeros(())
        for name in ("SV",) if self.one_to_one else self.trained:
            same = torch.stack([identical(seq[side]) for side in name]).all(0) if self.mask_identical else None
            total = total + ccr(h[name], views[name].unflatten(0, (self.n_views, -1)), same, *self.ccr_settings)
        return total

    def objective(
        self,
        h: dict[str, torch.Tensor],
        prediction_loss: Callable[[str, torch.Tensor], torch.Tensor],
        contrast: Callable[[], torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """The terms of eq. 9, weighted, and the discriminators' loss: the gradient of their sum gives each its own."""
        z = self.fuse(h)
        o = self.query(z)
        items = prediction_loss("V", o["V"]) / self.divisor["V"]
        scenes = prior = contrasted = discriminator = items.new_zeros(())
        if self.lambda_:
            scenes = prediction_loss("S", o["S"]) / self.divisor["S"]
        if self.alpha:
            prior, discriminator = self.adversarial_prior(z)
        if self.beta:
            contrasted = contrast()
        weights = (1, self.lambda_, self.alpha, self.beta)
        terms = (items, scenes, prior, contrasted)
        return *(self.scale * weight * term for weight, term in zip(weights, terms)), discriminator

    def calculate_loss(self, interaction) -> tuple[torch.Tensor, ...]:
        """`objective` of rows, a history and the events behind it each."""
        seq, length = self.read(interaction)
        future = later_events(self, interaction)
        read = seq
        if self.beta:  # all in one, for histories and views alike
            views = self.views(seq, length)
            read = {side: torch.cat([seq[side], views[side]]) for side in SIDES}
        states = self.encode(read, length.repeat(1 + self.n_views))
        h, of_views = (
            {name: each[part] for name, each in states.items()}
            for part in (slice(len(length)), slice(len(length), None))
        )
        return self.objective(
            h, lambda side, o: self.prediction_loss(side, o, future[side]), lambda: self.contrast(h, of_views, seq)
        )

    def calculate_positions_loss(self, interaction) -> tuple[torch.Tensor, ...]:
        """`objective` of every position of windows; the contrast is at the last one of each."""
        if self.samples:
            raise UserError(SAMPLES_SETS)
        seq, length = self.read(interaction)
        every, places = encode_windows(
            lambda length, items, scenes: self._states(items, scenes, length, every=True), length, seq["V"], seq["S"]
        )
        states = self._by_encoder(every)
        counted = interaction[NEXT + self.ITEM_SEQ].flatten()[places] != 0
        width = seq["V"].shape[1]
        row, step = places[counted] // width, places[counted] % width
        future = later_events(self, interaction)

        def prediction_loss(side: str, o: torch.Tensor) -> torch.Tensor:
            labels = labels_of_later(future[side], row, step, self.future_events)
            return full_bce(o, self.candidates(side), labels, self.bias[SIDES.index(side)])

        def contrast() -> torch.Tensor:
            last = length.cumsum(0) - 1
            views = self.encode(self.views(seq, length), length.repeat(self.n_views))
            return self.contrast({name: each[last] for name, each in states.items()}, views, seq)

        return self.objective({name: each[counted] for name, each in states.items()}, prediction_loss, contrast)

    # Inference

    def _query_of(self, interaction) -> dict[str, torch.Tensor]:
        return self.query(self.fuse(self.encode(*self.read(interaction))))

    def latent(self, interaction) -> torch.Tensor:
        """z_V [B, d], the user's vector on the item side."""
        return self.fuse(self.encode(*self.read(interaction)))["V"]

    def user_vectors(self, interaction) -> torch.Tensor:
        """o of the item side, [B, d]."""
        return self._query_of(interaction)["V"]

    def item_vectors(self) -> torch.Tensor:
        """What it is multiplied with, [n_items, d]; that of padding is 0."""
        return self.item_embedding.weight[: self.n_items]

    def full_sort_predict(self, interaction) -> torch.Tensor:
        """Scores [B, n_items]: logits without the constant; that of padding is 0."""
        return self.user_vectors(interaction) @ self.item_vectors().T

    def full_sort_predict_scene(self, interaction) -> torch.Tensor:
        """Scores [B, n_scenes], likewise."""
        return self._query_of(interaction)["S"] @ self.scene_embedding.weight[: self.n_scenes].T

    def predict(self, interaction) -> torch.Tensor:
        """Scores [B] of the rows' own items."""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
