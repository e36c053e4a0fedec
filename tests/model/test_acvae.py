"""ACVAE against its equations written out again, on a model of toy size with random weights."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from stubs import Config, Items

from recbole_gen.errors import UserError
from recbole_gen.model import acvae
from recbole_gen.model.acvae import ACVAE, discrimination_loss
from recbole_gen.model.layers import HistoryNoise
from recbole_gen.training.optimizers import CompositeOptimizer

N_ITEMS, E, H, Z, LENGTH = 30, 8, 10, 6, 14
DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "properties/model/ACVAE.yaml").read_text())
TOY = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "seed": 2020,
    "loss": "softmax",
    "embedding_size": E,
    "rnn_size": H,
    "latent_size": Z,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
}
CALM = {"emb_dropout_prob": 0.0, "dropout_prob": 0.0, "adv_dropout_prob": 0.0}
OFF = {"kl_weight": 0, "contrast_weight": 0}
HISTORIES = [[1, 2, 3], [4], list(range(5, 5 + LENGTH)), [], [3, 2, 1, 9, 9], [11, 12, 1, 7, 20, 21, 22]]
ENCODERS = {
    "dense": {},
    "vertical": {"conv_type": "vertical"},
    "kernel_3": {"kernel_size": 3},
    "kernel_1": {"kernel_size": 1},
    "softplus": {"gru_softplus": True},
    "fc": {"encoder_type": "fc"},
    "fc_no_res": {"encoder_type": "fc_no_res", "conv_type": "vertical"},
}
encoders = pytest.mark.parametrize("kind", ENCODERS)

pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(**changes) -> ACVAE:
    torch.manual_seed(1)
    return ACVAE(Config(DEFAULTS | TOY | changes), Items(N_ITEMS))


def build(**changes) -> ACVAE:
    """In evaluation mode: no dropout and, by default, no noise."""
    return fresh(**changes).eval()


def batch(histories, targets=None, width=LENGTH) -> dict[str, torch.Tensor]:
    return {
        "item_id_list": torch.tensor([history + [0] * (width - len(history)) for history in histories]),
        "item_length": torch.tensor([max(1, len(history)) for history in histories]),
        "item_id": torch.tensor(targets or [20 + i for i in range(len(histories))]),
    }


def losses(model: ACVAE, interaction, seed: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    terms = model.calculate_loss(interaction)
    assert all(term.dim() == 0 for term in terms)
    return dict(zip(model.loss_names, terms, strict=True))


def no_grad(call, *args) -> torch.Tensor:
    with torch.no_grad():
        return call(*args)


# The model written out


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def gru(x, layer, size):
    """States of a GRU from 0, one step after the other: x [L, n] -> [L, size]."""
    h, states = torch.zeros(size), []
    for x_t in x:
        from_x = (layer.weight_ih_l0 @ x_t + layer.bias_ih_l0).split(size)
        from_h = (layer.weight_hh_l0 @ h + layer.bias_hh_l0).split(size)
        r, u = ((a + b).sigmoid() for a, b in list(zip(from_x, from_h))[:2])
        h = (1 - u) * torch.tanh(from_x[2] + r * from_h[2]) + u * h
        states.append(h)
    return torch.stack(states)


def slow_z(model: ACVAE, kind: str, history: list[int], noise=0.0) -> torch.Tensor:
    """z at the steps of one history, sections 3.4.1-3.4.3, where f_eps adds the given noise: [L, Z]."""
    changes = DEFAULTS | ENCODERS[kind]
    encoder, m = model.encoder, changes["kernel_size"]
    h = gru(model.item_embedding.weight[history], model.gru, H)
    if changes["gru_softplus"]:
        h = (1 + h.exp()).log()
    if changes["encoder_type"] != "fc_cnn":
        a = (1 + linear(h, encoder.input).exp()).log() + noise
    else:
        a = (1 + linear(h + noise, encoder.input).exp()).log() + noise
        rows = torch.cat([torch.zeros(m - 1, H), a])
        weight, bias = encoder.convolution.weight, encoder.convolution.bias
        if changes["conv_type"] == "vertical":
            a = torch.stack([(rows[t : t + m] * weight.view(m, 1)).sum(0) + bias for t in range(len(h))])
        else:
            assert weight.shape == (2 * H, H, m)
            a = torch.stack([torch.einsum("tc,oct->o", rows[t : t + m], weight) + bias for t in range(len(h))])
        a = (1 + a.exp()).log()
    c = (1 + linear(a, encoder.output).exp()).log()
    if changes["encoder_type"] != "fc_cnn":
        c = c + noise
    return linear(c if changes["encoder_type"] == "fc_no_res" else h + c, encoder.latent)


def slow_adversary(model: ACVAE, x, z) -> torch.Tensor:
    """T: [..., Z]."""

    def elu(y):
        return torch.where(y > 0, y, y.exp() - 1)

    y = linear(torch.cat([x, z], dim=-1), model.adversary.input)
    for first, second in model.adversary.blocks:
        y = elu(y + linear(linear(y, first), second))
    return linear(y, model.adversary.output) + 0.5 * z**2


def slow_critic(model: ACVAE, x, z) -> torch.Tensor:
    """G of one row: [L]."""
    states = gru(torch.cat([x, z], dim=-1), model.critic.gru, E)
    return linear(states * (1 + torch.erf(states / math.sqrt(2))) / 2, model.critic.output).squeeze(-1)


def slow_nll(model: ACVAE, z, targets) -> torch.Tensor:
    logits = linear(torch.tanh(linear(z, model.hidden)), model.output)[:, 1:]
    return (logits.exp().sum(1).log() - logits[torch.arange(len(targets)), torch.tensor(targets) - 1]).sum()


@encoders
@pytest.mark.parametrize("mode", ["none", "mean"])
def test_latent_vectors_are_the_equations_written_out(kind, mode):
    model = build(eval_noise=mode, **ENCODERS[kind])
    with torch.no_grad():
        noise = model.encoder.mean_noise() if mode == "mean" else 0.0
        x, z = model.infer(batch(HISTORIES)["item_id_list"])
        for i, history in enumerate(HISTORIES):
            torch.testing.assert_close(x[i, : len(history)], model.item_embedding.weight[history])
            if history:
                torch.testing.assert_close(
                    z[i, : len(history)], slow_z(model, kind, history, noise), rtol=1e-4, atol=1e-5
                )


def test_dropout_is_on_inputs_of_the_gru_before_the_latent_layer_and_twice_in_the_adversary():
    """Dropping everything at one place leaves what does not pass it."""
    for kind, changes in ENCODERS.items():
        model = fresh(dropout_prob=1.0, emb_dropout_prob=1.0, **changes)
        seen = []
        model.gru.register_forward_hook(lambda _, args, out, seen=seen: seen.extend([args[0], out[0]]))
        x, z = model.infer(batch(HISTORIES)["item_id_list"])
        assert x.any() and not seen[0].any()
        left = model.encoder.latent.bias.expand_as(z)
        torch.testing.assert_close(z, model.encoder.latent(seen[1]) if kind == "fc" else left)
    adversary, seen = fresh(adv_dropout_prob=1.0).adversary, []
    adversary.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x, z = torch.randn(3, E), torch.randn(3, Z)
    torch.testing.assert_close(adversary(x, z), z**2 / 2)
    assert not seen[0].any()


@encoders
def test_T4_without_both_weights_the_loss_is_the_cross_entropy(kind):
    model, interaction = build(**OFF, **ENCODERS[kind]), batch(HISTORIES)
    with torch.no_grad():
        total = torch.stack(model.calculate_loss(interaction)).sum()
        rows = zip(HISTORIES, interaction["item_id"].tolist())
        expected = [slow_nll(model, slow_z(model, kind, h), [*h[1:], target]) for h, target in rows if h]
    torch.testing.assert_close(total, sum(expected) / len(HISTORIES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pairs", ["window", "last", "all"])
@pytest.mark.parametrize("valid_pair", [True, False])
def test_all_terms_are_eq_13_written_out(pairs, valid_pair):
    """With train_pairs `all`, a row for each prefix, the last step counts only; else every step."""
    changes = {"train_pairs": pairs, "contrast_valid_pair": valid_pair, "kl_weight": 0.3, "contrast_weight": 0.7}
    model, interaction = build(**changes), batch(HISTORIES)
    found = losses(model, interaction)
    torch.manual_seed(5)
    steps = sum(map(bool, HISTORIES)) if pairs == "all" else sum(map(len, HISTORIES))
    prior = list(torch.randn(steps, Z))  # without noise and dropout, the only draw
    expected, B = dict.fromkeys(model.loss_names, 0.0), len(HISTORIES)
    with torch.no_grad():
        table, z_all = model.item_embedding.weight, model.infer(interaction["item_id_list"])[1]  # also on padding
        for i, history in enumerate(HISTORIES):
            if not history:
                continue
            n, nxt = len(history), (i + 1) % B
            x, z, targets = table[history], z_all[i, :n], [*history[1:], int(interaction["item_id"][i])]
            own, other = slow_critic(model, x, z), slow_critic(model, x, z_all[nxt, :n])
            for t in range(n - 1 if pairs == "all" else 0, n):
                expected["nll"] += slow_nll(model, z[t : t + 1], targets[t : t + 1]) / B
                T = slow_adversary(model, x[t], z[t])
                expected["kl"] += 0.3 / B * T.mean()
                expected["contrast"] -= 0.7 / B * own[t].sigmoid().log()
                if t < len(HISTORIES[nxt]) or not valid_pair:
                    expected["contrast"] -= 0.7 / B * (1 - other[t].sigmoid()).log()
                of_prior = slow_adversary(model, x[t], prior.pop(0))
                expected["adversary"] -= (T.sigmoid().log() + (1 - of_prior.sigmoid()).log()).mean() / B
    assert not prior
    for name in model.loss_names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


# The encoder sees the past only


@encoders
@pytest.mark.parametrize("noise", ["none", "mean", "sample"])
def test_T1_later_items_change_nothing(kind, noise, monkeypatch):
    model, t = build(eval_noise=noise, **ENCODERS[kind]), 9
    items = torch.randint(1, N_ITEMS, (3, LENGTH))
    changed = items.clone()
    changed[:, t + 1] = changed[:, t + 1] % (N_ITEMS - 1) + 1

    def outputs(seq):
        z = model.infer(seq)[1]
        return torch.cat([z, model.output(model.decode(z))], dim=-1)

    monkeypatch.setattr(acvae, "HistoryNoise", lambda seed, _: HistoryNoise(seed, items))  # the same for both
    before, after = (no_grad(outputs, seq) for seq in (items, changed))
    assert torch.equal(before[:, : t + 1], after[:, : t + 1])
    assert ((before - after)[:, t + 1].abs().amax(-1) > 1e-6).all()


@encoders
def test_T2_receptive_field_of_the_encoder(kind):
    changes = DEFAULTS | ENCODERS[kind]
    encoder, reach = build(**ENCODERS[kind]).encoder, changes["kernel_size"]
    if changes["encoder_type"] != "fc_cnn":
        reach = 1
    h = torch.randn(1, LENGTH, H)
    other = h.clone()
    other[:, 8] += 1
    with torch.no_grad():
        moved = (encoder(h, "none") - encoder(other, "none")).abs().amax(-1)[0].nonzero().flatten()
    assert moved.tolist() == list(range(8, 8 + reach))


@encoders
def test_T3_padding_does_not_matter(kind):
    model = build(**ENCODERS[kind])
    with torch.no_grad():
        narrow, wide = (model.full_sort_predict(batch(HISTORIES, width=LENGTH + more)) for more in (0, 10))
    torch.testing.assert_close(wide, narrow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("valid_pair", [True, False])
def test_T3_ids_after_the_end_of_a_row_do_not_matter(valid_pair):
    model, interaction = build(contrast_valid_pair=valid_pair), batch(HISTORIES[:3])
    found = losses(model, interaction)
    padding = interaction["item_id_list"] == 0
    garbage = torch.where(padding, 17, interaction["item_id_list"])
    others = losses(model, interaction | {"item_id_list": garbage})
    for name in ("nll", "kl", "adversary"):
        torch.testing.assert_close(others[name], found[name])
    assert torch.allclose(others["contrast"], found["contrast"]) == valid_pair


def test_histories_without_items_have_finite_scores_and_no_loss():
    empty = batch([[], []])
    scores = build().full_sort_predict(empty)
    assert scores.isfinite().all() and torch.allclose(scores[0], scores[1], atol=1e-6)
    for pairs in ("window", "all"):
        model = fresh(train_pairs=pairs)
        terms = model.calculate_loss(empty)
        assert [term.item() for term in terms] == [0, 0, 0, 0] and all(term.requires_grad for term in terms)
        torch.stack(terms).sum().backward()
        assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)


# What learns from what


def players(model: ACVAE) -> dict[str, dict[str, torch.nn.Parameter]]:
    modules = {
        "embedding": [model.item_embedding],
        "gru": [model.gru],
        "encoder": [model.encoder],
        "decoder": [model.hidden, model.output],
        "T": [model.adversary],
        "G": [model.critic],
    }
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {who: {named[id(p)]: p for module in which for p in module.parameters()} for who, which in modules.items()}
    assert sum(map(len, found.values())) == len(named)
    return found


@encoders
def test_T5_each_term_trains_its_own_players(kind):
    model = fresh(**ENCODERS[kind])
    routes = {
        "nll": {"embedding", "gru", "encoder", "decoder"},
        "kl": {"embedding", "gru", "encoder"},
        "contrast": {"embedding", "gru", "encoder", "G"},
        "adversary": {"T"},
    }
    terms = losses(model, batch(HISTORIES))
    for name, term in terms.items():
        for who, parameters in players(model).items():
            gradients = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients):
                assert (gradient is not None and bool(gradient.any())) == (who in routes[name]), (name, parameter)


def test_T5_the_kl_term_trains_the_item_vectors_directly_too():
    """Also where dropout lets nothing of them through to z."""
    model = fresh(emb_dropout_prob=1.0)
    (gradient,) = torch.autograd.grad(losses(model, batch(HISTORIES))["kl"], model.item_embedding.weight)
    assert gradient[1].any() and not gradient[0].any() and not gradient[29].any()


def test_T5_the_contrast_reaches_the_encoder_through_the_other_user_too():
    model, interaction = build(), batch([[1, 2, 3], [4, 5, 6]])
    x, z = model.infer(interaction["item_id_list"])
    valid = interaction["item_id_list"] != 0
    only_first = valid & torch.tensor([[True], [False]])
    (gradient,) = torch.autograd.grad(model.contrastive_loss(model.critic, x, z, valid, only_first), z)
    assert gradient[0, 0].any() and gradient[1, 0].any()


# The losses


def quantiles(mean: float, std: float) -> torch.Tensor:
    """So many points of a normal distribution, evenly spread in probability."""
    n = 4000
    return mean + std * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)


def fitted_critic(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Weights of the critic w0 + w1 z + w2 z^2 with the least loss."""
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def loss():
        optimizer.zero_grad()
        value = discrimination_loss(quadratic(w, positive), quadratic(w, negative)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    return w.detach()


def quadratic(w, z):
    return w[0] + w[1] * z + w[2] * z**2


def test_T6_the_best_critic_is_the_log_ratio_and_its_mean_the_divergence():
    q, p = quantiles(0.7, 0.5), quantiles(0, 1)
    w = fitted_critic(q, p)
    exact = [-(0.7**2) / (2 * 0.25) + math.log(2), 0.7 / 0.25, 0.5 - 1 / (2 * 0.25)]
    for found, expected in zip(w.tolist(), exact):
        assert abs(found - expected) < 0.1
    divergence = (0.25 + 0.7**2 - 1) / 2 - math.log(0.5)
    assert abs(quadratic(w, q).mean().item() - divergence) < 0.02


def test_T7_a_critic_with_the_sides_swapped_has_the_other_sign():
    q, p = quantiles(0.7, 0.5), quantiles(0, 1)
    assert quadratic(fitted_critic(p, q), q).mean() < 0 < quadratic(fitted_critic(q, p), q).mean()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_T8_losses_are_finite_far_off_and_do_not_saturate(dtype):
    for logit in (-40.0, 40.0):
        value = torch.tensor(logit, dtype=dtype, requires_grad=True)
        loss = discrimination_loss(-value, value)
        loss.backward()
        expected = 2 * max(logit, 0.0)
        assert loss.item() == pytest.approx(expected, abs=1e-6) and loss.dtype.itemsize >= 4
        assert value.grad.item() == pytest.approx(2.0 if logit > 0 else 0.0, abs=1e-6)
    value = torch.tensor(25.0, dtype=dtype, requires_grad=True)
    discrimination_loss(torch.tensor(0.0, dtype=dtype), value).backward()
    assert value.grad.item() == 1


def test_T9_where_users_cannot_be_told_apart_the_critic_settles_at_0():
    model = build(contrast_weight=0.7)
    with torch.no_grad():
        model.critic.output.weight.zero_()
    same, steps = batch([[1, 2, 3, 4]] * 2), 4

    def contrast(g):
        with torch.no_grad():
            model.critic.output.bias.fill_(g)
            return losses(model, same)["contrast"].item()

    grid = [g / 20 for g in range(-20, 21)]
    assert min(grid, key=contrast) == 0
    assert contrast(0.0) == pytest.approx(0.7 * steps * 2 * math.log(2), rel=1e-5)


def test_T10_a_batch_of_one_has_no_contrastive_term():
    model = fresh()
    terms = losses(model, batch([[1, 2, 3]]))
    assert terms["contrast"].item() == 0 and all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("critic"):
            assert parameter.grad is None or not parameter.grad.any()
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_T11_losses_are_means_over_rows_of_sums_over_steps():
    model = build()
    once, twice = (losses(model, batch(HISTORIES * n, [20, 21, 22, 23, 24, 25] * n)) for n in (1, 2))
    for name in ("nll", "kl"):
        torch.testing.assert_close(once[name], twice[name])
    row = losses(model, batch([[1, 2, 3]], [4]))["nll"]
    prefixes = [losses(build(train_pairs="all"), batch([p], [t]))["nll"] for p, t in [([1], 2), ([1, 2], 3)]]
    prefixes.append(losses(build(train_pairs="all"), batch([[1, 2, 3]], [4]))["nll"])
    torch.testing.assert_close(row, sum(prefixes))
    assert all(prefix > 0.1 for prefix in prefixes)


def test_losses_that_are_no_number_are_not_hidden():
    spoilt = {
        "item_embedding.weight": {"nll", "kl", "contrast", "adversary"},
        "output.bias": {"nll"},
        "critic.output.bias": {"contrast"},
        "adversary.output.bias": {"kl", "adversary"},
    }
    for name, hit in spoilt.items():
        model = fresh()
        with torch.no_grad():
            model.get_parameter(name)[-29:] = math.nan  # not the vector of padding
        assert {loss for loss, term in losses(model, batch(HISTORIES)).items() if term.isnan()} == hit


def test_mixed_precision_keeps_losses_single_and_gradients_finite():
    model = fresh(**CALM)
    full = losses(model, batch(HISTORIES))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = losses(model, batch(HISTORIES))
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, full[name], rtol=0.05, atol=0.05)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


