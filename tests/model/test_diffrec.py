"""DiffRec against its equations written out again, on a model of toy size with random weights."""

import math
import random
from collections import deque
from pathlib import Path

import pytest
import torch
import yaml
from stubs import Config, Items

from recbole_gen.errors import UserError
from recbole_gen.model import diffrec
from recbole_gen.model.diffrec import DiffRec, StepSampler

N_ITEMS, D, LENGTH, TIMESTEPS, SEEDS = 30, 16, 6, 20, 3
DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "properties/model/DiffRec.yaml").read_text())
TOY = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "seed": 2020,
    "loss": "softmax",
    # The paper's reading; the defaults' are tested by name.
    "embedding_std": 1.0,
    "step_scale": 1.0,
    "slot_scale": 1.0,
    "last_item_in_slot": False,
    "detach_target": False,
    "detach_noised": False,
    "hidden_size": D,
    "n_heads": 2,
    "inner_size": 40,
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "timesteps": TIMESTEPS,
    "n_seeds": SEEDS,
}
HISTORIES = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10], [3, 2, 1], [11, 12], [13, 14, 15, 16]]
causal_or_not = pytest.mark.parametrize("causal", [False, True])


pytestmark = pytest.mark.usefixtures("one_thread")


def fresh(**changes) -> DiffRec:
    torch.manual_seed(1)
    return DiffRec(Config(DEFAULTS | TOY | changes), Items(N_ITEMS))


def build(**changes) -> DiffRec:
    """In evaluation mode, with weights, biases and norms such that each of them matters."""
    model = fresh(**changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embedding" not in name:
                parameter.mul_(12)  # standard deviation 0.24, about 1 / sqrt(d)
    return model.eval()


def batch(histories, targets=None, width=LENGTH) -> dict[str, torch.Tensor]:
    return {
        "item_id_list": torch.tensor([history + [0] * (width - len(history)) for history in histories]),
        "item_length": torch.tensor([len(history) for history in histories]),
        "item_id": torch.tensor(targets or [20] * len(histories)),
    }


def random_histories(rows: int) -> list[list[int]]:
    draw = random.Random(0)
    return [[draw.randrange(1, N_ITEMS) for _ in range(draw.randrange(LENGTH + 1))] for _ in range(rows)]


def no_grad(call, *args) -> torch.Tensor:
    with torch.no_grad():
        return call(*args)


def levels(timesteps: int = TIMESTEPS) -> list[float]:
    """abar_0..abar_N of the default schedule, section 5.3.1, with beta_N = 0.999."""
    printed = [1.0] + [1 - math.sqrt(n / timesteps + 1e-4) for n in range(1, timesteps)]
    return printed + [0.001 * printed[-1]]


def tokens_of(model: DiffRec) -> list[torch.Tensor]:
    """Filled by the next calls with the Transformer's input, eq. 14."""
    seen = []
    model.input_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    return seen


def recorded(model: DiffRec, monkeypatch) -> dict[str, torch.Tensor]:
    """What the next call of the loss gives to the denoiser (slot, n) and what it answers (f)."""
    seen, denoise = {}, model.denoise

    def spy(item_seq, slots, n):
        f = denoise(item_seq, slots, n)
        seen.update(slot=slots.detach().squeeze(1), n=n, f=f.detach().squeeze(1))
        return f

    monkeypatch.setattr(model, "denoise", spy)
    return seen


# Parameters


def test_parameter_shapes():
    model, d, inner = fresh(), D, TOY["inner_size"]
    block = 4 * (d * d + d) + (d * inner + inner) + (inner * d + d) + 2 * 2 * d  # attention; feed-forward; norms
    tables = N_ITEMS * d + (LENGTH + 1) * d + N_ITEMS * (d + 1)  # items; positions, the slot's too; W and b
    assert sum(p.numel() for p in model.parameters()) == tables + 2 * d + DEFAULTS["n_layers"] * block
    assert model.output.weight.data_ptr() != model.item_embedding.weight.data_ptr()
    buffers = {"noise_bank", "steps.losses", "steps.counts"}
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()} | buffers


def test_parameter_initialisation():
    model = fresh(hidden_size=128, n_heads=2, inner_size=512, MAX_ITEM_LIST_LENGTH=49)
    assert not model.item_embedding.weight[0].any()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * 5 + 1 and not any(layer.bias.any() for layer in linear)
    normal = [(model.item_embedding.weight[1:], 1.0), (model.position_embedding.weight, 1.0)]
    for table, std in normal + [(layer.weight, 0.02) for layer in linear]:
        assert abs(table.mean().item()) < 4.5 * std / math.sqrt(table.numel())
        assert abs(table.std().item() - std) < 4.5 * std / math.sqrt(2 * table.numel())
    assert fresh(embedding_std=0.1).item_embedding.weight[1:].std().item() == pytest.approx(0.1, rel=0.2)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        assert norm.eps == 1e-5 and (norm.weight == 1).all() and not norm.bias.any()


