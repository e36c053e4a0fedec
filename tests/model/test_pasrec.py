"""PASRec and PreferDiff against their equations written out again, on models of toy size with random weights."""

import copy
import math
from pathlib import Path

import pytest
import torch
import yaml
from stubs import Config
from torch.nn.functional import cosine_similarity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recbole_gen.data.times import SECONDS_PER_DAY, DayRange
from recbole_gen.errors import UserError
from recbole_gen.model import day_search, pasrec
from recbole_gen.model.layers import HistoryNoise
from recbole_gen.model.next_day import TimeEncoding
from recbole_gen.model.pasrec import GuidanceEncoder, PASRec, PreferDiff

N_ITEMS, D, LENGTH, TIMESTEPS, STRIDE = 30, 16, 6, 20, 5
FIRST, LAST = 1000, 7000
PROPERTIES = Path(__file__).parents[2] / "properties/model"
DEFAULTS = {
    model: yaml.safe_load((PROPERTIES / f"{model.__name__}.yaml").read_text()) for model in (PASRec, PreferDiff)
}
TOY = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "TOI_FIELD": "toi",
    "device": "cpu",
    "seed": 2020,
    "hidden_size": D,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "timesteps": TIMESTEPS,
    "ddim_stride": STRIDE,
}
POSITION = {"time_encoding": "position", "gamma": 0.0, "eta": 1.0}
ENCODINGS = {
    "sinusoidal": {"time_encoding": "sinusoidal"},
    "gaussian": {"time_encoding": "gaussian", "sigma": 0.05},
    "rff": {"time_encoding": "rff", "sigma": 1.0},
}
SAMPLERS = {
    "closed_form": {"sampler": "closed_form"},
    "stepwise": {"sampler": "stepwise"},
    "mlp": {"denoiser": "mlp"},
    "closed_form_compat": {"sampler": "closed_form", "ddim_compat": True},
    "stepwise_compat": {"sampler": "stepwise", "ddim_compat": True},
    "mlp_compat": {"denoiser": "mlp", "ddim_compat": True},
}
ERRORS = {
    "mse_mean": lambda f, x: ((f - x) ** 2).mean(),
    "mse_sum": lambda f, x: ((f - x) ** 2).sum(1).mean(),
    "cos_sq": lambda f, x: ((1 - (f * x).sum(1) / (f.norm(dim=1) * x.norm(dim=1))) ** 2).mean(),
}
HISTORIES = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10], [3, 2, 1], [11, 12], [13, 14, 15, 16]]
TARGETS = [20, 21, 22, 23, 20, 24, 25]  # in no history; one of them twice


@pytest.fixture(autouse=True)
def seeded(one_thread):
    torch.manual_seed(0)


class Items:
    def __init__(self, n_items=N_ITEMS, day_range=None):
        self.n_items, self.day_range = n_items, day_range or DayRange(FIRST, LAST)

    def num(self, field):
        return self.n_items


def fresh(model=PASRec, items=None, **changes) -> PASRec:
    torch.manual_seed(1)
    return model(Config(DEFAULTS[model] | TOY | changes), items or Items())


