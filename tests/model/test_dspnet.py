"""DSPnet against its equations written out again, on a model of toy size with random weights."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from stubs import Config

from recbole_gen.errors import UserError
from recbole_gen.model.augmentation import augment, mask, reorder
from recbole_gen.model.dspnet import DSPnet, ccr
from recbole_gen.model.layers import distinct
from recbole_gen.model.set_losses import full_bce, labels_of_later, labels_of_sets, sampled_bce

N_ITEMS, N_SCENES, LENGTH = 30, 8, 6
DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "properties/model/DSPnet.yaml").read_text())
TOY = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "SCENE_FIELD": "scene",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "device": "cpu",
    "MAX_ITEM_LIST_LENGTH": LENGTH,
    "hidden_size": 16,
    "scene_size": 8,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
}
ITEMS = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10], [3, 2, 1], [11, 12]]
SCENES = [[1, 2, 1], [4], [], [5, 6, 7, 1, 2, 3], [3, 2, 1], [7, 7]]
LATER_ITEMS = [[20, 21, 20], [22], [23, 1], [24, 25, 26], [20, 20, 20], [29]]
LATER_SCENES = [[1, 1, 1], [7], [2, 3], [4, 5, 6], [1, 2, 1], [3]]
TERMS = ("items", "scenes", "prior", "contrast", "discriminator")

pytestmark = pytest.mark.usefixtures("one_thread")
each_fusion = pytest.mark.parametrize("fusion", ["full", "no_concat", "no_mlp", "one_to_one"])


class Rows(dict):
    """Training rows as RecBole's Interaction gives them: a field by its name, rows by their numbers."""

    def __len__(self):
        return len(self["item_length"])

    def __getitem__(self, key):
        if isinstance(key, str):
            return super().__getitem__(key)
        return Rows({name: values[key] for name, values in self.items()})


class Data:
    def __init__(self, rows, n_items=N_ITEMS, n_scenes=N_SCENES):
        self.inter_feat, self.sizes = rows, {"item_id": n_items, "scene": n_scenes}

    def num(self, field):
        return self.sizes[field]


def padded(lists, width=LENGTH) -> torch.Tensor:
    return torch.tensor([row + [0] * (width - len(row)) for row in lists])


def batch(items=ITEMS, scenes=SCENES, width=LENGTH) -> Rows:
    """Without labels, as in evaluation."""
    length = torch.tensor([max(1, len(row)) for row in items])
    return Rows(item_id_list=padded(items, width), scene_list=padded(scenes, width), item_length=length)


def training_batch(later_items=LATER_ITEMS, later_scenes=LATER_SCENES, **histories) -> Rows:
    rows = batch(**histories)
    rows |= {"future_item_id_list": padded(later_items), "future_scene_list": padded(later_scenes)}
    return Rows(rows, item_id=rows["future_item_id_list"][:, 0])


def fresh(data=None, **changes) -> DSPnet:
    torch.manual_seed(1)
    return DSPnet(Config(DEFAULTS | TOY | changes), data or Data(training_batch()))


