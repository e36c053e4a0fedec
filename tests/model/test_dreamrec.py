"""DreamRec against its equations written out again, on a model of toy size with random weights."""

import copy
import math
from pathlib import Path

import pytest
import torch
import yaml
from stubs import Config, Items

from recbole_gen.errors import UserError
from recbole_gen.model.diffusion import beta_schedule, guide
from recbole_gen.model.dreamrec import DreamRec
from recbole_gen.model.layers import HistoryNoise

N_ITEMS, D, LENGTH, TIMESTEPS = 30, 16, 6, 20
DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "properties/model/DreamRec.yaml").read_text())
TOY = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "seed": 2020,
    "hidden_size": D,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "timesteps": TIMESTEPS,
    "ddim_stride": 5,
}
SAMPLERS = {
    "closed_form": {"sampler": "closed_form"},
    "stepwise": {"sampler": "stepwise"},
    "ddim": {"sampling": "ddim"},
    "ddim_stepwise": {"sampling": "ddim", "sampler": "stepwise"},
    "mlp": {"denoiser": "mlp"},
    "mlp_ddim": {"denoiser": "mlp", "sampling": "ddim"},
}
HISTORIES = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10], [3, 2, 1], [11, 12], [13, 14, 15, 16]]


pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(**changes) -> DreamRec:
    torch.manual_seed(1)
    return DreamRec(Config(DEFAULTS | TOY | changes), Items(N_ITEMS))