def build(model=PASRec, **changes) -> PASRec:
    """In evaluation mode, with biases, norms and denoiser such that each of them and the chain's start matter."""
    model = fresh(model, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        if model.is_linear:
            model.denoiser.weight[:, : model.denoiser.out_features] += 0.8 * torch.eye(model.denoiser.out_features)
    return model.eval()


def trainable(model=PASRec, **changes) -> PASRec:
    """As `build`, training without dropout."""
    return build(model, dropout_prob=0.0, **changes).train()


def batch(histories, targets=None, width=LENGTH) -> dict[str, torch.Tensor]:
    """With increasing times, the target's last; those of a row depend on its place in the batch only."""
    draw = torch.Generator().manual_seed(5)
    days = torch.randint(LAST - FIRST + 1, (len(histories), LENGTH + 1), generator=draw).sort(dim=1).values
    ids = torch.tensor([history + [0] * (width - len(history)) for history in histories])
    return {
        "item_id_list": ids,
        "item_length": torch.tensor([len(history) for history in histories]),
        "item_id": torch.tensor(targets or [20] * len(histories)),
        "toi_list": days[:, :width] / (LAST - FIRST) * (ids != 0),
        "toi": days[:, -1] / (LAST - FIRST),
    }


def without(interaction: dict, *columns) -> dict[str, torch.Tensor]:
    return {name: values for name, values in interaction.items() if name not in columns}


def guidance(model: PASRec, interaction) -> torch.Tensor:
    return model.enrich(*model.represent(interaction))


def no_grad(call, *args):
    with torch.no_grad():
        return call(*args)


def noise_for(h: torch.Tensor, seed: int = 3) -> HistoryNoise:
    """Noise for guidance [B, d], as of a history of its own for each row."""
    return HistoryNoise(seed, torch.arange(1, len(h) + 1).unsqueeze(1))


def generated(model, h: torch.Tensor, seed: int = 3) -> torch.Tensor:
    return no_grad(model.generate, h, noise_for(h, seed))


def scores_of(model: PASRec, interaction) -> torch.Tensor:
    return no_grad(model.full_sort_predict, interaction)


def losses(model: PASRec, interaction, seed: int = 7) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    return model.calculate_loss(interaction)


def recorded(model: PASRec) -> dict[str, torch.Tensor]:
    """What the next call feeds to p_theta (x_t, h, t) and what it answers (f)."""
    seen, denoise = {}, model.denoise

    def record(x_t, h, t):
        seen.update(x_t=x_t, h=h, t=t, f=denoise(x_t, h, t))
        return seen["f"]

    model.denoise = record
    return seen


def learns(module: torch.nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def item_gradients(model: PASRec, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, model.item_embedding.weight, retain_graph=True)[0]


# The equations once more


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def two_layers(x, mlp):
    hidden = linear(x, mlp[0])
    return linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, mlp[2])


def slow_encoder(encoder, tokens, ids, last) -> torch.Tensor:
    """The PD block of spec 5.1 word by word: causal attention over every position, then the row of the last item."""
    width, d = tokens.shape[1:]
    m = (ids != 0).unsqueeze(-1).float()  # [B, L, 1]
    z = tokens * m
    q = norm(z, encoder.query_norm)
    queries, values = linear(q, encoder.query), linear(z, encoder.value)
    keys = z @ encoder.key.weight.T + torch.linspace(-1, 1, d)  # a bias of the keys cancels, so the model has none
    heads = []
    for part in torch.arange(d).chunk(encoder.n_heads):
        scores = queries[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(d)  # full d, not that of a head
        scores = torch.where((ids != 0).unsqueeze(1), scores, -(2.0**32) + 1)
        scores = torch.where(torch.ones(width, width).tril().bool(), scores, -(2.0**32) + 1)
        heads.append(scores.softmax(-1) @ values[..., part])
    a = torch.cat(heads, dim=-1) + q
    r = z + a
    u = norm(r, encoder.attention_norm)
    forward = linear(linear(u, encoder.feed_forward[0]).relu(), encoder.feed_forward[2])
    out = norm(r + norm(forward + u, encoder.feed_forward_norm) * m, encoder.output_norm)
    return out[torch.arange(len(ids)), last]


def slow_times(encoding: TimeEncoding, t: torch.Tensor) -> torch.Tensor:
    """Eq. 3-5, one dimension at a time."""
    d = encoding.size
    if encoding.name == "sinusoidal":
        pairs = [(t / 10000 ** (2 * i / d)) for i in range(d // 2)]
        return torch.stack([wave for angle in pairs for wave in (angle.sin(), angle.cos())], dim=-1)
    if encoding.name == "gaussian":
        return torch.stack([torch.exp(-((t - j / (d - 1)) ** 2) / (2 * encoding.sigma**2)) for j in range(d)], dim=-1)
    angles = [2 * math.pi * b * t for b in encoding.frequencies.tolist()]
    return torch.stack([angle.cos() for angle in angles] + [angle.sin() for angle in angles], dim=-1)


def slow_step_embedding(embedding, t: torch.Tensor) -> torch.Tensor:
    k = torch.arange(D // 2)
    angles = t[:, None] * torch.exp(-k * math.log(1e4) / (D // 2 - 1))
    return two_layers(torch.cat([angles.sin(), angles.cos()], dim=1), embedding.mlp)


def slow_losses(model: PASRec, interaction, error: str, p_uncond: float, seed: int = 7) -> list[torch.Tensor]:
    """Spec 5.2 and 5.3 for the linear denoiser, without weights: L_Normal, L_BPR and, with times, L_ToI."""
    ids, table = interaction["item_id_list"], model.item_embedding.weight
    rows, last = torch.arange(len(ids)), (interaction["item_length"] - 1).clamp(min=0)
    if model.uses_time:
        tau = slow_times(model.time_encoding, interaction["toi_list"])
    else:
        tau = model.position_embedding.weight[: ids.shape[1]]
    h = g = slow_encoder(model.encoder, table[ids] + tau, ids, last)
    if model.uses_time:
        tau_hat = two_layers(torch.cat([g, tau[rows, last]], dim=1), model.toi_predictor)
        h = (1 - model.gamma) * g + model.gamma * two_layers(torch.cat([g, tau_hat], dim=1), model.fusion)

    torch.manual_seed(seed)
    h = torch.where(torch.rand(len(ids), 1) < p_uncond, model.null_guidance, h)
    t = torch.randint(TIMESTEPS, (len(ids),))
    noises = torch.randn(2, len(ids), D)
    level = (1 - torch.linspace(1e-4, 0.02, TIMESTEPS)).cumprod(0)[t].unsqueeze(1)
    positive = table[interaction["item_id"]]
    negative = torch.stack([positive[rows != row].mean(0) for row in rows])
    errors = []
    for x0, noise in zip((positive, negative), noises):
        x_t = level.sqrt() * x0 + (1 - level).sqrt() * noise
        step = slow_step_embedding(model.step_embedding, t)
        errors.append(ERRORS[error](linear(torch.cat([x_t, h, step], dim=1), model.denoiser), x0))
    terms = [errors[0], torch.log(1 + torch.exp(model.kappa * (errors[0] - errors[1])))]
    if model.uses_time:
        terms.append(-cosine_similarity(slow_times(model.time_encoding, interaction["toi"]), tau_hat).mean())
    return terms


def slow_generation(model: PASRec, h: torch.Tensor, w: float, compat: bool) -> torch.Tensor:
    """Eq. 20-21 with two network calls a step; level[n] is that of x after n steps of noise."""
    level = [1.0, *(1 - torch.linspace(1e-4, 0.02, TIMESTEPS, dtype=torch.float64)).cumprod(0).tolist()]
    if compat:  # spec 2.5: what the network is told, and how many steps of noise there are
        visits = [(n, max(n, 1)) for n in range(TIMESTEPS, -1, -STRIDE)]
    else:
        visits = [(n - 1, n) for n in range(TIMESTEPS, 0, -STRIDE)]
    x, null = noise_for(h).normal(D), model.null_guidance.expand_as(h)
    for (told, n), after in zip(visits, [n for _, n in visits[1:]] + [0]):
        t = torch.full((len(h),), told)
        f = (1 + w) * model.denoise(x, h, t) - w * model.denoise(x, null, t)
        noise = (x - math.sqrt(level[n]) * f) / math.sqrt(1 - level[n])
        x = math.sqrt(level[after]) * f + math.sqrt(1 - level[after]) * noise
    return x


# Parameters (spec 5.1)


def test_parameter_count_is_that_of_the_published_code():
    """825,472 for 12,101 items and the padding row at d = 64, of which ours lacks the bias of the keys."""
    model = fresh(PreferDiff, Items(12_102), hidden_size=64, MAX_ITEM_LIST_LENGTH=10)
    assert sum(p.numel() for p in model.parameters()) == 825_472 - 64
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("denoiser", ["linear", "mlp"])
def test_parameters_of_time(denoiser):
    d, n_positions = D, LENGTH * D
    f = {"linear": 3 * d * d + d, "mlp": (3 * d * 2 * d + 2 * d) + (2 * d * d + d)}
    without_times = sum(p.numel() for p in fresh(PreferDiff).parameters()) - n_positions - f["linear"]
    model = fresh(denoiser=denoiser)
    heads = 2 * ((2 * d * d + d) + (d * d + d))  # M_phi and fusion
    assert sum(p.numel() for p in model.parameters()) == without_times + heads + f[denoiser]
    assert set(model.state_dict()) - {name for name, _ in model.named_parameters()} == {
        "time_encoding.frequencies", "day_range"
    }  # fmt: skip


def test_parameter_initialisation():
    model = fresh(PreferDiff, hidden_size=256, MAX_ITEM_LIST_LENGTH=40)
    assert not model.item_embedding.weight[0].any()
    for table in (model.item_embedding.weight[1:], model.position_embedding.weight, model.null_guidance):
        standard_error = 1 / math.sqrt(table.numel())
        assert abs(table.mean().item()) < 4 * standard_error
        assert abs(table.std().item() - 1) < 4 * standard_error
    attention = (model.encoder.query, model.encoder.key, model.encoder.value)
    for layer in (module for module in model.modules() if isinstance(module, torch.nn.Linear)):
        inputs = layer.in_features if layer not in attention else (layer.in_features + layer.out_features) / 6
        bound = 1 / math.sqrt(inputs)  # torch's default; Xavier's for the attention, sqrt(6 / (in + out))
        assert layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not model.encoder.query.bias.any() and not model.encoder.value.bias.any()


# Guidance encoder (spec 5.1)


@pytest.mark.parametrize("n_heads", [1, 2, 4])
@pytest.mark.parametrize("width", [LENGTH, 4])
def test_encoder_equals_the_block_at_full_length(n_heads, width):
    encoder = build(n_heads=n_heads).encoder
    ids = batch([history[:width] for history in HISTORIES], width=width)["item_id_list"]
    tokens, last = torch.randn(*ids.shape, D), ((ids != 0).sum(1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = slow_encoder(encoder, tokens, ids, last)
        torch.testing.assert_close(encoder(tokens, ids != 0, last), expected, rtol=1e-4, atol=1e-5)


def test_encoder_hides_what_a_padded_position_holds():
    model, interaction = build(), batch(HISTORIES)
    real, last = interaction["item_id_list"] != 0, (interaction["item_length"] - 1).clamp(min=0)
    tokens = torch.randn(*real.shape, D)
    garbage = torch.where(real.unsqueeze(-1), tokens, 1000.0)
    assert torch.equal(model.encoder(garbage, real, last), model.encoder(tokens, real, last))


def test_dropout_is_on_inputs_attention_and_feed_forward():
    """With all three dropping everything, only the biases of the norms are left of the network; then none of it."""
    model, interaction = build(dropout_prob=1.0), batch([[1, 2, 3], [4]])
    calm = model.represent(interaction)[0]
    assert torch.equal(model.represent(interaction)[0], calm)
    encoder, g = model.encoder, model.train().represent(interaction)[0]
    q = encoder.query_norm.bias
    u = encoder.attention_norm(q)
    torch.testing.assert_close(g, encoder.output_norm(q + encoder.feed_forward_norm(u)).expand_as(g))
    torch.testing.assert_close(trainable().represent(interaction)[0], calm)


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
@pytest.mark.parametrize("training", [False, True])
def test_T14_empty_histories_share_a_learned_constant(model_class, training):
    model = trainable(model_class).train(training)
    interaction = batch([[], [1, 2], [], []])
    interaction["item_length"][2] = 1  # an empty history may also come as one padding item
    with torch.no_grad():
        g, tau_hat = model.represent(interaction)
        h = model.enrich(g, tau_hat)
    assert g.isfinite().all() and h.isfinite().all()
    for vectors in (g, h):
        torch.testing.assert_close(vectors[2:], vectors[:1].expand(2, D))
        for other in (vectors[1], model.null_guidance):
            assert (vectors[0] - other).abs().max() > 0.01


def test_T14_empty_histories_leave_all_gradients_finite():
    model = trainable(uncond_prob=0.0, detach_target=False, detach_noised=False)
    sum(losses(model, batch([[], [1, 2], []], [20, 21, 22]))).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Training: the whole loss (spec 5.2, 5.3)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_loss_is_equation_17_written_out(encoding, error):
    changes = {**ENCODINGS[encoding], "error": error, "uncond_prob": 0.5, "gamma": 0.3, "eta": 0.7, "lambda_": 0.4}
    model, interaction = trainable(kappa=2.0, **changes), batch(HISTORIES, TARGETS)
    normal, bpr, toi = slow_losses(model, interaction, error, 0.5)
    expected = (0.7 * 0.4 * normal, 0.7 * 0.6 * bpr, 0.3 * toi)
    terms = losses(model, interaction)
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
    assert len(model.loss_names) == len(terms) == 3 and -1 <= toi <= 1


@pytest.mark.parametrize("error", ERRORS)
def test_T18_without_times_the_loss_is_preferdiffs(error):
    changes = {"error": error, "uncond_prob": 0.5, "lambda_": 0.4}
    interaction = batch(HISTORIES, TARGETS)
    own = losses(trainable(PreferDiff, **changes), without(interaction, "toi", "toi_list"))
    switched_off = trainable(**POSITION, **changes)
    assert own == losses(switched_off, interaction)
    assert switched_off.loss_names == ("reconstruction", "preference")
    normal, bpr = slow_losses(switched_off, interaction, error, 0.5)
    torch.testing.assert_close(own, (0.4 * normal, 0.6 * bpr), rtol=1e-4, atol=1e-5)


def test_T18_lambda_1_is_the_reconstruction_alone():
    model = trainable(PreferDiff, lambda_=1.0, kappa=1e3)
    interaction, seen = batch(HISTORIES, TARGETS), recorded(model)
    reconstruction, preference = losses(model, interaction)
    x0 = model.item_embedding.weight[interaction["item_id"]]
    torch.testing.assert_close(reconstruction, ((x0 - seen["f"][0]) ** 2).mean())
    assert preference == 0


def test_T18_eta_0_is_the_time_of_interest_alone():
    model = trainable(eta=0.0, detach_target=False, detach_noised=False, uncond_prob=0.0)
    interaction = batch(HISTORIES, TARGETS)
    loss = sum(losses(model, interaction))
    _, tau_hat = model.represent(interaction)
    tau = slow_times(model.time_encoding, interaction["toi"])
    cosine = (tau * tau_hat).sum(1) / (tau.norm(dim=1) * tau_hat.norm(dim=1))
    torch.testing.assert_close(loss, -cosine.mean())
    gradients = item_gradients(model, loss)
    assert not gradients[TARGETS].any()
    assert gradients[[1, 2, 3, 11, 12]].any(dim=1).all()


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_T15_gradient_reaches_the_items_of_the_batch_only(model_class):
    model = trainable(model_class, detach_target=False, detach_noised=False, uncond_prob=0.0)
    gradients = item_gradients(model, sum(losses(model, batch([[1, 2], [3], []], [20, 21, 22]))))
    assert gradients.any(dim=1).nonzero().flatten().tolist() == [1, 2, 3, 20, 21, 22]


def test_T15_detaching_cuts_the_two_paths_to_a_target():
    """Held fixed in both places it learns nothing; else what it learns through both paths is the sum over them."""
    gradients = {}
    for target in (False, True):
        for noised in (False, True):
            model = trainable(detach_target=target, detach_noised=noised, uncond_prob=0.0)
            gradients[target, noised] = item_gradients(model, sum(losses(model, batch(HISTORIES, TARGETS))))
    assert not gradients[True, True][TARGETS].any()
    for some in ((False, False), (False, True), (True, False)):
        assert gradients[some][TARGETS].any(dim=1).all()
        torch.testing.assert_close(gradients[some][1:17], gradients[True, True][1:17])  # histories
    both = gradients[False, True] + gradients[True, False]
    torch.testing.assert_close(gradients[False, False][TARGETS], both[TARGETS])


@pytest.mark.parametrize("detach", [False, True])
def test_T15_detached_target_learns_through_the_noised_input_only(detach):
    model = trainable(detach_target=detach, detach_noised=False)
    model.diffusion.alphas_cumprod = torch.zeros(TIMESTEPS)  # x_t is pure noise: no path from the target through it
    gradients = item_gradients(model, sum(losses(model, batch(HISTORIES, TARGETS))))
    assert gradients[TARGETS].any(dim=1).all() == gradients[TARGETS].any() == (not detach)


# Training: what is drawn


def test_T10_positive_and_centroid_have_the_same_step_and_guidance_and_fresh_noise_each():
    model, n = trainable(uncond_prob=0.0, timesteps=10, beta_end=0.5), 10_000
    interaction, seen = batch([[1, 2, 3]] * n, [20, 21] * (n // 2)), recorded(model)
    losses(model, interaction)
    x_t, t = seen["x_t"].detach(), seen["t"]
    assert x_t.shape == (2, n, D) and t.shape == (n,) and seen["h"].shape == (n, D)
    counts = t.bincount(minlength=10)
    assert len(counts) == 10 and (counts - n / 10).abs().max() < 4.5 * math.sqrt(n * 0.1 * 0.9)  # t is uniform
    x0 = model.item_embedding.weight[interaction["item_id"]].detach()
    level = (1 - torch.linspace(1e-4, 0.5, 10)).cumprod(0)[t].unsqueeze(1)
    noises = (x_t - level.sqrt() * torch.stack([x0, model.centroid(x0)])) / (1 - level).sqrt()
    for noise in noises:
        assert abs(noise.mean()) < 4.5 / math.sqrt(noise.numel())
        assert abs(noise.std() - 1) < 4.5 / math.sqrt(2 * noise.numel())
    assert abs(noises.prod(0).mean()) < 4.5 / math.sqrt(n * D)


def test_T10_whole_rows_lose_their_guidance_at_the_given_rate():
    model, n = trainable(PreferDiff, uncond_prob=0.1), 20_000
    seen = recorded(model)
    losses(model, batch([[1, 2, 3]] * n))
    dropped = (seen["h"] == model.null_guidance).all(dim=1)
    kept = torch.isclose(seen["h"], guidance(model, batch([[1, 2, 3]])), atol=1e-5).all(dim=1)
    assert (dropped ^ kept).all()
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("uncond_prob", [0.0, 1.0])
def test_T10_guidance_is_dropped_after_it_has_predicted_the_time(uncond_prob):
    model, interaction = trainable(uncond_prob=uncond_prob), batch(HISTORIES, TARGETS)
    *item, toi = losses(model, interaction)
    sum(item).backward(retain_graph=True)
    assert learns(model.encoder) == learns(model.fusion) == learns(model.toi_predictor) == (uncond_prob == 0)
    assert bool(model.null_guidance.grad.any()) == (uncond_prob == 1)
    assert learns(model.denoiser) and learns(model.step_embedding)
    model.zero_grad()
    toi.backward()
    assert learns(model.encoder) and learns(model.toi_predictor)


# Time of interest (eq. 8-10, 13)


def test_T19_gamma_0_teaches_the_predictor_by_its_own_loss_only():
    for gamma in (0.0, 0.5):
        model = trainable(gamma=gamma, uncond_prob=0.0)
        *item, toi = losses(model, batch(HISTORIES, TARGETS))
        sum(item).backward(retain_graph=True)
        assert learns(model.encoder)
        assert learns(model.toi_predictor) == learns(model.fusion) == (gamma > 0)
        model.zero_grad()
        toi.backward()
        assert learns(model.toi_predictor) and not learns(model.fusion)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0])
def test_T19_gamma_mixes_the_fused_guidance(gamma):
    model = build(gamma=gamma)
    g, tau_hat = torch.randn(5, D), torch.randn(5, D)
    fused = two_layers(torch.cat([g, tau_hat], dim=1), model.fusion)
    expected = {0.0: g, 0.25: 0.75 * g + 0.25 * fused, 1.0: fused}[gamma]
    torch.testing.assert_close(model.enrich(g, tau_hat), expected)


def test_predicted_time_reads_the_guidance_and_the_last_time():
    model, interaction = build(), batch(HISTORIES)
    g, tau_hat = model.represent(interaction)
    last = (interaction["item_length"] - 1).clamp(min=0)
    tau = slow_times(model.time_encoding, interaction["toi_list"][torch.arange(len(last)), last])
    torch.testing.assert_close(tau_hat, two_layers(torch.cat([g, tau], dim=1), model.toi_predictor))


# Preference (eq. 15) and centroid


@pytest.mark.parametrize("error", ERRORS)
def test_T16_preference_wants_a_good_positive_and_a_bad_negative(error):
    model = trainable(error=error, lambda_=0.0, eta=1.0)
    interaction = batch(HISTORIES, TARGETS)
    x0 = model.item_embedding.weight[interaction["item_id"]].detach()
    random, centroid = torch.randn_like(x0), model.centroid(x0)
    model.denoise = lambda *_: torch.stack([x0, random])
    good = losses(model, interaction)[1]
    model.denoise = lambda *_: torch.stack([random, centroid])
    bad = losses(model, interaction)[1]
    assert 0 < good < math.log(2) < bad


@pytest.mark.parametrize("error", ERRORS)
def test_T16_derivatives_by_the_errors_have_the_right_signs(error):
    model, kappa = build(error=error, kappa=2.0), 2.0
    predictions, goals = torch.randn(2, 6, D), torch.randn(2, 6, D)
    errors = [model.error(f, x0).requires_grad_() for f, x0 in zip(predictions, goals)]
    for computed, f, x0 in zip(errors, predictions, goals):
        torch.testing.assert_close(computed, ERRORS[error](f, x0))
    by_positive, by_negative = torch.autograd.grad(model.preference(*errors), errors)
    assert by_positive > 0 > by_negative
    expected = kappa / (1 + math.exp(-kappa * (errors[0] - errors[1]).item()))
    assert by_positive.item() == pytest.approx(expected, rel=1e-4) == -by_negative.item()


@pytest.mark.parametrize("kappa", [0.0, 5.0, 255.0])
def test_T16_steep_preferences_stay_finite(kappa):
    model = build(kappa=kappa, error="mse_sum")
    errors = torch.tensor([4000.0, 10.0], requires_grad=True)
    loss = model.preference(*errors)
    loss.backward()
    assert loss.item() == pytest.approx(kappa * 3990 if kappa else math.log(2))
    assert errors.grad.isfinite().all()


def test_T17_centroid_of_three_by_hand():
    x0 = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40], [-2, 0, 2, 0]])
    expected = torch.tensor([[4.0, 10, 16, 20], [-0.5, 1, 2.5, 2], [5.5, 11, 16.5, 22]])
    torch.testing.assert_close(build().centroid(x0), expected)


def test_T17_centroid_is_the_mean_of_all_other_rows_duplicates_included():
    x0 = torch.randn(9, D)
    x0[3] = x0[7]  # the same item: only the own row is left out
    expected = torch.stack([torch.cat([x0[:i], x0[i + 1 :]]).mean(0) for i in range(9)])
    torch.testing.assert_close(build().centroid(x0), expected)


def test_T17_gradient_of_the_centroid_reaches_all_other_rows_equally():
    x0 = torch.randn(5, D, requires_grad=True)
    build().centroid(x0)[1].sum().backward()
    weights = torch.tensor([1 / 4, 0, 1 / 4, 1 / 4, 1 / 4])
    torch.testing.assert_close(x0.grad, weights.unsqueeze(1).expand(5, D))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("negatives", ["batch", "random"])
def test_T17_a_row_alone_has_the_centroid_0_and_a_finite_loss(error, negatives):
    model = trainable(error=error, negatives=negatives, detach_target=False, detach_noised=False)
    assert not model.centroid(torch.randn(1, D)).any()
    loss = sum(losses(model, batch([[1, 2]], [20])))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("chances", [pasrec.CHANCES, 17])
def test_T17_random_negatives_are_others_without_replacement_and_equally_likely(chances, monkeypatch):
    monkeypatch.setattr(pasrec, "CHANCES", chances)  # of all rows at once, and of two
    model, n, draws = build(negatives="random", num_negatives=3), 8, 2000
    rows, total = torch.eye(n), torch.zeros(n, n)
    for _ in range(draws):
        weights = model.centroid(rows)  # of unit vectors: row i shows the weight of every row in centroid i
        assert torch.equal(weights.sort(dim=1).values[:, -3:], torch.full((n, 3), 1 / 3))
        assert (weights > 0).sum() == 3 * n and not weights.diagonal().any()
        total += weights > 0
    others = total[~torch.eye(n, dtype=torch.bool)] / draws
    assert (others - 3 / 7).abs().max() < 4.5 * math.sqrt(3 / 7 * 4 / 7 / draws)
    assert model.centroid(torch.eye(n, dtype=torch.float64)).dtype == torch.float64


def test_T17_random_negatives_are_all_of_a_small_batch():
    every, some = build(), build(negatives="random", num_negatives=4)
    for n in (2, 4, 5):
        x0 = torch.randn(n, D)
        torch.testing.assert_close(some.centroid(x0), every.centroid(x0))
    assert not torch.allclose(some.centroid(torch.eye(6)), every.centroid(torch.eye(6)))


@pytest.mark.parametrize("negatives", ["batch", "random"])
def test_T17_no_tensor_holds_every_negative_of_every_row(negatives):
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
            self.size = max([self.size, *(tensor.untyped_storage().nbytes() // 4 for tensor in tensors)])
            return result

    B, d = 64, 8
    model = fresh(items=Items(20), hidden_size=d, negatives=negatives, detach_target=False, detach_noised=False)
    interaction = batch([[1, 2, 3]] * B, [4] * B)
    with Largest() as largest:
        sum(losses(model, interaction)).backward()
    assert B * d < largest.size < B * (B - 1) * d / 3


# Generation (spec 5.4)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("w", [0.0, 1.5])
def test_generation_is_equations_20_and_21_written_out(sampler, w):
    model = build(guidance_scale=w, **SAMPLERS[sampler])
    h = guidance(model, batch(HISTORIES)).detach()
    expected = no_grad(slow_generation, model, h, w, model.ddim_compat)
    assert expected.std() > 0.1
    torch.testing.assert_close(generated(model, h), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T09_guidance_scale_0_is_conditional_and_minus_1_unconditional(sampler):
    for w, reads_history, reads_null in ((0.0, True, False), (-1.0, False, True), (2.0, True, True)):
        model = build(guidance_scale=w, **SAMPLERS[sampler])
        h, other = (no_grad(guidance, model, batch([history])) for history in ([1, 2, 3], [4, 5]))
        item = generated(model, h)
        assert reads_history != torch.allclose(generated(model, other), item, atol=1e-4)
        with torch.no_grad():
            model.null_guidance.add_(1)
        assert reads_null != torch.allclose(generated(model, h), item, atol=1e-4)


def told(model: PASRec) -> list[list[int]]:
    """The steps that the next network calls are told, in their order."""
    calls = []
    model.step_embedding.register_forward_hook(lambda _, args, output: calls.append(args[0].tolist()))
    return calls


@pytest.mark.parametrize(("compat", "steps"), [(False, [19, 14, 9, 4]), (True, [20, 15, 10, 5, 0])])
def test_network_calls_a_generation(compat, steps):
    h = torch.randn(3, D)
    for changes, calls in (({"sampler": "stepwise"}, 1), ({"denoiser": "mlp"}, 2)):
        model = build(ddim_compat=compat, **changes)
        seen = told(model)
        generated(model, h)
        assert seen == [[step] for step in steps for _ in range(calls)]
    model = build(ddim_compat=compat, sampler="closed_form")
    seen = told(model)
    generated(model, h), generated(model, h)
    assert seen == [steps[::-1]]  # all at once, and once for all batches
    generated(model.train().eval(), h)
    assert len(seen) == 2


@pytest.mark.parametrize("denoiser", ["linear", "mlp"])
def test_auto_composes_small_linear_denoisers_only(denoiser, monkeypatch):
    for limit, composes in ((D, True), (D - 1, False)):
        monkeypatch.setattr(pasrec, "COMPOSED_UP_TO", limit)
        assert fresh(denoiser=denoiser, sampler="auto").use_closed_form == (composes and denoiser == "linear")
        assert fresh(sampler="closed_form").use_closed_form
        assert not fresh(denoiser=denoiser, sampler="stepwise").use_closed_form


@pytest.mark.parametrize("sampler", ["closed_form", "stepwise", "closed_form_compat"])
def test_mean_oracle_is_the_average_of_many_samples(sampler):
    changes, n = {"guidance_scale": 1.5, **SAMPLERS[sampler]}, 20_000
    h = guidance(build(), batch([[1, 2, 3]])).detach()
    samples = generated(build(**changes), h.expand(n, D))
    mean = generated(build(oracle="mean", **changes), h)
    assert samples.std(0).min() > 0.01
    assert ((samples.mean(0) - mean[0]) / (samples.std(0) / math.sqrt(n))).abs().max() < 4.5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T12_mean_oracle_draws_nothing(sampler, monkeypatch):
    model, interaction = build(oracle="mean", **SAMPLERS[sampler]), batch(HISTORIES)
    monkeypatch.setattr(HistoryNoise, "normal", lambda *_: pytest.fail("it drew"))
    assert torch.equal(scores_of(model, interaction), scores_of(model, interaction))


def test_T11_closed_form_follows_the_weights():
    """An evaluation between two epochs, or of a loaded checkpoint, must not use the weights of the one before."""
    interaction = batch(HISTORIES, TARGETS)
    model, stepwise = build(oracle="mean"), build(oracle="mean", sampler="stepwise")
    start, untrained = copy.deepcopy(model.state_dict()), model.full_sort_predict(interaction)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.5)
    sum(losses(model, interaction)).backward()
    optimizer.step()
    stepwise.load_state_dict(model.state_dict())
    trained = model.eval().full_sort_predict(interaction)
    torch.testing.assert_close(trained, stepwise.full_sort_predict(interaction), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained, untrained, atol=0.01)
    model.load_state_dict(start)
    torch.testing.assert_close(model.full_sort_predict(interaction), untrained)


# Scores


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T12_evaluation_is_repeatable_and_leaves_the_global_generator_alone(sampler):
    model, interaction = build(**SAMPLERS[sampler]), batch(HISTORIES)
    torch.manual_seed(10)
    before = torch.get_rng_state()
    first = scores_of(model, interaction)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(scores_of(model, interaction), first)
    assert first.shape == (len(HISTORIES), N_ITEMS) and first.isfinite().all()


def test_T12_new_models_draw_by_the_configured_seed():
    interaction = batch(HISTORIES)
    scores = [build(**ENCODINGS["gaussian"], seed=seed).full_sort_predict(interaction) for seed in (1, 1, 2)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_T12_scores_do_not_depend_on_batch_size_and_order(model_class):
    model, interaction = build(model_class), batch(HISTORIES)

    def in_batches(*sizes):
        parts = torch.arange(len(HISTORIES)).split(sizes)
        return torch.cat([model.full_sort_predict({k: v[part] for k, v in interaction.items()}) for part in parts])

    whole = no_grad(in_batches, 7)
    backwards = no_grad(model.full_sort_predict, {k: v.flip(0) for k, v in interaction.items()})
    torch.testing.assert_close(backwards.flip(0), whole, rtol=1e-4, atol=1e-4)
    for sizes in ((1, 2, 4), (1,) * 7, (5, 2)):
        torch.testing.assert_close(no_grad(in_batches, *sizes), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("score_function", ["inner", "cosine"])
def test_T13_column_i_is_the_score_of_item_i_and_predict_picks_the_rows_own(score_function):
    model, interaction = build(score_function=score_function), batch(HISTORIES, [20, 1, 2, 3, 29, 5, 20])
    oracle = no_grad(model.generate, guidance(model, interaction), model.start_noise(interaction))
    table = model.item_embedding.weight
    scores = scores_of(model, interaction)
    for item in range(1, N_ITEMS):
        expected = oracle @ table[item]
        if score_function == "cosine":
            expected = expected / (oracle.norm(dim=1) * table[item].norm())
        torch.testing.assert_close(scores[:, item], expected, rtol=1e-4, atol=1e-4)
    assert not scores[:, 0].any()
    own = scores[torch.arange(len(HISTORIES)), interaction["item_id"]]
    assert torch.equal(no_grad(model.predict, interaction), own)


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_T13_contents_of_the_padding_row_do_not_matter(model_class):
    model, interaction = build(model_class), batch(HISTORIES)
    scores = scores_of(model, interaction)
    with torch.no_grad():
        model.item_embedding.weight[0] = 100.0
    torch.testing.assert_close(scores_of(model, interaction)[:, 1:], scores[:, 1:])


def test_T13_padding_is_invisible_and_order_is_not():
    model = build(PreferDiff)

    def g(history, width=LENGTH):
        with torch.no_grad():
            return model.represent(batch([history], width=width))[0]

    base = g([1, 2, 3])
    torch.testing.assert_close(g([1, 2, 3], width=3), base)
    torch.testing.assert_close(g([1, 2, 3], width=4), base)
    for changed in ([1, 2, 4], [2, 1, 3], [1, 1, 2], [2, 3]):
        assert (g(changed) - base).abs().max() > 0.01


def test_T13_times_tell_the_order_except_within_a_day():
    """Times stand in for positions, so of one day's events only the last of the history is told apart."""
    model, interaction = build(), batch([[1, 2, 3], [2, 1, 3], [1, 3, 2]])
    for days, seen in (([0.1, 0.1, 0.1], False), ([0.1, 0.9, 0.9], True)):
        interaction["toi_list"] = torch.tensor([days + [0.0] * 3] * 3)
        g = model.represent(interaction)[0]
        assert torch.allclose(g[0], g[1], atol=1e-5) != seen
        assert not torch.allclose(g[0], g[2], atol=0.01)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_T27_scores_and_predicted_days_do_not_read_the_target_or_its_time(encoding):
    model, interaction = build(**ENCODINGS[encoding]), batch(HISTORIES, TARGETS)
    scores, days = scores_of(model, interaction), model.when(interaction)
    n = len(HISTORIES)
    garbage = {"toi": torch.full((n,), math.nan), "item_id": torch.full((n,), 10**6)}
    for changed in ({**interaction, **garbage}, without(interaction, "toi", "item_id")):
        assert torch.equal(scores_of(model, changed), scores)
        for computed, expected in zip(model.when(changed), days):
            assert torch.equal(computed, expected)


def test_T27_training_guides_by_the_predicted_time_never_by_the_true_one():
    model, interaction = trainable(gamma=1.0), batch(HISTORIES, TARGETS)
    seen = recorded(model)
    *item, toi = losses(model, interaction)
    h = seen["h"]
    *same, other = losses(model, {**interaction, "toi": 1 - interaction["toi"]})
    assert item == same and torch.equal(seen["h"], h)
    assert toi != other


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_T29_times_of_padding_do_not_matter(encoding):
    # Without empty rows: their last time is what the padding holds, which the loaders make 0.
    model, interaction = build(**ENCODINGS[encoding]), batch([history for history in HISTORIES if history])
    times, real = interaction["toi_list"], interaction["item_id_list"] != 0
    garbage = {**interaction, "toi_list": torch.where(real, times, 100 * torch.randn_like(times))}
    for call in (model.full_sort_predict, model.last_day):
        assert torch.equal(no_grad(call, garbage), no_grad(call, interaction))
    assert losses(model, garbage) == losses(model, interaction)
    later = {**interaction, "toi_list": torch.where(real, times + 0.2, times)}
    assert not torch.allclose(scores_of(model, later), scores_of(model, interaction))


def test_preferdiff_reads_no_times():
    interaction = batch(HISTORIES, TARGETS)
    model, bare = build(PreferDiff), without(interaction, "toi", "toi_list")
    assert torch.equal(scores_of(model, bare), scores_of(model, interaction))
    assert losses(model, bare) == losses(model, interaction)
    assert not model.needs_times(Config(DEFAULTS[PreferDiff]))
    assert not PASRec.needs_times(Config(DEFAULTS[PASRec] | POSITION))
    assert all(PASRec.needs_times(Config(DEFAULTS[PASRec] | changes)) for changes in ENCODINGS.values())


# Time encodings (eq. 3-5, spec 5.6)


def encoder_of_times(name: str, size: int = 64, sigma: float = 1.0, **changes) -> TimeEncoding:
    return TimeEncoding(name, size, sigma, **{"freq": 1e4, "time_scale": 1.0, "seed": 2020, **changes})


@pytest.mark.parametrize("name", ENCODINGS)
def test_T26_encodings_are_equations_3_to_5_in_the_precision_of_their_input(name):
    encoding = encoder_of_times(name, 16, sigma=0.5)
    t = torch.rand(3, 5, dtype=torch.float64)
    torch.testing.assert_close(encoding(t), slow_times(encoding, t), rtol=1e-12, atol=1e-12)
    assert encoding(t.float()).dtype == torch.float32
    torch.testing.assert_close(encoding(t.float()).double(), encoding(t), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sinusoidal", "rff"])
def test_T26_time_scale_is_a_factor_on_the_time(name):
    t = torch.rand(5, dtype=torch.float64)
    torch.testing.assert_close(encoder_of_times(name, time_scale=3.0)(t), encoder_of_times(name)(3 * t))


def test_T26_waves_come_in_pairs_of_sine_and_cosine():
    t, d = torch.rand(50, dtype=torch.float64), 64
    sinusoid = encoder_of_times("sinusoidal")(t)
    torch.testing.assert_close(sinusoid[:, 0::2] ** 2 + sinusoid[:, 1::2] ** 2, torch.ones(50, d // 2).double())
    rff = encoder_of_times("rff")(t)
    torch.testing.assert_close(rff[:, : d // 2] ** 2 + rff[:, d // 2 :] ** 2, torch.ones(50, d // 2).double())
    torch.testing.assert_close(rff.pow(2).sum(1), torch.full((50,), d / 2).double())


def test_T26_gaussian_is_largest_at_the_nearest_centre():
    t = torch.rand(1000, dtype=torch.float64)
    assert torch.equal(encoder_of_times("gaussian", sigma=0.05)(t).argmax(1), (t * 63).round().long())


def random_pairs(encoding: TimeEncoding, n: int = 20_000) -> torch.Tensor:
    """Cosines of the encodings of n pairs of uniform times."""
    t, s = torch.rand(2, n, generator=torch.Generator().manual_seed(0))
    return cosine_similarity(encoding(t), encoding(s))


@pytest.mark.parametrize(
    ("name", "changes", "mean", "above"),
    [
        ("sinusoidal", {}, 0.9942, 1.0),
        ("sinusoidal", {"time_scale": 100.0}, 0.58, 0.023),
        ("sinusoidal", {"time_scale": 1000.0}, 0.33, 0.003),
        ("sinusoidal", {"time_scale": 6000.0}, 0.14, 0.0003),
        ("gaussian", {"sigma": 0.05}, 0.168, 0.045),
        ("gaussian", {"sigma": 0.1}, 0.319, 0.092),
        ("gaussian", {"sigma": 0.5}, 0.926, 0.54),
        ("gaussian", {"sigma": 0.01}, 0.034, 0.009),
    ],
)
def test_T26_table_of_random_pairs(name, changes, mean, above):
    cosines = random_pairs(encoder_of_times(name, **changes))
    assert cosines.mean().item() == pytest.approx(mean, abs=0.01)
    assert (cosines > 0.95).float().mean().item() == pytest.approx(above, abs=0.01)


def test_T26_random_pairs_of_the_sinusoid_all_look_alike():
    cosines = random_pairs(encoder_of_times("sinusoidal"))
    assert cosines.min() > 0.96 and (cosines > 0.95).all()
    assert (cosines > 0.99).float().mean().item() == pytest.approx(0.783, abs=0.01)


@pytest.mark.parametrize(("sigma", "of_one_seed"), [(1.0, 0.456), (0.5, 0.70), (0.1, 0.974), (0.01, 0.9997)])
def test_T26_random_pairs_of_rff_average_to_their_kernel(sigma, of_one_seed):
    """The mean over seeds is that of exp(-2 (pi sigma (t - s))^2); the table of spec 5.6 has one seed's, at d = 64."""
    means = torch.stack(
        [random_pairs(encoder_of_times("rff", sigma=sigma, seed=seed), 4000).mean() for seed in range(40)]
    )
    distance = torch.linspace(0, 1, 10_001)
    expected = (torch.exp(-2 * (math.pi * sigma * distance) ** 2) * 2 * (1 - distance)).mean()
    assert abs(means.mean() - expected) < 4.5 * means.std() / math.sqrt(len(means))
    assert means.min() < of_one_seed < means.max()


def test_T26_random_pairs_of_rff_in_many_dimensions():
    wide = random_pairs(encoder_of_times("rff", 3072), 2000)
    assert wide.mean().item() == pytest.approx(0.344, abs=0.03)
    assert (wide > 0.95).float().mean().item() == pytest.approx(0.097, abs=0.03)


def test_T26_frequencies_follow_the_seed_and_travel_with_the_checkpoint():
    frequencies = encoder_of_times("rff", 2048).frequencies
    assert frequencies.shape == (1024,) and abs(frequencies.std() - 1) < 4.5 / math.sqrt(2 * 1024)
    torch.manual_seed(99)  # the global generator has no part in them
    same, other = (PASRec(Config(DEFAULTS[PASRec] | TOY | {"seed": seed}), Items()) for seed in (2020, 2021))
    model, t = fresh(), torch.rand(5)
    assert torch.equal(same.time_encoding(t), model.time_encoding(t))
    assert not torch.allclose(other.time_encoding(t), model.time_encoding(t))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.time_encoding(t), model.time_encoding(t))


# Decoding (spec 5.7)


def clock(encoding: str, **changes) -> PASRec:
    return fresh(hidden_size=64, **{**ENCODINGS[encoding], **changes}).eval()


def days_and_encodings(model: PASRec, step: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    days = torch.cat([torch.arange(FIRST, LAST, step), torch.tensor([LAST - 1, LAST])])
    return days, model.time_encoding((days - FIRST).double() / (LAST - FIRST))


def every_day(n: int, day: int = FIRST) -> torch.Tensor:
    return torch.full((n,), day)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_T28_decoding_inverts_encoding(encoding):
    model = clock(encoding)
    days, tau = days_and_encodings(model)
    for predicted in (tau, 0.01 * tau, tau.float()):  # the length of a prediction is not trained
        assert torch.equal(model.decode(predicted, every_day(len(days))).day, days)


def test_T28_the_sinusoid_must_be_searched_in_float64():
    """Its cosines differ by 1e-9 from day to day; in float32 the best of them is rarely that of the day."""
    model = clock("sinusoidal")
    grid = model.time_encoding(torch.arange(LAST - FIRST + 1) / (LAST - FIRST))
    grid = grid / grid.norm(dim=1, keepdim=True)
    days = torch.arange(0, LAST - FIRST + 1, 17)
    assert ((grid[days] @ grid.T).argmax(1) == days).float().mean() < 0.2
    assert torch.equal(model.decode(grid[days], every_day(len(days))).day, days + FIRST)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_decoded_days_are_ordered_and_not_too_early(encoding):
    model, n = clock(encoding), 200
    not_before = torch.randint(FIRST, LAST + 1, (n,))
    day, earliest, latest = model.decode(torch.randn(n, 64), not_before)
    assert (not_before <= earliest).all() and (earliest <= day).all() and (day <= latest).all()
    assert (latest <= LAST + 365).all()
    days, tau = days_and_encodings(model)
    assert torch.equal(model.decode(tau, days).day, days)
    assert (model.decode(tau, days + 40).day >= days + 40).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_bounds_hold_for_every_error_of_the_given_size(encoding):
    model, noise = clock(encoding), 0.01
    tau = days_and_encodings(model, 1500)[1]
    _, earliest, latest = model.decode(tau, every_day(len(tau)), noise=noise)
    for _ in range(20):
        error = torch.randn_like(tau)
        moved = tau + noise * tau.norm(dim=1, keepdim=True) * error / error.norm(dim=1, keepdim=True)
        day = model.decode(moved, every_day(len(tau))).day
        assert (earliest <= day).all() and (day <= latest).all()


def test_the_bounds_are_as_far_as_an_error_of_the_given_size_can_move_the_day():
    """Moved straight towards the encoding of a day within the bounds, a prediction is nearer to it than to the best."""
    model, noise = clock("rff"), 0.02
    tau = model.time_encoding(torch.tensor([0.5], dtype=torch.float64)) / math.sqrt(32)
    best, earliest, latest = (
        model.time_encoding((day - FIRST).double() / (LAST - FIRST)) / math.sqrt(32)
        for day in model.decode(tau, every_day(1), noise=noise)
    )
    for end in (earliest, latest):
        moved = tau + noise * (end - best) / (end - best).norm()
        assert (moved * end).sum() >= (moved * best).sum()


def test_width_tells_flat_encodings_from_sharp_ones():
    widths = {}
    for encoding, changes in (
        ("sinusoidal", {}),
        ("gaussian", {}),
        ("rff", {}),
        ("sinusoidal", {"time_scale": 6000.0}),
    ):
        model = clock(encoding, **changes)
        days, tau = days_and_encodings(model, 97)
        _, earliest, latest = model.decode(tau, every_day(len(days)), noise=0.01)
        widths[(encoding, *changes)] = latest - earliest
    assert widths[("sinusoidal",)].min() > 300
    assert max(widths[sharp].max() for sharp in (("gaussian",), ("rff",), ("sinusoidal", "time_scale"))) < 60


class Weekday(torch.nn.Module):
    """An encoding that repeats every seven days, exactly."""

    name = "weekday"

    def forward(self, t):
        return torch.nn.functional.one_hot((t * (LAST - FIRST)).round().long() % 7, 7).double()


def test_ties_go_to_the_earliest_day_allowed():
    model = clock("rff")
    assert model.decode(torch.zeros(1, 64), every_day(1, 1234)).day == 1234  # as similar to one day as to any other
    model.time_encoding = Weekday()
    not_before = torch.arange(FIRST, FIRST + 14)
    day, earliest, latest = model.decode(torch.eye(7)[3].expand(14, 7), not_before, horizon=0)
    assert torch.equal(day, torch.tensor([FIRST + 3] * 4 + [FIRST + 10] * 7 + [FIRST + 17] * 3))
    assert torch.equal(earliest, day)
    assert (latest == LAST - (LAST - FIRST - 3) % 7).all()


def test_horizon_is_how_far_beyond_the_data_is_searched():
    model = clock("rff")
    days = torch.tensor([LAST + 1, LAST + 100, LAST + 365])
    tau = model.time_encoding((days - FIRST).double() / (LAST - FIRST))
    assert torch.equal(model.decode(tau, every_day(3)).day, days)
    assert torch.equal(model.decode(tau, every_day(3), horizon=100).day, days.clamp(max=LAST + 100))
    assert (model.decode(tau, every_day(3), horizon=0).latest <= LAST).all()


def test_gaussian_does_not_decode_beyond_its_last_centre_and_a_tenth():
    model, end = clock("gaussian"), LAST + (LAST - FIRST) // 10
    days = torch.tensor([LAST + 300, end, end + 300, end + 3000])
    tau = model.time_encoding((days - FIRST).double() / (LAST - FIRST))
    day, _, latest = model.decode(tau, every_day(4), horizon=10_000)
    assert torch.equal(day[:2], days[:2]) and (latest <= end).all()
    assert (model.decode(tau, every_day(4)).latest <= LAST + 365).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_histories_may_end_after_the_search(encoding):
    """As with `time_range: train`, whose last day a test history may be past by any time."""
    model = clock(encoding)
    for not_before in (LAST + 365, LAST + 366, LAST + 20_000):
        day, earliest, latest = model.decode(days_and_encodings(model, 3000)[1], every_day(4, not_before))
        assert (day >= not_before).all() and (earliest <= day).all() and (day <= latest).all()


def decode_at_once(model: PASRec, tau: torch.Tensor, not_before: torch.Tensor, horizon: int, noise: float):
    """What `decode` says, from all similarities [B, days]."""
    end = LAST + horizon
    days = torch.arange(FIRST, int(not_before.max().clamp(min=end)) + 2)
    grid = torch.nn.functional.normalize(model.time_encoding((days - FIRST).double() / (LAST - FIRST)), dim=-1)
    similarity = torch.nn.functional.normalize(tau.double(), dim=-1) @ grid.T
    start = not_before.unsqueeze(1)
    similarity[(days < start) | (days > (start + 1).clamp(min=end))] = -torch.inf
    best = similarity.argmax(1)
    distance = (2 - 2 * (grid[best] @ grid.T)).clamp(min=0).sqrt()
    alike = similarity.max(1, keepdim=True).values - similarity <= noise * distance
    first, last = alike.int().argmax(1), len(days) - 1 - alike.flip(1).int().argmax(1)
    return days[best], days[first], days[last]


@pytest.mark.parametrize("block", [7, 1000, 1 << 20])
@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "gaussian"])
def test_blocks_of_days_are_searched_as_all_at_once(encoding, block, monkeypatch):
    monkeypatch.setattr(day_search, "DAY_BLOCK", block)
    model, at = clock(encoding), torch.randint(LAST - 800, LAST + 300, (40,))
    tau = model.time_encoding((at - FIRST).double() / (LAST - FIRST)) + 0.003 * torch.randn(40, 64)
    not_before = torch.randint(LAST - 900, LAST + 200, (40,))
    expected = decode_at_once(model, tau, not_before, horizon=100, noise=0.01)
    for found, each in zip(model.decode(tau, not_before, horizon=100), expected, strict=True):
        assert (found - each).abs().max() <= 1  # sums in another order


def test_a_far_day_in_one_history_costs_nothing_and_changes_no_other(monkeypatch):
    model, searched = clock("rff"), []
    tau, not_before = torch.randn(300, 64), torch.randint(FIRST, LAST + 1, (300,))
    before = model.decode(tau, not_before)
    encode = model.time_encoding.forward
    monkeypatch.setattr(model.time_encoding, "forward", lambda t: searched.append(t.numel()) or encode(t))
    model.decode(tau, not_before)
    usual, far = sum(searched), not_before.clone()
    far[17] = 2_932_896  # the last day of the year 9999
    after = model.decode(tau, far)
    assert sum(searched) <= 2 * usual + 4
    others = torch.arange(300) != 17
    assert all(torch.equal(a[others], b[others]) for a, b in zip(before, after))
    assert all(2_932_896 <= int(each[17]) <= 2_932_897 for each in after)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_of_a_log_over_very_many_days_every_nth_is_searched_and_then_around_the_best(encoding, monkeypatch):
    model = clock(encoding)
    days, tau = days_and_encodings(model, 977)
    exact = model.decode(tau, every_day(len(days)))
    monkeypatch.setattr(day_search, "SEARCHED_DAYS", (LAST - FIRST + 366) // 5)
    day, earliest, latest = model.decode(tau, every_day(len(days)))
    assert torch.equal(day, days) and torch.equal(exact.day, days)
    assert ((earliest - exact.earliest).abs() <= 10).all() and ((latest - exact.latest).abs() <= 10).all()
    assert (model.decode(tau, days + 3).day >= days + 3).all()


def test_decoding_many_users_is_decoding_each():
    model = clock("rff")
    tau, not_before = torch.randn(1100, 64), torch.randint(FIRST, LAST + 1, (1100,))
    together = model.decode(tau, not_before)
    for rows in ([0], [1023, 1024], [1099]):
        for whole, part in zip(together, model.decode(tau[rows], not_before[rows])):
            assert torch.equal(whole[rows], part)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_when_is_the_day_of_the_predicted_time(encoding):
    """With M_phi replaced by one that knows the target's time."""

    class Oracle(torch.nn.Module):
        def forward(self, _):
            return model.time_encoding(interaction["toi"].double())

    model, interaction = build(**ENCODINGS[encoding]), batch(HISTORIES)
    model.toi_predictor = Oracle()
    expected = (interaction["toi"].double() * (LAST - FIRST)).round().long() + FIRST
    assert torch.equal(model.when(interaction).day, expected)
    assert not model.when(interaction).day.is_floating_point()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_when_is_not_before_the_last_day_of_the_history(encoding):
    model, interaction = build(**ENCODINGS[encoding]), batch(HISTORIES)
    tau_hat, last_day = model.represent(interaction)[1], model.last_day(interaction)
    assert (last_day > FIRST).sum() == len([history for history in HISTORIES if history])
    found = model.when(interaction, horizon=50, noise=0.1)
    assert (found.day >= last_day).all() and (found.earliest >= last_day).all()
    for computed, expected in zip(found, model.decode(tau_hat, last_day, 50, 0.1)):
        assert torch.equal(computed, expected)


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_when_needs_a_model_that_reads_times(model_class):
    with pytest.raises(UserError, match=f"{model_class.__name__} reads no times"):
        fresh(model_class, **POSITION).eval().when(batch(HISTORIES))


def test_last_day_is_exact_over_fifty_years():
    scale = DayRange(3000, 23_000)
    model = fresh(items=Items(day_range=scale))
    days = torch.arange(3000, 24_000)  # with `time_range: train` there are days after the range
    t = scale.scale(days.double() * SECONDS_PER_DAY + 12_345)
    assert t.dtype == torch.float32
    interaction = {"toi_list": torch.stack([torch.zeros_like(t), t], dim=1), "item_length": torch.full_like(days, 2)}
    assert torch.equal(model.last_day(interaction), days)


# Mistakes in the config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time_encoding": "position"}, "gamma must be 0 and eta 1 .*PreferDiff"),
        ({"time_encoding": "position", "gamma": 0.0}, r"eta 1 \(got 0.0 and 0.8\)"),
        ({"time_encoding": "position", "eta": 1.0}, r"gamma must be 0 .*\(got 0.5 and 1.0\)"),
        ({"time_encoding": "fourier"}, "time_encoding must be one of sinusoidal, gaussian, rff, position"),
        ({"lambda_": 1.5}, "lambda_ must be from 0 to 1, got 1.5"),
        ({"lambda_": -0.1}, "lambda_ must be from 0 to 1, got -0.1"),
        ({"gamma": 1.1}, "gamma must be from 0 to 1"),
        ({"eta": -1.0}, "eta must be from 0 to 1"),
        ({"sigma": 0.0}, "sigma and time_scale must be positive"),
        ({"time_scale": -1.0}, "sigma and time_scale must be positive"),
        ({"freq": 1.0}, "freq above 1"),
        ({"time_encoding": "gaussian", "time_scale": 2.0}, "time_scale must be 1, got 2.0"),
        ({"error": "l1"}, "error must be one of mse_mean, mse_sum, cos_sq, got 'l1'"),
        ({"negatives": "popular"}, "negatives must be one of batch, random, got 'popular'"),
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"noise_schedule": "quadratic"}, "unknown noise schedule 'quadratic'"),
        ({"denoiser": "unet"}, "denoiser must be one of linear, mlp, got 'unet'"),
        ({"oracle": "median"}, "oracle must be one of sample, mean, got 'median'"),
        ({"sampler": "fast"}, "sampler must be one of auto, closed_form, stepwise, got 'fast'"),
        ({"score_function": "l2"}, "score_function must be one of inner, cosine, got 'l2'"),
        ({"ddim_stride": 7}, r"ddim_stride \(7\) must divide timesteps \(20\)"),
        ({"ddim_stride": 40}, r"ddim_stride \(40\) must divide timesteps \(20\)"),
        ({"denoiser": "mlp", "sampler": "closed_form"}, "closed_form needs denoiser: linear"),
        ({"hidden_size": 16, "n_heads": 3}, r"hidden_size must be a multiple of n_heads \(3\), got 16"),
        ({"hidden_size": 15, "n_heads": 3}, "hidden_size must be an even number"),
        ({"timesteps": 1}, "timesteps must be at least 2"),
    ],
)
def test_mistakes_in_the_config_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        fresh(**changes)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_preferdiff_takes_no_time_encoding(encoding):
    with pytest.raises(UserError, match=f"time_encoding must be one of position, got '{encoding}'"):
        fresh(PreferDiff, **ENCODINGS[encoding])


# Vectors of the history's own


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_own_vectors_of_the_history_take_the_place_of_the_items(model_class):
    shared, own = build(model_class), build(model_class, history_vectors="own")
    own.load_state_dict(shared.state_dict(), strict=False)
    with torch.no_grad():
        own.history_embedding.weight.copy_(shared.item_embedding.weight)
    before = own.full_sort_predict(batch(HISTORIES, TARGETS))
    torch.testing.assert_close(before, shared.full_sort_predict(batch(HISTORIES, TARGETS)))
    with torch.no_grad():
        own.history_embedding.weight[1] += 1
    assert (own.full_sort_predict(batch(HISTORIES, TARGETS)) != before).any(dim=1).tolist() == [
        1 in history for history in HISTORIES
    ]


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_own_vectors_learn_from_the_history_and_the_items_from_being_targets(model_class):
    model = build(model_class, history_vectors="own", detach_target=False, detach_noised=False).train()
    sum(model.calculate_loss(batch(HISTORIES, TARGETS))).backward()
    learned = {name: set(table.weight.grad.abs().sum(1).nonzero().flatten().tolist()) for name, table in (
        ("history", model.history_embedding), ("items", model.item_embedding)
    )}  # fmt: skip
    assert learned == {"history": {item for history in HISTORIES for item in history}, "items": set(TARGETS)}


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_own_vectors_have_an_optimiser_if_they_are_to(model_class):
    settings = {"learner": "adamw", "learning_rate": 0.03, "weight_decay": 0.0}
    assert build(model_class, history_vectors="own").optimizer_spec() is None
    spec = build(model_class, history_vectors="own", history_optimizer=settings).optimizer_spec()
    assert spec["history"][1] == settings and [tuple(each.shape) for each in spec["history"][0]] == [(N_ITEMS, D)]
    with pytest.raises(UserError, match="history_optimizer is for history_vectors: own"):
        build(model_class, history_optimizer=settings)


# How the encoder begins


def test_an_encoder_that_starts_at_the_last_item_reads_it_alone_and_learns_to_read_the_rest():
    encoder = GuidanceEncoder(16, 2, 0.0, start="last_item")
    tokens = torch.randn(2, 5, 16)
    tokens[1, 3] = tokens[0, 3]  # two histories of four with the same last item
    real, last = torch.tensor([[True] * 4 + [False]] * 2), torch.tensor([3, 3])
    guidance = encoder(tokens, real, last)
    assert torch.equal(guidance[0], guidance[1])
    assert torch.cosine_similarity(guidance[0], tokens[0, 3], dim=0) > 0.95
    torch.testing.assert_close(encoder.at_every_token(tokens[:1])[0, 3], guidance[0])
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1)
    (guidance * torch.randn(2, 16)).sum().backward()
    optimiser.step()
    after = encoder(tokens, real, last)
    assert (after[0] - after[1]).abs().max() > 1e-4


@pytest.mark.parametrize("model_class", [PASRec, PreferDiff])
def test_where_the_encoder_begins_is_a_key(model_class):
    drawn, last_item = (fresh(model_class, encoder_start=start) for start in ("drawn", "last_item"))
    assert drawn.encoder.value.weight.any() and not last_item.encoder.value.weight.any()
    rows = batch([[3, 4, 5], [9, 8, 7, 5]])
    if model_class is PreferDiff:
        g, h = (model.eval().represent(rows)[0] for model in (drawn, last_item))
        assert torch.cosine_similarity(*h, dim=0) > 0.9 > torch.cosine_similarity(*g, dim=0)
    with pytest.raises(UserError, match="encoder_start must be one of drawn, last_item"):
        fresh(model_class, encoder_start="first_item")