def build(data=None, **changes) -> DSPnet:
    """With weights, biases and norms such that each of them matters."""
    model = fresh(data, **changes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif name.startswith("f.") or "embedding" in name:
                parameter.mul_(12)  # standard deviation 0.24
    return model


def terms(model, interaction=None, seed=5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    values = model.calculate_loss(training_batch() if interaction is None else interaction)
    assert model.loss_names == TERMS and all(value.dim() == 0 for value in values)
    return dict(zip(TERMS, values, strict=True))


def gradients(value, parameters):
    return torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)


# The network, section 3.2


def test_T19_the_two_sides_are_each_others_mirror_image():
    model = build(Data(training_batch(), N_SCENES, N_SCENES), hidden_size=8).eval()
    mirrored = {}
    for name, value in model.state_dict().items():
        if name in ("g.S.0.weight", "g.V.0.weight", "r.S.weight", "r.V.weight"):  # they read [h_S, h_V] or [z_S, z_V]
            value = value.roll(8, dims=1)
        for one, other in ((".S.", ".V."), (".V.", ".S."), ("item_emb", "scene_emb"), ("scene_emb", "item_emb")):
            if one in name:
                name = name.replace(one, other)
                break
        mirrored[name] = value
    twin = copy.deepcopy(model)
    twin.load_state_dict(mirrored)
    interaction = batch(items=[[1, 2, 3], [7, 5]], scenes=[[4, 1, 6], [2, 2]])
    swapped = batch(items=[[4, 1, 6], [2, 2]], scenes=[[1, 2, 3], [7, 5]])
    items, scenes = model.full_sort_predict(interaction), model.full_sort_predict_scene(interaction)
    torch.testing.assert_close(twin.full_sort_predict_scene(swapped), items)
    torch.testing.assert_close(twin.full_sort_predict(swapped), scenes)
    assert (items - scenes).abs().max() > 0.1


@each_fusion
def test_T20_each_side_reads_the_other_unless_nothing_is_concatenated(fusion):
    model = build(fusion=fusion).eval()
    other_scene = [[1, 3, 1], *SCENES[1:]]
    items = (model.full_sort_predict(batch(scenes=other_scene)) - model.full_sort_predict(batch())).abs()
    assert (items[0].max() > 1e-3) == (fusion != "no_concat") and items[1:].max() < 1e-5
    scene = model.full_sort_predict_scene
    assert (scene(batch(scenes=other_scene)) - scene(batch()))[0].abs().max() > 1e-3
    other_item = [[1, 9, 3], *ITEMS[1:]]
    scenes = (scene(batch(items=other_item)) - scene(batch())).abs()
    assert (scenes[0].max() > 1e-3) == (fusion != "no_concat") and scenes[1:].max() < 1e-5


@each_fusion
def test_T21_padding_is_never_read(fusion):
    model = build(fusion=fusion)
    clean, garbage = training_batch(), training_batch()
    garbage["item_id_list"] = torch.where(garbage["item_id_list"] == 0, 13, garbage["item_id_list"])
    garbage["scene_list"] = torch.where(garbage["scene_list"] == 0, 5, garbage["scene_list"])
    for field in ("item_id_list", "scene_list"):
        garbage[field][2] = 0  # a row without history
    expected, got = terms(model, clean), terms(model, garbage)
    for name in TERMS:
        torch.testing.assert_close(got[name], expected[name])
    model.eval()
    scores = model.full_sort_predict(clean)
    torch.testing.assert_close(model.full_sort_predict(garbage), scores)
    torch.testing.assert_close(model.full_sort_predict(batch(width=LENGTH + 9)), scores)
    for row in range(len(ITEMS)):  # alone, so that the batch is as long as the row
        alone = batch(ITEMS[row : row + 1], SCENES[row : row + 1])
        torch.testing.assert_close(model.full_sort_predict(alone), scores[row : row + 1])
    assert scores.isfinite().all() and (scores[:, 0] == 0).all()


def test_T21_early_events_have_an_order_and_see_later_ones():
    model = build().eval()
    swapped = model.full_sort_predict(batch(items=[[2, 1, 3], *ITEMS[1:]]))
    assert (swapped - model.full_sort_predict(batch()))[0].abs().max() > 1e-3
    first = []
    model.f["V"].layers.layer[0].register_forward_hook(lambda module, args, out: first.append(out[0, 0].clone()))
    model.full_sort_predict(batch())
    model.full_sort_predict(batch(items=[[1, 2, 9], *ITEMS[1:]]))
    assert (first[0] - first[1]).abs().max() > 1e-3


@each_fusion
def test_network_written_out(fusion):
    """Eq. 2-5 for one user, from the encoders' states on."""
    model = build(fusion=fusion, mlp_layers=3).eval()
    h = {}
    for name, f in model.f.items():
        f.register_forward_hook(lambda module, args, out, name=name: h.update({name: out}))
    scores, scenes = model.full_sort_predict(batch()), model.full_sort_predict_scene(batch())
    c = torch.cat([h["S"], h["V"]], dim=1) if "S" in h else h["SV"]
    z = {}
    for side in "SV":
        z[side] = h[side] if fusion == "no_concat" else c
        if fusion != "no_mlp":
            first, second, third = (module for module in model.g[side] if isinstance(module, torch.nn.Linear))
            z[side] = third(second(first(z[side]).relu()).relu())
    o = {}
    for side in "SV":
        read = z[side] if fusion == "no_concat" else torch.cat([z["S"], z["V"]], dim=1)
        o[side] = read @ model.r[side].weight.T + model.r[side].bias
    torch.testing.assert_close(scores, o["V"] @ model.item_embedding.weight[:N_ITEMS].T)
    torch.testing.assert_close(scenes, o["S"] @ model.scene_embedding.weight[:N_SCENES].T)
    torch.testing.assert_close(model.latent(batch()), z["V"])


# Prediction loss, eq. 6


def dense_bce(o, rows, future, bias) -> torch.Tensor:
    """Eq. 6 with a matrix of labels: a sum over candidates, a mean over rows."""
    labels = torch.zeros(len(o), len(rows) + 1).scatter_(1, future, 1.0)[:, 1:].to(o)
    return F.binary_cross_entropy_with_logits(o @ rows.T + bias, labels, reduction="sum") / len(o)


def problem(K=60, B=5, W=9, dtype=torch.float64):
    """Queries, candidates, labels with repetitions and padding, and a constant."""
    draw = torch.Generator().manual_seed(3)
    o = torch.randn(B, 4, generator=draw, dtype=dtype, requires_grad=True)
    rows = torch.randn(K, 4, generator=draw, dtype=dtype, requires_grad=True)
    future = torch.randint(0, 12, (B, W), generator=draw)
    future[0] = torch.tensor([7, 7, 7] + [0] * (W - 3))
    return o, rows, future, torch.tensor(-1.5, dtype=dtype)


def test_T22_labels_are_sets():
    future = torch.tensor([[3, 1, 3, 0], [0, 0, 0, 0], [2, 2, 2, 2], [9, 8, 7, 6]])
    assert [sorted(row[row > 0].tolist()) for row in distinct(future)] == [[1, 3], [], [2], [6, 7, 8, 9]]
    assert distinct(torch.tensor([[4]])).tolist() == [[4]]


@pytest.mark.parametrize("most", [None, 3, 20])
@pytest.mark.parametrize("part", [12, 5])
def test_labels_of_positions_are_the_sets_of_what_is_ahead(most, part):
    later = torch.tensor([[3, 1, 3, 7, 1, 0], [9, 9, 2, 0, 0, 0], [12, 0, 0, 0, 0, 0]])
    row, step = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2]), torch.tensor([0, 1, 2, 3, 4, 0, 2, 0])
    labels = labels_of_later(later, row, step, most)
    found = torch.cat([labels(start, min(start + part, 12)) for start in range(0, 12, part)], 1)
    for got, r, s in zip(found, row.tolist(), step.tolist()):
        ahead = later[r, s:] if most is None else later[r, s : s + most]
        assert (got.nonzero().flatten() + 1).tolist() == sorted(set(ahead.tolist()) - {0})


@pytest.mark.parametrize("limit", [2**20, 5 * 7, 1])  # in one part, in parts of 7 candidates, and of one
def test_T22_full_loss_is_that_with_dense_labels_in_parts_of_any_size(limit):
    o, rows, future, bias = problem()
    expected, loss = dense_bce(o, rows, future, bias), full_bce(o, rows, labels_of_sets(future), bias, limit)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    for got, wanted in zip(torch.autograd.grad(loss, (o, rows)), torch.autograd.grad(expected, (o, rows))):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-14)