# Denoise Sequential Recommender (section 4.4, spec 4.2)


def slow_denoise(model: DiffRec, history: list[int], slot: torch.Tensor, n: int) -> torch.Tensor:
    """Eq. 14-16 word by word for one row: its items without padding, the slot last, one head after another."""

    def norm(x, layer):
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias

    def linear(x, layer):
        return x @ layer.weight.T + layer.bias

    z = torch.tensor([(math.cos if i % 2 else math.sin)(n / 10000 ** ((i - i % 2) / D)) for i in range(D)])
    items = model.item_embedding.weight[history]
    slot = model.slot_scale * slot
    if model.last_item_in_slot and history:
        slot = slot + items[-1]
    h = torch.cat([items, slot.unsqueeze(0)])
    y = model.position_embedding.weight[LENGTH - len(history) :]  # the last one is always the slot's
    x = norm(h + y + model.step_scale * z, model.input_norm)
    hidden = torch.ones(len(x), len(x)).triu(1).bool() & model.causal
    size = D // TOY["n_heads"]
    for block in model.blocks:
        keys_values = linear(x, block.key_value)
        q, k, v = linear(x, block.query), keys_values[:, :D], keys_values[:, D:]
        heads = []
        for first in range(0, D, size):
            of_head = slice(first, first + size)
            scores = q[:, of_head] @ k[:, of_head].T / math.sqrt(size)
            heads.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[:, of_head])
        x = norm(x + linear(torch.cat(heads, dim=1), block.attention_output), block.attention_norm)
        inner = linear(x, block.feed_forward[0])
        gelu = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        x = norm(x + linear(gelu, block.feed_forward[2]), block.output_norm)
    return x[-1]


@pytest.mark.parametrize(
    "values",
    [{"step_scale": 1.0}, {"step_scale": 0.1}, {"step_scale": 0.0}, {"last_item_in_slot": True, "slot_scale": 0.3}],
)
@causal_or_not
def test_denoise_is_a_transformer_over_the_history_with_the_slot_last(causal, values):
    model, histories = build(causal=causal, **values), random_histories(150)
    assert {len(history) for history in histories} == set(range(LENGTH + 1))
    slots, n = torch.randn(len(histories), D), torch.randint(1, TIMESTEPS + 1, (len(histories),))
    with torch.no_grad():
        f = model.denoise(batch(histories)["item_id_list"], slots.unsqueeze(1), n).squeeze(1)
        rows = zip(histories, slots, n.tolist())
        expected = torch.stack([slow_denoise(model, *row) for row in rows])
    torch.testing.assert_close(f, expected, rtol=1e-4, atol=1e-5)


def test_causal_attention_is_another_network_but_not_for_the_first_block():
    histories, slots = batch(HISTORIES)["item_id_list"], torch.randn(len(HISTORIES), 1, D)
    n = torch.full((len(HISTORIES),), 7)
    for n_layers, equal in ((1, True), (2, False)):  # with one block the slot sees the same tokens in both cases
        f, g = (build(causal=causal, n_layers=n_layers).denoise(histories, slots, n)[3] for causal in (False, True))
        assert torch.allclose(f, g, atol=1e-5) == equal


@causal_or_not
def test_slots_do_not_see_each_other(causal):
    model, S = build(causal=causal), 4
    histories, n = batch(HISTORIES)["item_id_list"], torch.tensor([1, 20, 3, 9, 12, 7, 20])
    slots = torch.randn(len(HISTORIES), S, D)
    with torch.no_grad():
        together = model.denoise(histories, slots, n)
        alone = torch.cat([model.denoise(histories, slots[:, s : s + 1], n) for s in range(S)], dim=1)
    assert together.shape == (len(HISTORIES), S, D)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@causal_or_not