# Parameters and optimisers


def test_parameters():
    def gru_of(n, size):
        return 3 * size * (n + size + 2)

    def dense(n, m):
        return n * m + m

    model = fresh()
    expected = {
        "embedding": N_ITEMS * E,
        "gru": gru_of(E, H),
        "encoder": 2 * dense(H, H) + dense(5 * H, 2 * H) + dense(2 * H, H) + dense(H, Z),
        "decoder": dense(Z, E) + dense(E, N_ITEMS),
        "T": dense(E + Z, E) + 4 * dense(E, E) + dense(E, Z),
        "G": gru_of(E + Z, E) + dense(E, 1),
    }
    assert {who: sum(p.numel() for p in ps.values()) for who, ps in players(model).items()} == expected
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


def test_initialisation():
    model = fresh(embedding_size=64, latent_size=48)
    assert not model.item_embedding.weight[0].any()
    xavier = [(w, math.sqrt(2 / sum(w.shape))) for w in (model.hidden.weight, model.output.weight)]
    for weight, std in [(model.item_embedding.weight[1:], 1.0), *xavier]:
        assert abs(weight.std().item() - std) < 4.5 * std / math.sqrt(2 * weight.numel())
        assert weight.abs().max() > 2 * std  # normal, not uniform


@pytest.mark.parametrize("kl", [0, 0.05])
@pytest.mark.parametrize("beta", [0, 0.1])
@pytest.mark.parametrize("extra", [False, True])
def test_a_weight_of_0_leaves_its_network_and_its_terms_out(kl, beta, extra):
    model = fresh(kl_weight=kl, contrast_weight=beta, encoder_extra_sgd=extra)
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    rest = {"item_embedding", "gru", "encoder", "hidden", "output"}
    assert names == rest | ({"adversary"} if kl else set()) | ({"critic"} if beta else set())
    terms = losses(model, batch(HISTORIES))
    assert {name for name, term in terms.items() if term.item() != 0} == (
        {"nll"} | ({"kl", "adversary"} if kl else set()) | ({"contrast"} if beta else set())
    )
    spec = model.optimizer_spec()
    assert list(spec) == ["main"] + ["contrast"] * bool(beta) + ["adversary"] * bool(kl)
    assert spec["main"][1] is None
    shared = {id(p) for p in model.encoder.parameters()} if extra and beta else set()
    seen = [id(p) for parameters, _ in spec.values() for p in parameters]
    assert set(seen) == {id(p) for p in model.parameters()} and len(seen) == len(set(seen)) + len(shared)
    if beta:
        parameters, settings = spec["contrast"]
        assert {id(p) for p in parameters} == {id(p) for p in model.critic.parameters()} | shared
        assert settings == {"learner": "sgd", "learning_rate": 0.0003, "weight_decay": 0.1}
    if kl:
        parameters, settings = spec["adversary"]
        assert {id(p) for p in parameters} == {id(p) for p in model.adversary.parameters()}
        assert settings == {"learner": "sgd", "learning_rate": 0.0005, "weight_decay": 0.1}