def test_T22_far_logits_are_finite_and_keep_their_gradient():
    o = torch.tensor([[200.0]], requires_grad=True)
    loss = full_bce(o, torch.tensor([[1.0], [-1.0]]), labels_of_sets(torch.tensor([[2]])), torch.tensor(0.0))
    assert loss.item() == pytest.approx(400) and torch.autograd.grad(loss, o)[0].item() == pytest.approx(2)


def test_T23_sampled_loss_estimates_the_full_one_without_bias():
    o, rows, future, bias = problem(W=20)
    positives = distinct(future)
    torch.manual_seed(0)
    exact = full_bce(o, rows, labels_of_sets(positives), bias).item()
    draws = [sampled_bce(o, rows, positives, bias, 32) for _ in range(500)]
    assert sum(draw.item() for draw in draws) / len(draws) == pytest.approx(exact, rel=0.02)
    assert torch.stack(draws).std() > 0
    mean = torch.autograd.grad(torch.stack(draws).mean(), o)[0]
    torch.testing.assert_close(
        mean, torch.autograd.grad(full_bce(o, rows, labels_of_sets(positives), bias), o)[0], rtol=0.1, atol=0.05
    )


def test_T23_positives_are_no_negatives():
    """With one negative left the estimate is exact, whatever else is drawn."""
    o, rows, _, bias = problem(K=6, W=5)
    positives = torch.tensor([[1, 2, 3, 4, 5]] * 5)
    for seed in range(5):
        torch.manual_seed(seed)
        torch.testing.assert_close(
            sampled_bce(o, rows, positives, bias, 64),
            full_bce(o, rows, labels_of_sets(positives), bias),
            rtol=1e-6,
            atol=0,
        )


@pytest.mark.parametrize(
    ("changes", "samples"),
    [
        ({"candidates": "auto"}, False),
        ({"candidates": "auto", "full_limit": N_ITEMS - 1}, False),
        ({"candidates": "auto", "full_limit": N_ITEMS - 2}, True),
        ({"candidates": "full", "full_limit": 1}, False),
        ({"candidates": "sampled"}, True),
    ],
)
def test_candidates_are_sampled_above_the_limit_or_if_asked(changes, samples):
    model = build(beta_k=0.0, alpha_k=0.0, num_sampled=4, **changes)
    values = [terms(model, seed=seed) for seed in range(3)]
    assert (values[0]["items"] != values[1]["items"]) == samples
    assert values[0]["scenes"] == values[1]["scenes"]


@pytest.mark.parametrize("logit_bias", ["prior", "none"])
def test_T22_loss_terms_are_eq_6_times_K(logit_bias):
    model = build(logit_bias=logit_bias, lambda_scene=0.5)
    values = terms(model)
    K_v, K_s = N_ITEMS - 1, N_SCENES - 1
    constant = dict.fromkeys("SV", 0.0)
    if logit_bias == "prior":
        p_s, p_v = (1 + 1 + 2 + 3 + 2 + 1) / 6 / K_s, (2 + 1 + 2 + 3 + 1 + 1) / 6 / K_v
        constant = {"S": math.log(p_s / (1 - p_s)), "V": math.log(p_v / (1 - p_v))}
    model.eval()
    z = model.full_sort_predict(batch())[:, 1:] + constant["V"]
    labels = torch.zeros(len(ITEMS), N_ITEMS).scatter_(1, padded(LATER_ITEMS), 1.0)[:, 1:]
    items = F.binary_cross_entropy_with_logits(z, labels)  # the mean over rows and candidates of eq. 6b
    torch.testing.assert_close(values["items"], K_v * items)
    z = model.full_sort_predict_scene(batch())[:, 1:] + constant["S"]
    labels = torch.zeros(len(ITEMS), N_SCENES).scatter_(1, padded(LATER_SCENES), 1.0)[:, 1:]
    scenes = F.binary_cross_entropy_with_logits(z, labels, reduction="sum") / len(ITEMS)
    torch.testing.assert_close(values["scenes"], 0.5 * scenes)  # K_v / K_v
    own = terms(build(logit_bias=logit_bias, lambda_scene=0.5, scene_norm="own"))
    torch.testing.assert_close(own["scenes"], 0.5 * K_v / K_s * scenes)


def test_the_constant_is_kept_in_checkpoints_and_comes_from_the_training_rows():
    few, many = training_batch(), training_batch(later_items=[list(range(1, 7))] * 6)
    model, other = fresh(Data(few)), fresh(Data(many))
    assert other.bias[1] > model.bias[1] and torch.equal(other.bias[0], model.bias[0])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.bias, model.bias)
    everything = training_batch(later_scenes=[[1, 2]] * 6)
    assert fresh(Data(everything, n_scenes=3)).bias.isfinite().all()


# Augmentation and contrast, section 3.3