def build(**changes) -> DreamRec:
    """In evaluation mode, with biases, norms and denoiser such that each of them and the chain's noise matter."""
    model = fresh(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        if model.is_linear:
            model.denoiser.weight[:, : model.denoiser.out_features] += 0.8 * torch.eye(model.denoiser.out_features)
    return model.eval()


def batch(histories, targets=None, width=LENGTH) -> dict[str, torch.Tensor]:
    return {
        "item_id_list": torch.tensor([history + [0] * (width - len(history)) for history in histories]),
        "item_length": torch.tensor([len(history) for history in histories]),
        "item_id": torch.tensor(targets or [20] * len(histories)),
    }


def no_grad(call, *args) -> torch.Tensor:
    with torch.no_grad():
        return call(*args)


def noise_for(h: torch.Tensor, seed: int = 3) -> HistoryNoise:
    """Noise for guidance [B, d], as of a history of its own for each row."""
    return HistoryNoise(seed, torch.arange(1, len(h) + 1).unsqueeze(1))


def generated(model, h: torch.Tensor, seed: int = 3) -> torch.Tensor:
    return no_grad(model.generate, h, noise_for(h, seed))


def recorded(model: DreamRec) -> dict[str, torch.Tensor]:
    """What the next call feeds to f_theta (x_t, h, t) and what it answers (f)."""
    seen, d = {}, model.null_guidance.numel()

    def denoiser_hook(_, args, output):
        seen.update(x_t=args[0][:, :d], h=args[0][:, d : 2 * d], f=output)

    model.denoiser.register_forward_hook(denoiser_hook)
    model.step_embedding.register_forward_hook(lambda _, args, output: seen.update(t=args[0]))
    return seen


# Parameters (spec 3.1) and the two small networks (spec 3.2, 3.3)


@pytest.mark.parametrize("denoiser", ["linear", "mlp"])
def test_parameter_shapes(denoiser):
    model, d = fresh(denoiser=denoiser), D
    tables = N_ITEMS * d + LENGTH * d + d  # items, positions, Phi
    encoder = 4 * 2 * d + 3 * d * d + 2 * d + 2 * (d * d + d)  # four norms; Q, K, V; feed-forward
    step = (d * 2 * d + 2 * d) + (2 * d * d + d)
    f = {"linear": 3 * d * d + d, "mlp": (3 * d * 2 * d + 2 * d) + (2 * d * d + d)}[denoiser]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == tables + encoder + step + f
    assert model.item_embedding.weight.shape == (N_ITEMS, d)
    assert model.encoder.position_embedding.weight.shape == (LENGTH, d)
    assert model.null_guidance.shape[-1] == model.null_guidance.numel() == d
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("denoiser", ["linear", "mlp"])
def test_parameter_initialisation(denoiser):
    model = fresh(denoiser=denoiser, hidden_size=256, MAX_ITEM_LIST_LENGTH=40)
    assert not model.item_embedding.weight[0].any()
    for table in (model.item_embedding.weight[1:], model.encoder.position_embedding.weight, model.null_guidance):
        standard_error = 1 / math.sqrt(table.numel())
        assert abs(table.mean().item()) < 4 * standard_error
        assert abs(table.std().item() - 1) < 4 * standard_error
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == {"linear": 8, "mlp": 9}[denoiser]
    for layer in linear:  # torch's default: uniform, within 1 / sqrt(inputs)
        bound = 1 / math.sqrt(layer.in_features)
        for values in (layer.weight,) if layer.bias is None else (layer.weight, layer.bias):
            assert values.abs().max() <= bound
            assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        assert norm.eps == 1e-5 and (norm.weight == 1).all() and not norm.bias.any()


def slow_guidance(model: DreamRec, interaction) -> torch.Tensor:
    """Spec 3.2 word by word: causal attention over every position, then the row of the last item."""

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    def linear(x, layer):
        return x @ layer.weight.T + layer.bias

    e, ids = model.encoder, interaction["item_id_list"]
    width, d = ids.shape[1], model.null_guidance.numel()
    m = (ids != 0).unsqueeze(-1).float()  # [B, L, 1]
    z = (model.item_embedding.weight[ids] + e.position_embedding.weight[:width]) * m
    q = norm(z, e.query_norm)
    keys = z @ e.key.weight.T + torch.randn(d)  # a bias of the keys cancels, so the model has none
    scores = linear(q, e.query) @ keys.transpose(1, 2) / math.sqrt(d)
    scores = torch.where((ids != 0).unsqueeze(1), scores, -(2.0**32) + 1)
    scores = torch.where(torch.ones(width, width).tril().bool(), scores, -(2.0**32) + 1)
    a = scores.softmax(-1) @ linear(z, e.value) + q
    u = norm(a, e.attention_norm)
    f = norm(linear(linear(u, e.feed_forward[0]).relu(), e.feed_forward[2]) + u, e.feed_forward_norm) * m
    h = norm(f, e.output_norm)
    return h[torch.arange(len(ids)), (interaction["item_length"] - 1).clamp(min=0)]


@pytest.mark.parametrize("width", [LENGTH, 4])
def test_guidance_encoder_equals_full_causal_attention(width):
    model = build()
    interaction = batch([history[:width] for history in HISTORIES], width=width)
    with torch.no_grad():
        torch.testing.assert_close(model.guidance(interaction), slow_guidance(model, interaction), rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    model, interaction = build(dropout_prob=0.5), batch(HISTORIES)
    calm = model.guidance(interaction)
    assert torch.equal(model.guidance(interaction), calm)
    assert not torch.allclose(model.train().guidance(interaction), calm)
    torch.testing.assert_close(build(dropout_prob=0.0).train().guidance(interaction), calm)


def test_dropout_is_on_inputs_attention_and_feed_forward():
    """With all three dropping everything, only the biases of the norms are left of the network."""
    model = build(dropout_prob=1.0).train()
    encoder, h = model.encoder, model.guidance(batch([[1, 2, 3], [4]]))
    left = encoder.attention_norm(encoder.query_norm.bias)
    expected = encoder.output_norm(encoder.feed_forward_norm(left))
    torch.testing.assert_close(h, expected.expand_as(h))


def test_step_embedding_is_a_sinusoid_and_an_mlp():
    embedding, t = build().step_embedding, torch.tensor([0, 1, 19])
    k = torch.arange(D // 2)
    angles = t[:, None] * torch.exp(-k * math.log(1e4) / (D // 2 - 1))
    hidden = torch.nn.functional.gelu(embedding.mlp[0](torch.cat([angles.sin(), angles.cos()], dim=1)))
    torch.testing.assert_close(embedding(t), embedding.mlp[2](hidden), rtol=1e-4, atol=1e-5)


# Guidance and generation


def written_out(model: DreamRec, h: torch.Tensor, w: float, ddim_stride: int | None) -> torch.Tensor:
    """Algorithm 2, or DDIM eq. 12, with two network calls a step; draws x_T, then z of every step but the last."""
    noise = noise_for(h)
    betas = beta_schedule(DEFAULTS["noise_schedule"], TIMESTEPS)
    level = [float(math.prod(1 - betas[:n])) for n in range(TIMESTEPS + 1)]  # level[n]: after n steps
    null, x, n = model.null_guidance.expand_as(h), noise.normal(D), TIMESTEPS
    while n > 0:
        t = torch.full((len(h),), n - 1)
        f = (1 + w) * model.denoise(x, h, t) - w * model.denoise(x, null, t)
        if ddim_stride:
            eps = (x - math.sqrt(level[n]) * f) / math.sqrt(1 - level[n])
            n -= ddim_stride
            x = math.sqrt(level[n]) * f + math.sqrt(1 - level[n]) * eps
        else:
            beta, before, after = betas[n - 1], level[n - 1], level[n]
            x = math.sqrt(before) * beta / (1 - after) * f + math.sqrt(1 - beta) * (1 - before) / (1 - after) * x
            if n > 1:
                x = x + math.sqrt(beta * (1 - before) / (1 - after)) * noise.normal(D)
            n -= 1
    return x


@pytest.mark.parametrize("denoiser", ["linear", "mlp"])
@pytest.mark.parametrize("sampling", ["ancestral", "ddim"])
def test_T09_generation_is_algorithm_2_written_out(denoiser, sampling):
    model = build(denoiser=denoiser, sampling=sampling, sampler="stepwise", guidance_scale=1.5)
    h = model.guidance(batch(HISTORIES)).detach()
    expected = no_grad(written_out, model, h, 1.5, 5 if sampling == "ddim" else None)
    torch.testing.assert_close(generated(model, h), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T09_guidance_scale_0_is_conditional_and_minus_1_unconditional(sampler):
    for w, reads_history, reads_null in ((0.0, True, False), (-1.0, False, True), (2.0, True, True)):
        model = build(guidance_scale=w, **SAMPLERS[sampler])
        h, other = (no_grad(model.guidance, batch([history])) for history in ([1, 2, 3], [4, 5]))
        oracle = generated(model, h)
        assert reads_history != torch.allclose(generated(model, other), oracle, atol=1e-4)
        with torch.no_grad():
            model.null_guidance.add_(1)
        assert reads_null != torch.allclose(generated(model, h), oracle, atol=1e-4)


@pytest.mark.parametrize(("denoiser", "equal"), [("linear", True), ("mlp", False)])
def test_T09_guiding_conditions_guides_predictions_only_for_the_linear_denoiser(denoiser, equal):
    model, w = build(denoiser=denoiser), 2.0
    x, h, t = torch.randn(5, D), torch.randn(5, D), torch.tensor([0, 3, 7, 12, 19])
    null = model.null_guidance.expand_as(h)
    predictions = guide(model.denoise(x, h, t), model.denoise(x, null, t), w)
    assert torch.allclose(predictions, model.denoise(x, guide(h, null, w), t), atol=1e-5) == equal


# Training


def test_T10_loss_is_algorithm_1():
    model = build(uncond_prob=0.0, dropout_prob=0.0, timesteps=10, noise_schedule="linear", beta_end=0.5).train()
    n = 10_000
    interaction = batch([[1, 2, 3]] * n, [20, 21] * (n // 2))
    seen = recorded(model)
    loss = model.calculate_loss(interaction)
    x_t, h, t, f = (seen[name].detach() for name in ("x_t", "h", "t", "f"))
    x0 = model.item_embedding.weight[interaction["item_id"]]
    torch.testing.assert_close(loss, ((x0 - f) ** 2).sum() / (n * D))
    torch.testing.assert_close(h, model.guidance(interaction))
    steps = torch.stack([model.step_embedding(torch.tensor(i)) for i in range(10)])
    torch.testing.assert_close(f, torch.cat([x_t, h, steps[t]], dim=1) @ model.denoiser.weight.T + model.denoiser.bias)

    counts = t.bincount(minlength=10)
    assert len(counts) == 10 and (counts - n / 10).abs().max() < 4.5 * math.sqrt(n * 0.1 * 0.9)  # t is uniform
    betas = torch.linspace(1e-4, 0.5, 10)
    for i in range(10):
        level = (1 - betas[: i + 1]).prod()
        noise = ((x_t - level.sqrt() * x0) / (1 - level).sqrt())[t == i].flatten()
        assert abs(noise.mean()) < 4.5 / math.sqrt(len(noise))
        assert abs(noise.std() - 1) < 4.5 / math.sqrt(2 * len(noise))


def test_T10_without_conditioning_the_encoder_has_no_gradient_and_with_it_phi_has_none():
    interaction = batch(HISTORIES)
    for uncond_prob in (1.0, 0.0):
        model = build(uncond_prob=uncond_prob).train()
        model.calculate_loss(interaction).backward()
        encoder = [p.grad is not None and bool(p.grad.any()) for p in model.encoder.parameters()]
        assert any(encoder) == (uncond_prob == 0)
        assert bool(model.null_guidance.grad.any()) == (uncond_prob == 1)


def test_T10_whole_rows_lose_their_guidance_at_the_given_rate():
    model, n = build(uncond_prob=0.1, dropout_prob=0.0), 20_000
    seen = recorded(model)
    model.calculate_loss(batch([[1, 2, 3]] * n))
    dropped = (seen["h"] == model.null_guidance).all(dim=1)
    kept = torch.isclose(seen["h"], model.guidance(batch([[1, 2, 3]])), atol=1e-5).all(dim=1)
    assert (dropped ^ kept).all()
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("detach", [False, True])
def test_T15_gradient_reaches_the_items_of_the_batch_only(detach):
    model = build(detach_target=detach, detach_noised=False, uncond_prob=0.0).train()
    model.calculate_loss(batch([[1, 2], [3]], [20, 21])).backward()
    touched = model.item_embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched == [1, 2, 3, 20, 21]


def test_T15_target_held_fixed_in_both_places_gets_no_gradient():
    model = build(detach_target=True, detach_noised=True, uncond_prob=0.0).train()
    model.calculate_loss(batch([[1, 2, 3], [4, 5]], targets=[20, 21])).backward()
    grad = model.item_embedding.weight.grad
    assert not grad[[20, 21]].any()
    assert grad[[1, 2, 3, 4, 5]].any(dim=1).all()


@pytest.mark.parametrize("detach", [False, True])
def test_T15_detached_target_learns_through_the_noised_input_only(detach):
    model = build(detach_target=detach, detach_noised=False, uncond_prob=0.0).train()
    model.diffusion.alphas_cumprod = torch.zeros(TIMESTEPS)  # x_t is pure noise: no path from the target through it
    model.calculate_loss(batch([[1, 2], [3]], [20, 21])).backward()
    assert bool(model.item_embedding.weight.grad[[20, 21]].any()) == (not detach)
    assert model.item_embedding.weight.grad[1:4].any()


# Histories


def test_T13_contents_of_the_padding_row_do_not_matter():
    model, interaction = build(), batch(HISTORIES)
    scores = no_grad(model.full_sort_predict, interaction)
    with torch.no_grad():
        model.item_embedding.weight[0] = 100.0
    torch.testing.assert_close(no_grad(model.full_sort_predict, interaction)[:, 1:], scores[:, 1:])


def test_T13_padding_is_invisible_and_order_is_not():
    model = build()

    def h(history, width=LENGTH):
        with torch.no_grad():
            return model.guidance(batch([history], width=width))[0]

    base = h([1, 2, 3])
    torch.testing.assert_close(h([1, 2, 3], width=3), base)
    torch.testing.assert_close(h([1, 2, 3], width=4), base)
    for changed in ([1, 2, 4], [2, 1, 3], [1, 1, 2], [2, 3]):
        assert (h(changed) - base).abs().max() > 0.01


def test_T13_rows_of_a_batch_do_not_see_each_other():
    model = build()
    with torch.no_grad():
        together = model.guidance(batch(HISTORIES))
        alone = torch.cat([model.guidance(batch([history])) for history in HISTORIES])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("training", [False, True])
def test_T14_empty_histories_share_a_learned_constant(training):
    model = build().train(training)
    interaction = batch([[], [1, 2], [], []])
    interaction["item_length"][2] = 1  # an empty history may also come as one padding item
    h = model.guidance(interaction)
    assert h.isfinite().all()
    assert torch.equal(h[0], h[2]) and torch.equal(h[0], h[3])
    torch.testing.assert_close(h[0], model.encoder.output_norm.bias)
    for other in (h[1], model.null_guidance):
        assert (h[0] - other).abs().max() > 0.01


def test_T14_empty_histories_leave_all_gradients_finite():
    model = build(uncond_prob=0.0).train()
    model.calculate_loss(batch([[], [1, 2], []])).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.encoder.output_norm.bias.grad.any()


# Evaluation


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T12_evaluation_is_repeatable_and_leaves_the_global_generator_alone(sampler):
    model, interaction = build(**SAMPLERS[sampler]), batch(HISTORIES)
    torch.manual_seed(10)
    before = torch.get_rng_state()
    first = no_grad(model.full_sort_predict, interaction)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(no_grad(model.full_sort_predict, interaction), first)
    assert first.shape == (len(HISTORIES), N_ITEMS) and first.isfinite().all()


def test_T12_new_models_draw_by_the_configured_seed():
    interaction = batch(HISTORIES)
    scores = [build(seed=seed).full_sort_predict(interaction) for seed in (1, 1, 2)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])


@pytest.mark.parametrize("sampling", ["ancestral", "ddim"])
def test_T12_scores_do_not_depend_on_batch_size_and_order(sampling):
    model = build(sampling=sampling)

    def in_batches(*sizes):
        parts = torch.arange(len(HISTORIES)).split(sizes)
        return torch.cat([model.full_sort_predict(batch([HISTORIES[i] for i in part])) for part in parts])

    whole = no_grad(in_batches, 7)
    backwards = no_grad(model.full_sort_predict, batch(HISTORIES[::-1]))
    torch.testing.assert_close(backwards.flip(0), whole, rtol=1e-4, atol=1e-4)
    for sizes in ((1, 2, 4), (1,) * 7, (5, 2)):
        torch.testing.assert_close(no_grad(in_batches, *sizes), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T12_mean_oracle_draws_nothing(sampler, monkeypatch):
    model, interaction = build(oracle="mean", **SAMPLERS[sampler]), batch(HISTORIES)
    monkeypatch.setattr(HistoryNoise, "normal", lambda *_: pytest.fail("it drew"))
    first = no_grad(model.full_sort_predict, interaction)
    assert torch.equal(no_grad(model.full_sort_predict, interaction), first)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_T12_predict_is_the_column_of_the_item(sampler):
    model, interaction = build(**SAMPLERS[sampler]), batch(HISTORIES, [20, 1, 2, 3, 29, 5, 20])
    scores = no_grad(model.full_sort_predict, interaction)
    expected = scores[torch.arange(len(HISTORIES)), interaction["item_id"]]
    assert torch.equal(no_grad(model.predict, interaction), expected)
    interaction["item_id"] = torch.ones_like(interaction["item_id"])
    assert torch.equal(no_grad(model.full_sort_predict, interaction), scores)  # the target is not read


def test_scores_are_inner_products_or_cosines_of_the_oracle_with_all_items():
    interaction = batch(HISTORIES)
    for score_function in ("inner", "cosine"):
        model = build(score_function=score_function)
        oracle, table = no_grad(model.user_vectors, interaction), model.item_embedding.weight[1:]
        expected = (oracle[:, None] * table).sum(-1)
        if score_function == "cosine":
            expected = expected / (oracle.norm(dim=1)[:, None] * table.norm(dim=1))
        scores = no_grad(model.full_sort_predict, interaction)
        torch.testing.assert_close(scores[:, 1:], expected, rtol=1e-4, atol=1e-4)
        assert (scores[:, 0] == 0).all()


# Closed form against steps


@pytest.mark.parametrize("sampling", ["ancestral", "ddim"])
@pytest.mark.parametrize("schedule", ["linear", "exp", "cosine", "sqrt"])
def test_T11_auto_and_stepwise_have_the_same_mean(sampling, schedule):
    changes = {"oracle": "mean", "sampling": sampling, "noise_schedule": schedule}
    composed, stepwise = build(**changes), build(sampler="stepwise", **changes)
    with torch.no_grad():
        h = composed.guidance(batch(HISTORIES))
        assert generated(composed, h).std() > 0.1
        torch.testing.assert_close(generated(composed, h), generated(stepwise, h), rtol=1e-4, atol=1e-4)


def test_T11_auto_and_stepwise_draw_from_the_same_gaussian():
    n = 20_000
    h = build().guidance(batch([[1, 2, 3]])).detach().expand(n, D)
    samples = []
    for sampler, seed in (("auto", 3), ("stepwise", 4)):
        samples.append(generated(build(sampler=sampler), h, seed).double())
    (mean, S), (stepwise_mean, stepwise_S) = [(x.mean(0), x.T.cov()) for x in samples]
    variance = S.diagonal()
    assert variance.min() > 0.01
    assert ((mean - stepwise_mean) / (2 * variance / n).sqrt()).abs().max() < 4.5
    assert ((S - stepwise_S) / (2 * (variance[:, None] * variance + S**2) / n).sqrt()).abs().max() < 4.5


def test_T11_ddim_draws_agree_with_the_steps_one_by_one():
    h = build().guidance(batch(HISTORIES)).detach()
    composed, stepwise = build(**SAMPLERS["ddim"]), build(**SAMPLERS["ddim_stepwise"])
    torch.testing.assert_close(generated(composed, h), generated(stepwise, h), rtol=1e-4, atol=1e-4)


def test_T11_closed_form_follows_the_weights():
    """An evaluation between two epochs, or of a loaded checkpoint, must not use the weights of the one before."""
    changes = {"oracle": "mean", "uncond_prob": 0.5, "guidance_scale": 2.0}
    interaction = batch(HISTORIES)
    model, stepwise = build(**changes), build(sampler="stepwise", **changes)
    start, untrained = copy.deepcopy(model.state_dict()), model.full_sort_predict(interaction)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.calculate_loss(interaction).backward()
    optimizer.step()
    stepwise.load_state_dict(model.state_dict())
    trained = model.eval().full_sort_predict(interaction)
    torch.testing.assert_close(trained, stepwise.full_sort_predict(interaction), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(trained, untrained, atol=0.01)
    model.load_state_dict(start)
    torch.testing.assert_close(model.eval().full_sort_predict(interaction), untrained)


# Mistakes in the config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"noise_schedule": "quadratic"}, "unknown noise schedule 'quadratic'"),
        ({"denoiser": "unet"}, "denoiser must be one of linear, mlp, got 'unet'"),
        ({"oracle": "median"}, "oracle must be one of sample, mean, got 'median'"),
        ({"sampler": "fast"}, "sampler must be one of auto, closed_form, stepwise, got 'fast'"),
        ({"sampling": "ddpm"}, "sampling must be one of ancestral, ddim, got 'ddpm'"),
        ({"score_function": "l2"}, "score_function must be one of inner, cosine, got 'l2'"),
        ({"sampling": "ddim", "ddim_stride": 7}, r"ddim_stride \(7\) must divide timesteps \(20\)"),
        ({"denoiser": "mlp", "sampler": "closed_form"}, "closed_form needs denoiser: linear"),
        ({"hidden_size": 15}, "hidden_size must be an even number"),
        ({"timesteps": 1}, "timesteps must be at least 2"),
    ],
)
def test_mistakes_in_the_config_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        fresh(**changes)


def test_a_stride_that_is_not_used_is_not_checked():
    assert fresh(sampling="ancestral", ddim_stride=7).ddim_stride is None