def test_optimisers_take_turns_if_asked():
    assert [fresh().active_optimizers(step) for step in range(3)] == [None] * 3
    turns = {
        (0.05, 0.1): [{"main", "contrast"}, {"adversary"}],
        (0.05, 0): [{"main"}, {"adversary"}],
        (0, 0.1): [None, None],
        (0, 0): [None, None],
    }
    for (kl, beta), expected in turns.items():
        model = fresh(kl_weight=kl, contrast_weight=beta, adv_schedule="alternate")
        assert [model.active_optimizers(step) for step in range(4)] == expected * 2


def optimizers_of(model: ACVAE) -> dict[str, torch.optim.Optimizer]:
    own = {"learner": "adamw", "learning_rate": 0.01, "weight_decay": 0.02}  # faster, so that steps show
    classes = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    optimizers = {}
    for name, (parameters, settings) in model.optimizer_spec().items():
        given = settings or own
        lr, decay = given["learning_rate"], given["weight_decay"]
        optimizers[name] = classes[given["learner"]](parameters, lr=lr, weight_decay=decay)
    return optimizers


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("valid_pair", [False, True])
def test_T12_one_backward_pass_equals_the_two_phases(extra, valid_pair):
    """Dropout and noise are on; in the two phases T is trained on z of before the encoder's step."""
    rates = {"learner": "sgd", "learning_rate": 0.05, "weight_decay": 0.1}
    changes = {"encoder_extra_sgd": extra, "contrast_valid_pair": valid_pair, "adversary_optimizer": rates}
    changes |= {"contrast_optimizer": rates}
    ours, theirs = fresh(**changes).double(), fresh(**changes).double()
    histories = [history for history in HISTORIES if history]
    batches = [batch(histories, [(7 * step + i) % 29 + 1 for i in range(len(histories))]) for step in range(5)]

    composite = CompositeOptimizer(optimizers_of(ours))
    torch.manual_seed(8)
    for interaction in batches:
        composite.zero_grad()
        torch.stack(ours.calculate_loss(interaction)).sum().backward()
        composite.step()

    def log_sigmoid(logits):
        return logits.sigmoid().log()

    optimizers = optimizers_of(theirs)
    torch.manual_seed(8)
    for interaction in batches:
        items, B = interaction["item_id_list"], len(histories)
        real = items != 0
        targets = [each for h, target in zip(histories, interaction["item_id"].tolist()) for each in [*h[1:], target]]
        x, z = theirs.infer(items)
        T = theirs.adversary(x[real], z[real])
        G, other = theirs.critic(x, z), theirs.critic(x, z.roll(-1, 0))
        compared = real & real.roll(-1, 0) if valid_pair else real
        phase_1 = slow_nll(theirs, z[real], targets)
        phase_1 = phase_1 + theirs.kl_weight * T.mean(-1).sum()
        contrast = -log_sigmoid(G)[real].sum() - log_sigmoid(-other)[compared].sum()
        theirs.zero_grad()
        ((phase_1 + theirs.contrast_weight * contrast) / B).backward()
        optimizers["main"].step()
        optimizers["contrast"].step()
        x, z = x[real].detach(), z[real].detach()
        T = theirs.adversary(x, z)
        of_prior = theirs.adversary(x, torch.randn_like(z))
        theirs.zero_grad()
        (-(log_sigmoid(T) + log_sigmoid(-of_prior)).mean(-1).sum() / B).backward()
        optimizers["adversary"].step()

    start = fresh(**changes).double()
    for (name, a), b, before in zip(ours.named_parameters(), theirs.parameters(), start.parameters()):
        assert (a - b).abs().max() < 1e-9, name
        assert (a - before).abs().max() > 1e-6, name