def rows_of(length: int, n: int, width: int = 8):
    seq = torch.arange(1, width + 1).repeat(n, 1)
    seq[:, length:] = 0
    return seq, torch.full((n,), length)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_T27_reorder_shuffles_one_window(length):
    torch.manual_seed(0)
    seq, lengths = rows_of(length, 2000)
    out = reorder(seq, lengths)
    assert torch.equal(out.sort(1).values, seq.sort(1).values) and torch.equal(out[:, length:], seq[:, length:])
    moved = out != seq
    places = [row.nonzero().flatten().tolist() for row in moved]
    assert {row[-1] - row[0] + 1 for row in places if row} == set(range(2, length + 1))
    assert {row[0] for row in places if row} == set(range(length - 1))
    for row, where in zip(out.tolist(), places):
        window = slice(where[0], where[-1] + 1) if where else slice(0)
        assert sorted(row[window]) == seq[0, window].tolist()
    if length > 2:  # both ends move only if the window, of one of length - 1 sizes, is the whole row
        chance = (1 - 2 / length + 1 / (length * (length - 1))) / (length - 1)
        assert (moved[:, 0] & moved[:, length - 1]).double().mean().item() == pytest.approx(chance, abs=0.035)
    if length == 2:
        assert moved[:, 0].double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_T27_rows_of_all_lengths_together():
    torch.manual_seed(0)
    lengths = torch.arange(9).repeat(200)
    seq = torch.arange(1, 9).repeat(len(lengths), 1) * (torch.arange(8) < lengths.unsqueeze(1))
    out = reorder(seq, lengths)
    assert torch.equal(out == 0, seq == 0) and torch.equal(out.sort(1).values, seq.sort(1).values)
    masked = mask(seq, lengths, 99, None)
    assert torch.equal(masked == 0, seq == 0) and (((masked == 99).sum(1) < lengths) | (lengths == 0)).all()
    assert (masked[lengths < 2] == seq[lengths < 2]).all()


def test_T28_mask_replaces_a_share_of_beta():
    torch.manual_seed(0)
    seq, lengths = rows_of(20, 4000, width=23)
    out = mask(seq, lengths, 99, None)
    hidden = out == 99
    assert torch.equal(out[~hidden], seq[~hidden]) and not hidden[:, 20:].any()
    count = hidden.sum(1)
    assert count.max() < 20 and count.min() == 0
    assert (count / 20).mean().item() == pytest.approx(0.475, abs=0.03)
    each = hidden[:, :20].double().mean(0)
    assert (each - each.mean()).abs().max() < 0.05  # all places alike


@pytest.mark.parametrize(
    ("length", "ratio", "count"), [(1, 0.2, 0), (2, 0.2, 1), (2, 0.9, 1), (5, 0.2, 1), (8, 0.5, 4), (8, 0.99, 7)]
)
def test_T28_mask_of_a_fixed_share(length, ratio, count):
    seq, lengths = rows_of(length, 50)
    assert ((mask(seq, lengths, 99, ratio) == 99).sum(1) == count).all()


def test_views_are_masked_or_reordered_with_equal_odds():
    torch.manual_seed(0)
    positions = augment(torch.full((4000,), 6), 8, 0.5)  # a masked view hides 3 of 6
    masked = (positions == 8).sum(1)
    assert set(masked.tolist()) == {0, 3} and (masked == 3).double().mean().item() == pytest.approx(0.5, abs=0.04)
    plain = torch.arange(8).expand(4000, -1)
    assert ((positions == plain) | (positions == 8))[masked == 3].all()
    assert torch.equal(positions[masked == 0].sort(1).values, plain[masked == 0])


def test_views_of_one_encoder_keep_pairs_and_those_of_two_do_not():
    histories = {"V": torch.arange(1, 7).repeat(200, 1), "S": torch.arange(1, 7).repeat(200, 1)}
    broken = {}
    for fusion in ("full", "one_to_one"):
        seq = build(fusion=fusion).views(histories, torch.full((200,), 6))
        items, scenes = seq["V"], seq["S"]
        assert len(items) == len(scenes) == 2 * 200
        assert set(items.unique().tolist()) == {*range(1, 7), N_ITEMS}
        assert set(scenes.unique().tolist()) == {*range(1, 7), N_SCENES}
        pairs = (items == scenes) | ((items == N_ITEMS) & (scenes == N_SCENES))
        broken[fusion] = not pairs.all()
    assert broken == {"full": True, "one_to_one": False}


def slow_ccr(h, views, same, tau_pos, tau_neg, cosine, detach) -> torch.Tensor:
    """Eq. 8 row by row."""
    total = h.new_zeros(())

    def s(a, b, tau):
        return (F.cosine_similarity(a, b, dim=0) if cosine else a @ b) / tau

    for i in range(len(h)):
        s_pos = torch.stack([s(h[i], view[i], tau_pos) for view in views])
        w = (-s_pos).exp() / (-s_pos).exp().sum()
        total = total - ((w.detach() if detach else w) * s_pos).sum()
        others = [j for j in range(len(h)) if j != i and not (same is not None and same[i, j])]
        if others:
            s_neg = torch.stack([s(h[i], h[j], tau_neg) for j in others])
            w = s_neg.exp() / s_neg.exp().sum()
            total = total + ((w.detach() if detach else w) * s_neg).sum()
    return total / len(h)


def vectors(B=5, N=3, d=4):
    draw = torch.Generator().manual_seed(4)
    return [torch.randn(*shape, d, generator=draw, dtype=torch.float64).requires_grad_() for shape in ((B,), (N, B))]


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_T24_ccr_written_out(masked, cosine, detach):
    h, views = vectors()
    same = torch.eye(5, dtype=torch.bool)
    same[0, 3] = same[3, 0] = True
    settings = (same if masked else None, 0.9, 0.4, cosine, detach)
    value, expected = ccr(h, views, *settings), slow_ccr(h, views, *settings)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-14)
    for got, wanted in zip(torch.autograd.grad(value, (h, views)), torch.autograd.grad(expected, (h, views))):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_T24_gradient_without_that_of_the_weights_is_that_of_two_log_sum_exps():
    h, views = vectors()
    s_pos, s_neg = (h * views).sum(-1).T, (h @ h.T / 0.5).masked_fill(torch.eye(5, dtype=torch.bool), -torch.inf)
    lse = (torch.logsumexp(-s_pos, 1) + torch.logsumexp(s_neg, 1)).mean()
    value = ccr(h, views, None, 1.0, 0.5, False, True)
    for got, wanted in zip(torch.autograd.grad(value, (h, views)), torch.autograd.grad(lse, (h, views))):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