def test_batches_without_any_item(causal):
    model, slots = build(causal=causal), torch.randn(3, 2, D)
    n = torch.tensor([1, 7, 20])
    with torch.no_grad():
        f = model.denoise(torch.zeros(3, LENGTH, dtype=torch.int64), slots, n)
        for i in range(3):
            torch.testing.assert_close(f[i, 1], slow_denoise(model, [], slots[i, 1], int(n[i])), rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    histories, slots, n = batch([[1, 2, 3], [4]])["item_id_list"], torch.randn(2, 1, D), torch.tensor([3, 20])
    model = build(dropout_prob=0.5)
    calm = model.denoise(histories, slots, n)
    assert torch.equal(model.denoise(histories, slots, n), calm)
    assert not torch.allclose(model.train().denoise(histories, slots, n), calm)
    torch.testing.assert_close(build(dropout_prob=0.0).train().denoise(histories, slots, n), calm)


def test_dropout_is_on_inputs_attention_and_feed_forward():
    """With all of them dropping everything, only the biases and scales of the norms are left of the network."""
    model, read = build(dropout_prob=1.0).train(), []
    for block in model.blocks:
        block.attention_output.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    f = model.denoise(batch([[1, 2, 3], [4]])["item_id_list"], torch.randn(2, 1, D), torch.tensor([3, 20]))
    x = torch.zeros(D)
    for block in model.blocks:
        x = block.output_norm(block.attention_norm(x))
    torch.testing.assert_close(f, x.expand_as(f))
    assert len(read) == len(model.blocks) and not any(values.any() for values in read)  # the attention's own


@causal_or_not
@pytest.mark.parametrize("history", [[], [4], [1, 2, 3], [5, 6, 7, 8, 9, 10]])
def test_T20_the_slot_has_the_last_position_and_the_items_those_before_it(causal, history):
    model = build(causal=causal)
    f = model.denoise(batch([history])["item_id_list"], torch.randn(1, 1, D), torch.tensor([5]))
    (f * torch.randn(D)).sum().backward()  # the sum itself is that of a norm's output and hardly moves
    used = model.position_embedding.weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert used == list(range(LENGTH - len(history), LENGTH + 1))


@causal_or_not
@pytest.mark.parametrize("history", [[], [4], [1, 2, 3], [5, 6, 7, 8, 9, 10]])
def test_T20_counted_from_the_start_the_slot_has_the_position_behind_the_last_item(causal, history):
    model = build(causal=causal, positions_from="start")
    seen, interaction = tokens_of(model), batch([history, [7, 7]])
    model.denoise(interaction["item_id_list"], torch.zeros(2, 1, D), torch.tensor([5, 5]))
    y, items = model.position_embedding.weight, model.item_embedding.weight[history]
    z = torch.tensor([[math.sin(5 / 1e4 ** (i / D)), math.cos(5 / 1e4 ** (i / D))] for i in range(0, D, 2)]).flatten()
    tokens = torch.cat([y[len(history)].unsqueeze(0), items + y[: len(history)]]) + z
    torch.testing.assert_close(seen[0][0, : len(tokens)], tokens, atol=1e-5, rtol=1e-5)


def test_T20_history_is_noise_free():
    """Another noise changes the slot's input only; another n changes z_n at every position and nothing else."""
    model = build()
    seen, histories = tokens_of(model), batch([[1, 2, 3], [4, 5, 6]])["item_id_list"]
    slots, other = torch.randn(2, 1, D), torch.randn(2, 1, D)
    for slot, n in ((slots, 5), (other, 5), (slots, 9)):
        model.denoise(histories, slot, torch.tensor([n, n]))
    base, noised, later = seen
    assert base.shape == (2, 4, D)
    assert ((noised - base).abs().amax(dim=2) > 1e-6).sum(dim=1).tolist() == [1, 1]
    z = [torch.tensor([math.sin(n), math.cos(n)]) for n in (5, 9)]  # the first two dimensions of eq. 15
    torch.testing.assert_close((later - base)[..., :2], (z[1] - z[0]).expand(2, 4, 2))
    assert ((later - base) - (later - base)[0, 0]).abs().max() < 1e-5


# Histories


def test_T13_contents_of_the_padding_row_do_not_matter():
    for causal in (False, True):
        model, interaction = build(causal=causal), batch(HISTORIES)
        scores = model.full_sort_predict(interaction).detach()
        with torch.no_grad():
            model.item_embedding.weight[0] = 100.0
            torch.testing.assert_close(model.full_sort_predict(interaction), scores)


def test_T13_padding_is_invisible_and_order_is_not():
    model = build()

    def scores(history, width=LENGTH):
        with torch.no_grad():
            return model.full_sort_predict(batch([history], width=width))[0]

    base = scores([1, 2, 3])
    torch.testing.assert_close(scores([1, 2, 3], width=3), base)
    torch.testing.assert_close(scores([1, 2, 3], width=LENGTH + 4), base)
    for changed in ([1, 2, 4], [2, 1, 3], [1, 3, 2], [1, 1, 2], [2, 3]):
        assert (scores(changed) - base).abs().max() > 1e-3


@causal_or_not
def test_T14_empty_histories_share_finite_scores_and_leave_gradients_finite(causal):
    model = build(causal=causal)
    scores = model.full_sort_predict(batch([[], [1, 2], []]))
    assert scores.isfinite().all() and torch.allclose(scores[0], scores[2], rtol=1e-5)
    assert (scores[0] - scores[1]).abs().max() > 1e-3
    torch.stack(model.train().calculate_loss(batch([[], [1, 2], []]))).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


# Training (algorithm 1, eq. 17-18)


def test_T10_loss_is_algorithm_1(monkeypatch):
    model, n_rows = build(dropout_prob=0.0, mse_weight=0.5, timesteps=10), 10_000
    model.steps.record(torch.arange(1, 11).repeat_interleave(10), torch.linspace(0.1, 1, 10).repeat_interleave(10))
    seen, interaction = recorded(model, monkeypatch), batch([[1, 2, 3]] * n_rows, [20, 21] * (n_rows // 2))
    with torch.no_grad():
        mse, recommendation = model.calculate_loss(interaction)
    slot, n, f = (seen[name] for name in ("slot", "n", "f"))
    h0 = model.item_embedding.weight[interaction["item_id"]].detach()
    p = 0.999 * torch.linspace(0.1, 1, 10) / 5.5 + 0.0001
    assert ((n.bincount(minlength=11)[1:] - n_rows * p).abs() < 4.5 * (n_rows * p * (1 - p)).sqrt()).all()
    L_n = (h0 - f).pow(2).sum(1) / D
    torch.testing.assert_close(mse, 0.5 * (L_n / (10 * p[n - 1])).sum() / n_rows)
    logits = (f @ model.output.weight.T + model.output.bias)[:, 1:]
    log_p = logits[torch.arange(n_rows), interaction["item_id"] - 1] - logits.exp().sum(1).log()
    torch.testing.assert_close(recommendation, -log_p.mean())
    for step in range(1, 11):
        level = levels(10)[step]
        noise = ((slot - math.sqrt(level) * h0) / math.sqrt(1 - level))[n == step].flatten()
        assert abs(noise.mean()) < 4.5 / math.sqrt(len(noise))
        assert abs(noise.std() - 1) < 4.5 / math.sqrt(2 * len(noise))


def test_T22_unweighted_losses_are_recorded(monkeypatch):
    interaction = batch(HISTORIES * 8, list(range(1, 29)) * 2)
    for changes in ({"mse_weight": 7.0}, {"step_weight": "sum"}, {"mse_reduction": "sum"}):
        model = build(timesteps=2, is_history=100, **changes)
        model.steps.record(torch.tensor([1, 2] * 100), torch.tensor([1.0, 3.0] * 100))  # so that weights are not 1
        seen = recorded(model, monkeypatch)
        model.calculate_loss(interaction)
        L_n = (model.item_embedding(interaction["item_id"]) - seen["f"]).pow(2).sum(1)
        if "mse_reduction" not in changes:
            L_n = L_n / D
        for n in (1, 2):
            old = [[1.0, 3.0][n - 1]] * (100 - int((seen["n"] == n).sum()))
            expected = torch.tensor(old + L_n[seen["n"] == n].tolist()).sort().values
            torch.testing.assert_close(model.steps.losses[n - 1].sort().values, expected)
        assert model.steps.counts.sum() == 256


def test_without_importance_sampling_steps_are_even_and_weigh_1(monkeypatch):
    model, n_rows = build(importance_sampling=False), 10_000
    model.steps.record(torch.tensor([20] * 5), torch.full((5,), 9.0))
    before = model.steps.losses.clone()
    seen, interaction = recorded(model, monkeypatch), batch([[1, 2]] * n_rows)
    with torch.no_grad():
        mse, _ = model.calculate_loss(interaction)
    counts, share = seen["n"].bincount(minlength=TIMESTEPS + 1)[1:], 1 / TIMESTEPS
    assert len(counts) == TIMESTEPS
    assert (counts - n_rows * share).abs().max() < 4.5 * math.sqrt(n_rows * share * (1 - share))
    torch.testing.assert_close(mse, (model.item_embedding.weight[20] - seen["f"]).pow(2).mean().detach())
    assert torch.equal(model.steps.losses, before)


def losses(interaction, **changes) -> tuple[float, float]:
    """Of the same model at the same draws."""
    model = build(dropout_prob=0.0, **changes)
    torch.manual_seed(5)
    mse, recommendation = model.calculate_loss(interaction)
    return mse.item(), recommendation.item()


def test_scales_of_the_loss():
    interaction = batch(HISTORIES, [20, 21, 22, 23, 24, 25, 26])
    mse, recommendation = losses(interaction)
    for changes, factor in (
        ({"step_weight": "sum"}, TIMESTEPS),
        ({"step_weight": "sum", "importance_sampling": False}, TIMESTEPS),
        ({"mse_reduction": "sum"}, D),
        ({"mse_weight": 0.25}, 0.25),
    ):
        base, _ = losses(interaction, importance_sampling=changes.get("importance_sampling", True))
        scaled, unchanged = losses(interaction, **changes)
        assert scaled == pytest.approx(factor * base, rel=1e-5)
        if changes.get("importance_sampling", True):  # else the draws are others
            assert base == mse and unchanged == recommendation


def test_rec_on_says_which_vector_the_cross_entropy_reads():
    interaction = batch(HISTORIES, [20, 21, 22, 23, 24, 25, 26])
    (mse, pred), (_, clean), (same, both) = (losses(interaction, rec_on=name) for name in ("pred", "clean", "both"))
    assert both == pytest.approx(pred + clean, rel=1e-6) and same == mse
    model = build()
    logits = (model.item_embedding.weight[20:27] @ model.output.weight.T + model.output.bias)[:, 1:]
    expected = -logits.log_softmax(-1)[torch.arange(7), torch.arange(19, 26)].mean()
    assert clean == pytest.approx(expected.item(), rel=1e-5) and abs(pred - clean) > 0.01


@pytest.mark.parametrize(("rec_on", "trains"), [("clean", False), ("pred", True), ("both", True)])
def test_T25_cross_entropy_on_the_clean_vector_does_not_train_the_transformer(rec_on, trains):
    model = build(rec_on=rec_on).train()
    model.calculate_loss(batch(HISTORIES))[1].backward()
    transformer = [*model.blocks.parameters(), *model.input_norm.parameters(), *model.position_embedding.parameters()]
    assert any(p.grad is not None and bool(p.grad.any()) for p in transformer) == trains
    if trains:
        assert all(p.grad.any() for p in transformer)
    assert model.output.weight.grad.any() and model.item_embedding.weight.grad[20].any()


def test_T15_gradient_reaches_the_items_of_the_batch_and_no_padding():
    model = build().train()
    torch.stack(model.calculate_loss(batch([[1, 2], [3]], [20, 21]))).sum().backward()
    touched = model.item_embedding.weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert touched == [1, 2, 3, 20, 21]
    assert not model.output.weight.grad[0].any() and model.output.bias.grad[1:].all()


@causal_or_not
def test_T21_at_the_last_step_the_slot_does_not_tell_the_target(causal):
    model, N = build(causal=causal, timesteps=1000), 1000
    histories, noise = batch(HISTORIES)["item_id_list"], torch.randn(len(HISTORIES), D)

    def logits(target, n):
        h0 = model.item_embedding.weight[torch.full((len(HISTORIES),), target)]
        h_n = model.diffusion.q_sample(h0, torch.full((len(HISTORIES),), n - 1), noise)
        f = model.denoise(histories, h_n.unsqueeze(1), torch.full((len(HISTORIES),), n))
        return (f @ model.output.weight.T + model.output.bias).detach()

    difference = {n: (logits(20, n) - logits(21, n)).abs().max() for n in (1, N)}
    assert 0 < difference[N] < 0.01 * logits(20, N).std()
    assert difference[1] > 0.5 * logits(20, 1).std()  # where it does


# Importance sampling of steps (section 4.5.1)

KNOWN = torch.linspace(0.1, 3, 50)
"""L_n of 50 steps, the same in every row."""


def filled(history: int = 10, floor: float = 0.001) -> StepSampler:
    sampler = StepSampler(len(KNOWN), history, floor)
    sampler.record(torch.arange(1, 51).repeat(history), KNOWN.repeat(history))
    return sampler


def test_T22_weighted_losses_estimate_the_mean_and_the_sum_over_steps():
    torch.manual_seed(0)
    for sampler in (filled(), filled(floor=0.5), StepSampler(50, 10, 0.001)):
        n, weight = sampler.draw(400_000)
        assert n.min() == 1 and n.max() == 50
        weighted = KNOWN[n - 1] * weight
        assert weighted.mean().item() == pytest.approx(KNOWN.mean().item(), rel=0.01)
        assert (50 * weighted).mean().item() == pytest.approx(KNOWN.sum().item(), rel=0.01)
    n, weight = filled(floor=0.0).draw(1000)  # p_n in proportion to L_n: an estimate without variance
    torch.testing.assert_close(KNOWN[n - 1] * weight, KNOWN.mean().expand(1000))


def test_T22_probabilities_are_the_root_of_the_mean_square():
    torch.manual_seed(0)
    sampler, values = StepSampler(5, 3, 0.2), torch.rand(5, 3)
    sampler.record(torch.arange(1, 6).repeat_interleave(3), values.flatten())
    size = values.pow(2).mean(1).sqrt()
    torch.testing.assert_close(sampler.probabilities(), 0.8 * size / size.sum() + 0.2 / 5)


def test_T22_probabilities_sum_to_1_and_stay_above_the_floor():
    for floor in (0.001, 0.3, 1.0):
        p = filled(floor=floor).probabilities()
        assert p.sum().item() == pytest.approx(1, abs=1e-6) and p.min() >= floor / 50
    sampler = StepSampler(4, 1, 0.001)
    sampler.record(torch.tensor([1, 2, 3, 4]), torch.tensor([0.0, 0.0, 0.0, 5.0]))
    assert sampler.probabilities().tolist() == pytest.approx([0.00025] * 3 + [0.99925])
    sampler.record(torch.tensor([4]), torch.tensor([0.0]))  # nothing to go by
    assert sampler.probabilities().tolist() == [0.25] * 4


def test_T22_probabilities_are_even_until_every_step_has_a_full_history():
    sampler, even = StepSampler(3, 2, 0.001), [pytest.approx(1 / 3)] * 3
    assert sampler.probabilities().tolist() == even
    sampler.record(torch.tensor([1, 1, 2, 2, 1, 2, 3]), torch.tensor([1.0, 2, 3, 4, 5, 6, 7]))
    assert sampler.probabilities().tolist() == even
    assert sampler.draw(50)[1].tolist() == [pytest.approx(1)] * 50
    sampler.record(torch.tensor([3]), torch.tensor([7.0]))
    assert sampler.probabilities()[2] > 0.4


def test_T22_the_last_losses_of_each_step_are_kept():
    """Batches of any size, in which a step occurs never, once, or more often than its history is long."""
    torch.manual_seed(0)
    history, timesteps = 4, 3
    sampler, kept = StepSampler(timesteps, history, 0.001), [deque(maxlen=history) for _ in range(timesteps)]
    total = torch.zeros(timesteps, dtype=torch.int64)
    for rows in (1, 2, 3, 1, 20, 5, 1, 40, 7, 2, 2, 13):
        n, values = torch.randint(1, timesteps + 1, (rows,)), torch.rand(rows) + 0.1
        sampler.record(n, values)
        total += n.bincount(minlength=timesteps + 1)[1:]
        for step, value in zip(n.tolist(), values.tolist()):
            kept[step - 1].append(value)
        for row, expected in zip(sampler.losses, kept):  # where each is stored does not matter
            assert sorted(row[row > 0].tolist()) == sorted(expected)
        assert torch.equal(sampler.counts, total)


@pytest.mark.parametrize("occurrences", [1, 3, 4, 9])
def test_T22_the_oldest_losses_are_replaced_in_the_order_they_came(occurrences):
    sampler, kept = StepSampler(2, 4, 0.001), deque([0.0] * 4, maxlen=4)
    for start in range(0, 40, occurrences):
        values = torch.arange(start, start + occurrences) + 1.0
        sampler.record(torch.full((occurrences,), 2), values)
        kept.extend(values.tolist())
        assert sorted(sampler.losses[1].tolist()) == list(kept)
    assert not sampler.losses[0].any() and sampler.counts[0] == 0


def test_T22_recorded_losses_carry_no_gradient():
    sampler = StepSampler(2, 2, 0.001)
    sampler.record(torch.tensor([1, 2]), torch.ones(2, requires_grad=True) * 2)
    assert not sampler.losses.requires_grad and sampler.losses.sum() == 4


def test_T22_checkpoints_hold_the_losses_and_the_noise():
    model, other = build(seed=1), build(seed=2)
    interaction = batch(HISTORIES * 10)
    for _ in range(8):
        model.calculate_loss(interaction)
    scores = model.full_sort_predict(interaction)
    assert not torch.allclose(other.full_sort_predict(interaction), scores)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.full_sort_predict(interaction), scores)
    for buffer in ("losses", "counts"):
        values = getattr(other.steps, buffer)
        assert values.any() and torch.equal(values, getattr(model.steps, buffer))
    more = torch.randint(1, TIMESTEPS + 1, (300,)), torch.rand(300)
    for each in (model, other):
        each.steps.record(*more)
    assert torch.equal(other.steps.probabilities(), model.steps.probabilities())
    assert other.steps.probabilities().std() > 0  # the histories are full


# Inference (algorithms 2 and 3)


def probabilities(model: DiffRec, h0: torch.Tensor) -> torch.Tensor:
    """Eq. 8 over the real items."""
    logits = h0 @ model.output.weight[1:].T + model.output.bias[1:]
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return torch.cat([torch.zeros_like(p[..., :1]), p], dim=-1)


@causal_or_not
def test_T23_algorithm_3_averages_the_probabilities_of_its_seeds(causal):
    model, interaction = build(causal=causal), batch(HISTORIES)
    n = torch.full((len(HISTORIES),), TIMESTEPS)
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
        parts = []
        for noise in model.noise_bank:
            slot = noise.expand(len(HISTORIES), 1, D)
            parts.append(probabilities(model, model.denoise(interaction["item_id_list"], slot, n)[:, 0]))
    assert len(parts) == SEEDS and (parts[0] - parts[1]).abs().max() > 1e-3
    torch.testing.assert_close(scores, sum(parts) / SEEDS)
    torch.testing.assert_close(scores.sum(1), torch.ones(len(HISTORIES)))
    assert (scores[:, 0] == 0).all() and (scores[:, 1:] > 0).all()


def test_T23_one_seed_is_one_pass_at_the_last_step():
    model = build(n_seeds=1)
    scores = model.full_sort_predict(batch(HISTORIES))
    f = torch.stack([slow_denoise(model, history, model.noise_bank[0], TIMESTEPS) for history in HISTORIES])
    torch.testing.assert_close(scores, probabilities(model, f), rtol=1e-4, atol=1e-6)


def test_T23_seeds_have_no_order():
    model, interaction = build(), batch(HISTORIES)
    scores = model.full_sort_predict(interaction)
    model.noise_bank = model.noise_bank[[2, 0, 1]]
    torch.testing.assert_close(model.full_sort_predict(interaction), scores)
    model.noise_bank = -model.noise_bank
    assert not torch.allclose(model.full_sort_predict(interaction), scores)


def test_T23_the_noise_is_standard_normal_and_follows_the_seed():
    banks = [fresh(seed=seed, hidden_size=64, n_seeds=200).noise_bank for seed in (1, 1, 2)]
    assert torch.equal(banks[0], banks[1]) and not torch.equal(banks[0], banks[2])
    for bank in banks:
        assert abs(bank.mean().item()) < 4.5 / math.sqrt(bank.numel())
        assert abs(bank.std().item() - 1) < 4.5 / math.sqrt(2 * bank.numel())
        assert bank.T.cov().fill_diagonal_(0).abs().max() < 4.5 / math.sqrt(len(bank))


@pytest.mark.parametrize("reverse_variance", ["beta", "posterior"])
@pytest.mark.parametrize("timesteps", [2, TIMESTEPS])
def test_T24_algorithm_2_written_out(timesteps, reverse_variance):
    model = build(infer="full", timesteps=timesteps, reverse_variance=reverse_variance)
    histories = batch(HISTORIES)["item_id_list"]

    def written_out():
        level, h = levels(timesteps), model.noise_bank.expand(len(HISTORIES), SEEDS, D)
        generator = torch.Generator().manual_seed(TOY["seed"] + 1)
        for n in range(timesteps, 1, -1):
            f = model.denoise(histories, h, torch.full((len(HISTORIES),), n))
            alpha = level[n] / level[n - 1]
            share = (1 - level[n - 1]) / (1 - level[n])
            h = math.sqrt(level[n - 1]) * (1 - alpha) / (1 - level[n]) * f + math.sqrt(alpha) * share * h
            variance = (1 - alpha) * (1 if reverse_variance == "beta" else share)
            h = h + math.sqrt(variance) * torch.randn(1, SEEDS, D, generator=generator)
        h0 = model.denoise(histories, h, torch.full((len(HISTORIES),), 1))
        return probabilities(model, h0).mean(1)

    expected = no_grad(written_out)
    scores = no_grad(model.full_sort_predict, batch(HISTORIES))
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(build(timesteps=timesteps).full_sort_predict(batch(HISTORIES)), scores, atol=1e-3)


MODES = {
    "fast": {"infer": "fast"},
    "full": {"infer": "full"},
    "fast_per_user": {"infer": "fast", "noise_per_user": True},
    "full_per_user": {"infer": "full", "noise_per_user": True},
    "causal": {"causal": True},
}
modes = pytest.mark.parametrize("mode", MODES)


@modes
def test_T12_evaluation_is_repeatable_and_leaves_the_global_generator_alone(mode):
    model, interaction = build(**MODES[mode]), batch(HISTORIES)
    torch.manual_seed(10)
    before = torch.get_rng_state()
    first = no_grad(model.full_sort_predict, interaction)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(11)
    assert torch.equal(no_grad(model.full_sort_predict, interaction), first)
    assert first.shape == (len(HISTORIES), N_ITEMS) and first.isfinite().all()


@pytest.mark.parametrize("infer", ["fast", "full"])
@causal_or_not
def test_T12_scores_do_not_depend_on_the_other_rows(causal, infer):
    model, histories = build(causal=causal, infer=infer), random_histories(80)
    with torch.no_grad():
        whole = model.full_sort_predict(batch(histories))
        for size in (1, 32):
            rows = [model.full_sort_predict(batch(histories[i : i + size])) for i in range(0, len(histories), size)]
            torch.testing.assert_close(torch.cat(rows), whole)
        order = torch.randperm(len(histories)).tolist()
        torch.testing.assert_close(model.full_sort_predict(batch([histories[i] for i in order])), whole[order])


@pytest.mark.parametrize("infer", ["fast", "full"])
def test_T12_histories_have_noise_of_their_own_if_asked(infer, monkeypatch):
    """At every step: where the denoiser answers 0, nothing but noise is in the slots."""
    for own in (True, False):
        model, seen = build(infer=infer, noise_per_user=own), []
        monkeypatch.setattr(model, "denoise", lambda _, slots, n: seen.append(slots) or torch.zeros_like(slots))  # noqa: B023
        no_grad(model.full_sort_predict, batch([[1, 2, 3], [1, 2, 4], [1, 2, 3]]))
        assert len(seen) == (TIMESTEPS if infer == "full" else 1)
        for first, second, third in seen:
            assert torch.equal(first, third) and torch.equal(first, second) != own


@pytest.mark.parametrize("infer", ["fast", "full"])
def test_T12_noise_of_ones_own_belongs_to_the_history(infer):
    model = build(infer=infer, noise_per_user=True)
    whole = no_grad(model.full_sort_predict, batch(HISTORIES))
    torch.testing.assert_close(no_grad(model.full_sort_predict, batch(HISTORIES[::-1])).flip(0), whole)
    alone = torch.cat([no_grad(model.full_sort_predict, batch([history])) for history in HISTORIES])
    torch.testing.assert_close(alone, whole)


@modes
def test_T12_predict_is_the_column_of_the_item_and_the_target_is_not_read(mode):
    model, interaction = build(**MODES[mode]), batch(HISTORIES, [20, 1, 2, 3, 29, 5, 20])
    scores = no_grad(model.full_sort_predict, interaction)
    expected = scores[torch.arange(len(HISTORIES)), interaction["item_id"]]
    assert torch.equal(no_grad(model.predict, interaction), expected)
    interaction["item_id"] = torch.ones_like(interaction["item_id"])
    assert torch.equal(no_grad(model.full_sort_predict, interaction), scores)


@modes
@pytest.mark.parametrize("chunk", [1, 2 * SEEDS * N_ITEMS, None])  # one row at a time, two, all
def test_scores_are_probabilities_in_parts_of_any_size(mode, chunk, monkeypatch):
    model = build(**MODES[mode])
    whole = no_grad(model.full_sort_predict, batch(HISTORIES))
    if chunk:
        monkeypatch.setattr(diffrec, "CHUNK", chunk)
    scores = no_grad(model.full_sort_predict, batch(HISTORIES))
    torch.testing.assert_close(scores, whole)
    torch.testing.assert_close(scores.sum(1), torch.ones(len(HISTORIES)))
    assert (scores[:, 0] == 0).all() and (scores[:, 1:] > 0).all()


# Mistakes in the config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 3}, r"hidden_size must be even and a multiple of n_heads \(3\), got 16"),
        ({"hidden_size": 15, "n_heads": 3}, r"hidden_size must be even and a multiple of n_heads \(3\), got 15"),
        ({"n_seeds": 0}, "n_seeds must be at least 1, got 0"),
        ({"rec_on": "noised"}, "rec_on must be one of pred, clean, both, got 'noised'"),
        ({"mse_reduction": "max"}, "mse_reduction must be one of mean, sum, got 'max'"),
        ({"step_weight": "none"}, "step_weight must be one of mean, sum, got 'none'"),
        ({"infer": "slow"}, "infer must be one of fast, full, got 'slow'"),
        ({"reverse_variance": "alpha"}, "reverse_variance must be one of beta, posterior, got 'alpha'"),
        ({"is_history": 0}, "is_history must be at least 1 and is_floor from 0 to 1, got 0 and 0.001"),
        ({"is_floor": 1.5}, "is_history must be at least 1 and is_floor from 0 to 1, got 10 and 1.5"),
        ({"is_floor": -0.1}, "is_floor from 0 to 1"),
        ({"noise_schedule": "exp"}, "unknown noise schedule 'exp': choose one of sqrt, cosine, linear"),
        ({"noise_schedule": "linear", "beta_end": 1.0}, "noise rates must lie strictly between 0 and 1"),
        ({"timesteps": 1}, "timesteps must be at least 2, got 1"),
    ],
)
def test_mistakes_in_the_config_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        fresh(**changes)