def test_T15_an_item_that_does_not_occur_only_decays():
    model, steps = fresh(), 4
    optimizers = CompositeOptimizer(optimizers_of(model))
    rows = {"embedding": model.item_embedding.weight, "decoder": model.output.weight}
    before = {name: weight.detach().clone() for name, weight in rows.items()}
    for _ in range(steps):
        optimizers.zero_grad()
        torch.stack(model.calculate_loss(batch(HISTORIES))).sum().backward()
        optimizers.step()
    decayed = {name: before[name] * (1 - 0.01 * 0.02) ** steps for name in rows}
    torch.testing.assert_close(rows["embedding"][29], decayed["embedding"][29], rtol=1e-6, atol=1e-7)
    assert (rows["embedding"][1] - decayed["embedding"][1]).abs().max() > 1e-3
    assert (rows["decoder"][29] - decayed["decoder"][29]).abs().max() > 1e-3
    assert not rows["embedding"][0].any()


# Noise and recommendation


def test_noise_is_drawn_in_training_for_every_row_and_step():
    model = fresh(**CALM)
    items = batch([[1, 1, 1], [1, 1, 1]])["item_id_list"]
    first, second = (model.infer(items)[1] for _ in range(2))
    assert not torch.allclose(first, second) and not torch.allclose(first[0], first[1])
    v = torch.zeros(2, 3, H)
    added = model.encoder.add_noise(v, "sample", None)
    assert len(added.flatten(0, 1).unique(dim=0)) == 6
    with torch.no_grad():
        model.encoder.noise.weight.zero_(), model.encoder.noise.bias.zero_()
    torch.testing.assert_close(model.infer(items)[1], model.eval().infer(items)[1])  # no other noise


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_mean_noise_is_the_mean_of_the_noise(scale):
    encoder, n = build().encoder, 40_000
    with torch.no_grad():
        encoder.noise.weight.mul_(scale), encoder.noise.bias.add_(0.5)
        noise = HistoryNoise(0, torch.ones(1, 1, dtype=torch.int64))
        draws = encoder.add_noise(torch.zeros(1, n, H), "sample", noise)[0]
        mean = encoder.add_noise(torch.zeros(H), "mean", None)
    assert ((draws.mean(0) - mean).abs() < 4.5 * draws.std(0) / math.sqrt(n)).all()
    assert mean.abs().min() > 0.01