def test_T24_equal_similarities_weigh_equally():
    h = torch.ones(4, 3, dtype=torch.float64)
    views = torch.ones(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert ccr(h, views, None, 0.5, 0.5, True, True).abs() < 1e-12  # s- - s+
    assert ccr(h, views, None, 1.0, 0.5, False, True).item() == pytest.approx(6 - 3)
    (gradient,) = torch.autograd.grad(ccr(h, views, None, 1.0, 0.5, False, True), views)
    torch.testing.assert_close(gradient, torch.full_like(gradient, -1 / 2 / 4))  # w+ = 1 / N_+, mean over rows


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("detach", [True, False])
def test_T25_ccr_of_long_vectors_and_of_rows_without_negatives(cosine, detach):
    h, views = (1e3 * each.detach().float() for each in vectors())
    h.requires_grad_(), views.requires_grad_()
    positive_part = -slow_positive(h, views, cosine)
    for rows, same in ((slice(5), None), (slice(1), None), (slice(5), torch.ones(5, 5, dtype=torch.bool))):
        value = ccr(h[rows], views[:, rows], same, 1.0, 0.07, cosine, detach)
        assert value.isfinite() and all(each.isfinite().all() for each in torch.autograd.grad(value, (h, views)))
        if rows == slice(1) or same is not None:
            torch.testing.assert_close(value, positive_part[rows].mean())


def slow_positive(h, views, cosine) -> torch.Tensor:
    """sum w+ s+ of each row, tau 1."""
    s = F.cosine_similarity(h, views, dim=-1) if cosine else (h * views).sum(-1)
    return ((-s).softmax(0) * s).sum(0)


def test_T26_the_least_similar_view_and_the_most_similar_negative_move_most():
    h, views = vectors()
    with torch.no_grad():
        views[:, 1:] = 0
    only_first = torch.ones(5, 5, dtype=torch.bool)
    only_first[0] = False
    g_h, g_views = torch.autograd.grad(ccr(h, views, only_first, 1.0, 1.0, False, True), (h, views))
    rise = -(g_views[:, 0] @ h[0])  # of s+ in a step down the gradient
    assert (rise > 0).all() and rise.argmax() == (views[:, 0] @ h[0]).argmin()
    fall = (g_h[1:] @ h[0]).detach()
    assert (fall > 0).all() and fall.argmax() == (h[1:] @ h[0]).argmax()


def test_users_with_the_same_history_are_no_negatives():
    twice = {"items": [[1, 2]] * 3, "scenes": [[1, 2]] * 3}
    later = {"later_items": [[20], [21], [22]], "later_scenes": [[1], [2], [3]]}
    push = {}
    for masked in (True, False):
        model = build(ccr_mask_identical=masked, tau_neg=1e-3)
        push[masked] = terms(model, training_batch(**twice, **later))["contrast"]
    assert push[True] < 10 < push[False]  # s- of equal vectors is 1 / tau^-
    one_differs = training_batch(items=[[1, 2], [1, 2], [2, 1]], scenes=twice["scenes"], **later)
    model = build(tau_neg=1e-3)
    assert terms(model, one_differs)["contrast"] > terms(model, training_batch(**twice, **later))["contrast"] + 10


# Prior and the sum of it all, eq. 4 and 9


def test_T29_discriminators_learn_alike_whatever_alpha_and_only_from_their_own_loss():
    got = []
    for alpha_k in (0.05, 5.0):
        model = build(alpha_k=alpha_k, beta_k=0.0)
        values = terms(model)
        D = list(model.D.parameters())
        got.append(gradients(values["discriminator"], D))
        assert all(
            each is None for name in TERMS[:4] if values[name].requires_grad for each in gradients(values[name], D)
        )
    for one, other in zip(*got):
        assert torch.equal(one, other) and one.abs().max() > 0


def test_alpha_and_beta_of_the_paper_grow_with_the_items():
    """Section 4.1: Outbrain's 2e-7 and 5e-6 with 238,653 items, AllScenePay's 1e-9 and 1e-7 with 7.9 and 33 million."""
    for items, alpha, beta, products in (
        (238_653, 2e-7, 5e-6, (0.048, 1.19)), (7_871_700, 1e-9, 1e-7, (0.008, 0.79)),
        (32_766_762, 1e-9, 1e-7, (0.033, 3.3)),
    ):  # fmt: skip
        assert (items * alpha, items * beta) == pytest.approx(products, rel=0.02)
    as_products = build(alpha_k=0.3, beta_k=0.7)
    K = as_products.K["V"]
    as_printed = build(alpha=0.3 / K, beta=0.7 / K, alpha_k=5.0, beta_k=5.0)
    torch.manual_seed(1)
    expected = terms(as_products)
    torch.manual_seed(1)
    found = terms(as_printed)
    for name in TERMS:
        torch.testing.assert_close(found[name], expected[name])
    assert "discriminator" not in build(alpha=0.0).optimizer_spec()
    with pytest.raises(UserError, match="beta must be at least 0, got -1"):
        build(beta=-1.0)


@pytest.mark.parametrize("apr_generator", ["saturating", "nonsaturating"])
def test_T29_terms_of_eq_4(apr_generator):
    model = build(apr_generator=apr_generator)
    z = {"S": torch.randn(7, 8), "V": torch.randn(7, 16)}
    torch.manual_seed(3)
    generator, discriminator = model.adversarial_prior(z)
    torch.manual_seed(3)
    expected = [0.0, 0.0]
    for side in "SV":
        p_prior, p = model.D[side](torch.randn_like(z[side])).sigmoid(), model.D[side](z[side]).sigmoid()
        expected[0] += (1 - p).log().mean() if apr_generator == "saturating" else -p.log().mean()
        expected[1] += -(p_prior.log() + (1 - p).log()).mean()
    torch.testing.assert_close([generator, discriminator], expected)


def test_T29_normal_vectors_cannot_be_told_from_the_prior():
    model = build()
    optimizer = torch.optim.Adam(model.D.parameters(), 0.003)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = model.adversarial_prior({"S": torch.randn(128, 8), "V": torch.randn(128, 16)})[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-50:]) / 50 == pytest.approx(4 * math.log(2), abs=0.06)