@pytest.mark.parametrize("detach_noised", [False, True])
@pytest.mark.parametrize("detach_target", [False, True])
def test_T15_detaching_cuts_the_two_paths_to_a_target(detach_target, detach_noised):
    """A target that is in no history gets gradient through the error, the noised input, both, or nothing."""
    model = fresh(detach_target=detach_target, detach_noised=detach_noised, rec_on="pred")
    error, recommendation = model.calculate_loss(batch([[1, 2, 3], [4, 5]], [20, 21]))
    (through_error,) = torch.autograd.grad(error, model.item_embedding.weight, retain_graph=True)
    (through_noise,) = torch.autograd.grad(recommendation, model.item_embedding.weight)
    assert (through_noise[[20, 21]].abs().max() > 0) == (not detach_noised)
    assert (through_error[[20, 21]].abs().max() > 0) == (not (detach_target and detach_noised))
    assert through_error[1].abs().max() > 0 and through_noise[1].abs().max() > 0


def test_tied_weights_score_with_the_item_table():
    model = fresh(tie_weights=True)
    assert model.output.weight is model.item_embedding.weight
    assert "output.weight" not in dict(model.named_parameters())
    assert fresh().output.weight is not fresh().item_embedding.weight


def test_a_loss_that_is_no_number_does_not_spoil_the_draws():
    """The trainer names the bad loss at its next look; until then steps must still be drawn."""
    sampler = StepSampler(4, history=2, floor=0.001)
    for _ in range(2):
        sampler.record(torch.arange(1, 5), torch.tensor([1.0, float("nan"), float("inf"), 3.0]))
    p = sampler.probabilities()
    assert torch.isfinite(p).all() and float(p.sum()) == pytest.approx(1)
    for _ in range(2):
        sampler.record(torch.arange(1, 5), torch.full((4,), float("nan")))
    assert sampler.probabilities().tolist() == [0.25] * 4