def test_modes_of_noise_at_recommendation():
    interaction = batch(HISTORIES)
    scores = {mode: build(eval_noise=mode).full_sort_predict(interaction) for mode in ("none", "mean", "sample")}
    assert len({tuple(each.flatten().tolist()) for each in scores.values()}) == 3
    assert DEFAULTS["eval_noise"] == "none"
    v = torch.randn(2, 3, H)
    assert torch.equal(build().encoder.add_noise(v, "none", None), v)


@pytest.mark.parametrize("mode", ["none", "mean", "sample"])
def test_T18_evaluation_is_repeatable_and_leaves_the_global_generator_alone(mode):
    model, interaction = build(eval_noise=mode), batch(HISTORIES)
    torch.manual_seed(10)
    before = torch.get_rng_state()
    first = no_grad(model.full_sort_predict, interaction)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(no_grad(model.full_sort_predict, interaction), first)
    assert first.shape == (len(HISTORIES), N_ITEMS) and first.isfinite().all()


@encoders
def test_T18_noise_belongs_to_the_history(kind):
    """Not to the batch or its padding: every step of a history draws its own."""
    model = build(eval_noise="sample", **ENCODERS[kind])
    whole = no_grad(model.full_sort_predict, batch(HISTORIES))
    for width in (LENGTH, LENGTH + 30):
        backwards = no_grad(model.full_sort_predict, batch(HISTORIES[::-1], width=width))
        torch.testing.assert_close(backwards.flip(0), whole, rtol=1e-4, atol=1e-5)
    alone = torch.cat([no_grad(model.full_sort_predict, batch([history])) for history in HISTORIES])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-5)