def first_step(scale: str, eps: float, data=None, rows=None, **changes) -> dict[str, torch.Tensor]:
    model = build(data, objective_scale=scale, **changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    terms_ = terms(model, rows)
    sum(terms_.values()).backward()
    torch.optim.Adam(model.optimizer_spec()["main"][0], lr=1.0, eps=eps).step()
    return {name: value - before[name] for name, value in model.state_dict().items()}


def test_T30_the_scale_of_the_objective_does_not_change_where_adam_goes():
    scaled, plain = first_step("K", 1e-30), first_step("none", 1e-30)
    for name in ("item_embedding.weight", "r.V.weight", "g.S.0.weight", "f.V.position_embedding.weight"):
        moved = scaled[name].abs() > 0
        assert (scaled[name] - plain[name])[moved].abs().median() < 1e-4, name
    factor = {name: terms(build())[name] / terms(build(objective_scale="none"))[name] for name in TERMS}
    assert [round(factor[name].item(), 3) for name in TERMS] == [N_ITEMS - 1] * 4 + [1]


def test_T30_it_restores_the_step_where_there_are_a_million_items():
    data = Data(training_batch(), n_items=10**6 + 1)
    small = {"hidden_size": 4, "scene_size": 4, "n_layers": 1, "n_heads": 1, "beta_k": 0.0, "alpha_k": 0.0}
    size = {}
    for scale in ("K", "none"):
        step = first_step(scale, 1e-8, data, **small)["item_embedding.weight"].abs()
        size[scale] = step[[20, 22, 24, 29]].median().item(), step[1:-1].median().item()  # positives, all candidates
    assert size["K"][0] > 0.99 and size["K"][1] > 0.5
    assert size["none"][0] < size["K"][0] - 0.01 and size["none"][1] < 0.01


def test_T31_weights_are_multiples_of_one_over_K():
    data = Data(training_batch(), n_items=238_654)
    model = fresh(data, alpha_k=0.05, beta_k=1.0, hidden_size=4, scene_size=4)
    assert model.alpha == pytest.approx(2.1e-7, rel=0.01) and model.beta == pytest.approx(4.2e-6, rel=0.01)


@pytest.mark.parametrize(("key", "term"), [("lambda_scene", "scenes"), ("alpha_k", "prior"), ("beta_k", "contrast")])
def test_T31_each_weight_scales_its_term_and_zero_leaves_it_out(key, term):
    models = [build(**{key: weight}) for weight in (1.0, 3.0, 0.0)]
    models[2].load_state_dict(models[0].state_dict(), strict=False)  # there are no discriminators without alpha
    one, three, none = map(terms, models)
    torch.testing.assert_close(three[term], 3 * one[term])
    assert one[term] != 0 and none[term] == 0 and not none[term].requires_grad
    for other in TERMS[:2]:
        if other != term:
            torch.testing.assert_close(none[other], one[other])
    if key == "alpha_k":
        assert not list(models[2].D.parameters()) and list(models[2].optimizer_spec()) == ["main"]
        assert one["discriminator"] > 0 and none["discriminator"] == 0


def test_without_contrast_no_random_number_is_drawn_for_views():
    model = build(beta_k=0.0, alpha_k=0.0)
    state = torch.manual_seed(5).get_state()
    model.calculate_loss(training_batch())
    assert torch.equal(torch.get_rng_state(), state)


def test_each_term_trains_what_it_should():
    model = build()
    values = terms(model)
    parts = {
        "items": model.item_embedding, "scenes": model.scene_embedding, "f_V": model.f["V"], "f_S": model.f["S"],
        "g_V": model.g["V"], "g_S": model.g["S"], "r_V": model.r["V"], "r_S": model.r["S"], "D": model.D,
    }  # fmt: skip
    encoders = {"items", "scenes", "f_V", "f_S"}
    expected = {
        "items": encoders | {"g_V", "g_S", "r_V"},
        "scenes": encoders | {"g_V", "g_S", "r_S"},
        "prior": encoders | {"g_V", "g_S"},
        "contrast": encoders,
        "discriminator": {"D"},
    }
    for term, wanted in expected.items():
        reached = {
            name
            for name, part in parts.items()
            if any(each is not None and each.abs().max() > 0 for each in gradients(values[term], part.parameters()))
        }
        assert reached == wanted, term


@pytest.mark.parametrize(
    "weights", [(1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0), (0.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("share_r", [False, True])
@each_fusion
def test_no_ablation_leaves_parameters_that_nothing_trains(fusion, share_r, weights):
    weights = dict(zip(("lambda_scene", "alpha_k", "beta_k"), weights))
    model = build(fusion=fusion, share_r=share_r, hidden_size=8, **weights)
    spec = model.optimizer_spec()
    listed = [id(p) for parameters, _ in spec.values() for p in parameters]
    trainable = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    assert len(listed) == len(set(listed)) and set(listed) == trainable.keys()
    assert list(spec) == ["main", "discriminator"][: 1 + (weights["alpha_k"] > 0)] and spec["main"][1] is None
    if "discriminator" in spec:
        assert spec["discriminator"][1] == DEFAULTS["discriminator_optimizer"]
    sum(terms(model).values()).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None and weights["lambda_scene"] == 0, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name
    scenes = model.eval().full_sort_predict_scene(batch())
    assert scenes.shape == (len(ITEMS), N_SCENES) and scenes.isfinite().all()


def test_padding_stays_zero_and_mask_is_no_candidate():
    model = build()
    sum(terms(model).values()).backward()
    assert not model.item_embedding.weight.grad[0].any() and not model.scene_embedding.weight.grad[0].any()
    without = build(beta_k=0.0, alpha_k=0.0)
    sum(terms(without).values()).backward()
    assert not without.item_embedding.weight.grad[-1].any() and not without.scene_embedding.weight.grad[-1].any()
    assert model.item_embedding.weight.grad[-1].any()
    assert model.item_embedding.weight.shape == (N_ITEMS + 1, 16) and not model.item_embedding.weight[0].any()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@each_fusion
def test_half_precision_is_finite_and_close(fusion, similarity):
    model = build(fusion=fusion, ccr_similarity=similarity, hidden_dropout_prob=0.2)
    expected = terms(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = terms(model)
    sum(got.values()).backward()
    for name in TERMS:
        assert got[name].dtype == torch.float32
        assert got[name].item() == pytest.approx(expected[name].item(), rel=0.1, abs=0.2)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_one_row():
    values = terms(build(), training_batch()[torch.tensor([0])])
    assert all(value.isfinite() for value in values.values())
    assert -2 < values["contrast"] < 2  # no negatives: two cosines, with tau^+ = 1


# Inference


@each_fusion
def test_evaluation_draws_nothing_and_reads_no_label(fusion):
    model, interaction = build(fusion=fusion, hidden_dropout_prob=0.5).eval(), batch()
    assert not any(name.startswith("future") for name in interaction)
    state = torch.manual_seed(10).get_state()
    scores, scenes = model.full_sort_predict(interaction), model.full_sort_predict_scene(interaction)
    assert torch.equal(torch.get_rng_state(), state)
    assert scores.shape == (len(ITEMS), N_ITEMS) and scenes.shape == (len(ITEMS), N_SCENES)
    assert torch.equal(model.full_sort_predict(interaction), scores)
    target = torch.tensor([20, 1, 2, 3, 29, 5])
    picked = model.predict(Rows(interaction, item_id=target))
    assert torch.equal(picked, scores[torch.arange(len(ITEMS)), target])
    alone = Rows(interaction, item_id=target)[torch.tensor([3])]
    torch.testing.assert_close(model.predict(alone), picked[3:4])


def test_the_last_scene_decides_and_is_learned_only_if_the_sides_are_joined():
    draw = torch.Generator().manual_seed(0)
    n, n_scenes, n_items = 256, 6, 19
    items = torch.randint(1, n_items, (n, 3), generator=draw)
    scenes = torch.randint(1, n_scenes, (n, 3), generator=draw)
    later = torch.stack([3 * scenes[:, -1], 3 * scenes[:, -1]], dim=1)
    length = torch.full((n,), 3)
    rows = Rows(item_id_list=items, scene_list=scenes, item_length=length, item_id=later[:, 0])
    rows |= {"future_item_id_list": later, "future_scene_list": scenes[:, :2]}
    hits = {}
    for fusion in ("full", "no_concat"):
        model = fresh(Data(rows, n_items, n_scenes), fusion=fusion, n_layers=1)
        steps = [
            torch.optim.Adam(parameters, (settings or {"learning_rate": 0.01})["learning_rate"])
            for parameters, settings in model.optimizer_spec().values()
        ]
        for _ in range(6):
            for index in torch.randperm(n, generator=draw).split(32):
                for optimizer in steps:
                    optimizer.zero_grad()
                sum(model.calculate_loss(rows[index])).backward()
                for optimizer in steps:
                    optimizer.step()
        with torch.no_grad():
            hits[fusion] = (model.eval().full_sort_predict(rows)[:, 1:].argmax(1) + 1 == later[:, 0]).double().mean()
    assert hits["full"] > 0.9 and hits["no_concat"] < 0.6


# What the rest of the package asks


def test_the_model_needs_scenes_and_labels():
    config = Config(DEFAULTS | TOY)
    assert DSPnet.needs_scenes(config) and DSPnet.needs_future(config)


def test_sides_may_differ_in_size_and_share_r_if_they_do_not():
    model = fresh(hidden_size=12, scene_size=4)
    assert model.latent(batch()).shape == (len(ITEMS), 12)
    shared, apart = fresh(hidden_size=8, share_r=True), fresh(hidden_size=8)
    size = {id(p): p.numel() for p in apart.parameters()}
    assert sum(size.values()) - sum(p.numel() for p in shared.parameters()) == 16 * 8 + 8


def test_mask_ratio_may_be_a_number_or_its_text():
    for ratio in (0.5, "0.5"):
        assert terms(build(mask_ratio=ratio))["contrast"].isfinite()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_neg_sample_args": {"distribution": "uniform"}}, "leave train_neg_sample_args unset, got 'uniform'"),
        ({"n_heads": 3}, "n_heads must divide hidden_size 16 and scene_size 8, got 3"),
        ({"scene_size": 7}, "n_heads must divide hidden_size 16 and scene_size 7, got 2"),
        ({"share_r": True}, "share_r needs hidden_size 16 and scene_size 8 to be equal"),
        ({"mask_ratio": "half"}, "mask_ratio must be beta or a number between 0 and 1, got 'half'"),
        ({"mask_ratio": "1.0"}, "mask_ratio must be beta or a number between 0 and 1, got '1.0'"),
        ({"mask_ratio": "0"}, "mask_ratio must be beta or a number between 0 and 1, got '0'"),
        ({"tau_neg": 0.0}, "tau_pos and tau_neg must be positive, got 1.0 and 0.0"),
        ({"n_heads": 0}, "n_heads must be at least 1, got 0"),
        ({"mlp_layers": 0}, "mlp_layers must be at least 1, got 0"),
        ({"n_views": 0}, "n_views must be at least 1, got 0"),
        ({"num_sampled": 0}, "num_sampled must be at least 1, got 0"),
        ({"lambda_scene": -1.0}, "lambda_scene must be at least 0, got -1.0"),
        ({"alpha_k": -1.0}, "alpha_k must be at least 0, got -1.0"),
        ({"fusion": "sum"}, "fusion must be one of full, no_concat, no_mlp, one_to_one, got 'sum'"),
        ({"scene_norm": "none"}, "scene_norm must be one of item, own"),
        ({"objective_scale": "k"}, "objective_scale must be one of K, none"),
        ({"logit_bias": "mean"}, "logit_bias must be one of prior, none"),
        ({"candidates": "batch"}, "candidates must be one of auto, full, sampled"),
        ({"ccr_similarity": "l2"}, "ccr_similarity must be one of cosine, dot"),
        ({"apr_generator": "hinge"}, "apr_generator must be one of saturating, nonsaturating"),
        ({"hidden_act": "elu"}, "hidden_act must be one of gelu, relu, swish, tanh, sigmoid"),
    ],
)
def test_T35_mistakes_in_the_config_are_named(changes, message):
    with pytest.raises(UserError, match=message):
        fresh(**changes)


@pytest.mark.parametrize("distribution", [None, {}, {"distribution": "none"}])
def test_T35_no_negative_sampling_is_fine(distribution):
    fresh(train_neg_sample_args=distribution)


def test_T32_one_scene_is_no_scene():
    with pytest.raises(UserError, match="fewer than two scenes in 'scene': set SCENE_FIELD"):
        fresh(Data(training_batch(), n_scenes=2))


# Every position of a window at once


def windows_batch(items, scenes, width=LENGTH) -> tuple[Rows, Rows]:
    """The same users as windows, whose histories are all but the last event, and as rows."""
    order = sorted(range(len(items)), key=lambda user: -len(items[user]))
    lists = {"item_id": [items[user] for user in order], "scene": [scenes[user] for user in order]}
    length = torch.tensor([len(row) - 1 for row in lists["item_id"]])
    windows, rows = Rows(item_length=length), Rows()
    pairs = [(user, t) for user, row in enumerate(lists["item_id"]) for t in range(1, len(row))]
    for field, values in lists.items():
        ahead = padded([row[1:] for row in values], int(length.max()))
        windows |= {f"{field}_list": padded([row[:-1] for row in values], int(length.max()))}
        windows |= {f"next_{field}_list": ahead, f"future_{field}_list": ahead}
        rows |= {f"{field}_list": padded([values[user][:t] for user, t in pairs])}
        rows |= {f"future_{field}_list": padded([values[user][t:] for user, t in pairs])}
    rows |= {"item_length": torch.tensor([t for _, t in pairs])}
    return Rows(windows), Rows(rows)


WHOLE = (
    ([1, 2, 3, 2, 9], [5, 6, 7, 8, 9, 10], [4, 9], [12, 3, 12]),
    ([1, 2, 1, 3, 3], [5, 6, 7, 1, 2, 3], [4, 1], [2, 7, 2]),
)


@pytest.mark.parametrize(
    "changes", [{"causal": True}, {"n_layers": 1}, {"causal": True, "n_layers": 3, "future_events": 2}]
)
@each_fusion
def test_loss_and_gradient_of_positions_are_those_of_rows(fusion, changes):
    model = build(fusion=fusion, beta_k=0.0, **changes).double()
    windows, rows = windows_batch(*WHOLE)
    if "future_events" in changes:
        rows |= {name: rows[name][:, : changes["future_events"]] for name in rows if name.startswith("future")}
    found = {}
    for name, calculate in (("rows", model.calculate_loss), ("positions", model.calculate_positions_loss)):
        torch.manual_seed(2)
        values = calculate(rows if name == "rows" else windows)
        # Draws from the prior are in the order of the rows, which is that of the positions.
        found[name] = values, gradients(sum(values), list(model.parameters()))
    torch.testing.assert_close(found["positions"][0], found["rows"][0], atol=1e-9, rtol=1e-9)
    for got, wanted in zip(found["positions"][1], found["rows"][1]):
        torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-9)


@each_fusion
def test_no_position_sees_what_comes_later(fusion):
    model = build(fusion=fusion, causal=True).eval()
    windows, _ = windows_batch(*WHOLE)

    def states():
        length = windows["item_length"]
        return model._states(windows["item_id_list"], windows["scene_list"], length, every=True)

    before = states()
    windows["item_id_list"][:, 2:] = windows["item_id_list"][:, 2:] % 19 + 1
    windows["scene_list"][:, 2:] = windows["scene_list"][:, 2:] % 5 + 1
    after = states()
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert (after[:, 2] - before[:, 2]).abs().max() > 1e-2


def test_the_contrast_of_windows_is_that_of_their_whole_histories():
    model = build(causal=True, alpha_k=0.0)
    windows, _ = windows_batch(*WHOLE)
    last = Rows({name: values for name, values in windows.items() if not name.startswith("next")})
    torch.manual_seed(3)
    positions = model.calculate_positions_loss(windows)
    torch.manual_seed(3)
    torch.testing.assert_close(positions[3], model.calculate_loss(last)[3])


def test_positions_need_all_candidates():
    windows, _ = windows_batch(*WHOLE)
    with pytest.raises(UserError, match="candidates=full"):
        build(causal=True, full_limit=1).calculate_positions_loss(windows)