@encoders
def test_scores_are_the_decoder_at_the_last_step(kind):
    model = build(**ENCODERS[kind])
    with torch.no_grad():
        interaction = batch(HISTORIES)
        latent, scores = model.latent(interaction), model.full_sort_predict(interaction)
        for i, history in enumerate(HISTORIES):
            if history:
                z = slow_z(model, kind, history)[-1]
                torch.testing.assert_close(latent[i], z, rtol=1e-4, atol=1e-5)
                logits = linear(torch.tanh(linear(z, model.hidden)), model.output)
                torch.testing.assert_close(scores[i, 1:], logits[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["none", "sample"])
def test_predict_is_the_column_of_the_item(mode):
    model, interaction = build(eval_noise=mode), batch(HISTORIES)
    scores = no_grad(model.full_sort_predict, interaction)
    expected = scores[torch.arange(len(HISTORIES)), interaction["item_id"]]
    assert torch.equal(no_grad(model.predict, interaction), expected)
    assert model.predict(batch([[1, 2]])).shape == (1,)


# Mistakes in the config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_type": "cnn"}, "encoder_type must be one of fc_cnn, fc, fc_no_res, got 'cnn'"),
        ({"conv_type": "horizontal"}, "conv_type must be one of dense, vertical, got 'horizontal'"),
        ({"eval_noise": True}, "eval_noise must be one of none, mean, sample, got True"),
        ({"adv_schedule": "never"}, "adv_schedule must be one of same_batch, alternate, got 'never'"),
        ({"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
        ({"kl_weight": -0.1}, "kl_weight and contrast_weight must not be negative, got -0.1 and 0.1"),
        ({"contrast_weight": -1}, "kl_weight and contrast_weight must not be negative, got 0.05 and -1"),
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "set train_neg_sample_args: ~"),
    ],
)
def test_mistakes_in_the_config_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        fresh(**changes)


def test_no_sampled_items_is_no_mistake():
    fresh(train_neg_sample_args={"distribution": "none", "sample_num": "none", "dynamic": False})


@pytest.mark.parametrize(("paper", "steps"), [("ml-latest", 200), ("ml-1m", 200), ("ml-10m", 200), ("yelp", 50)])
def test_published_settings_are_the_codes_where_the_paper_is_silent(paper, steps, make_config, write_atomic):
    rows = {"user_id:token": ["a"], "item_id:token": ["x"], "business_id:token": ["x"], "timestamp:float": [1]}
    columns = {**rows, "rating:float": [5], "stars:float": [5], "date:float": [1.6e9]}
    name = {"ml-latest": "ml-latest-small"}.get(paper, paper)
    write_atomic(columns, name=name)
    config = make_config(None, None, paper=f"acvae-{paper}")
    keys = ("encoder_extra_sgd", "contrast_valid_pair", "eval_noise")
    assert [config[key] for key in keys] == [True, False, "sample"]
    assert (config["last_events"], config["MAX_ITEM_LIST_LENGTH"]) == (steps + 1, steps)
    assert steps + 1 - (steps + 1) // 5 <= steps  # what is read of them is never cut
    given = make_config(None, None, paper=f"acvae-{paper}", eval_noise="none")
    assert given["eval_noise"] == "none" and given["dataset"] == name
