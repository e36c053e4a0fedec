"""`train_pairs: positions`: the same loss as that of rows, and nothing of what comes later."""

import re

import pytest
import torch
from recbole.utils import init_seed

from recbole_gen import quick_start
from recbole_gen.config.config import Config
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.model import positions
from recbole_gen.model.positions import BY_CROSS_ENTROPY, CAUSAL, NEXT
from recbole_gen.quick_start import create_model
from recbole_gen.training.losses import training_loss

SMALL_RECBOLE = {
    "SASRec": {"hidden_size": 16, "inner_size": 16, "hidden_dropout_prob": 0, "attn_dropout_prob": 0},
    "GRU4Rec": {"hidden_size": 16, "embedding_size": 16, "dropout_prob": 0},
    "SASRecF": {"hidden_size": 16, "inner_size": 16, "hidden_dropout_prob": 0, "attn_dropout_prob": 0},
    "GRU4RecF": {"hidden_size": 16, "embedding_size": 16, "dropout_prob": 0},
    "FDSA": {"hidden_size": 16, "inner_size": 16, "hidden_dropout_prob": 0, "attn_dropout_prob": 0},
    "NARM": {"hidden_size": 16, "embedding_size": 16, "dropout_probs": [0, 0]},
    "STAMP": {"embedding_size": 16},
    "LightSANs": {"hidden_size": 16, "inner_size": 16, "hidden_dropout_prob": 0, "attn_dropout_prob": 0},
    "SRGNN": {"embedding_size": 16},
}
SMALL_OURS = {
    "DreamRec": {"dropout_prob": 0, "uncond_prob": 0},
    "PASRec": {"dropout_prob": 0, "uncond_prob": 0},
    "PreferDiff": {"dropout_prob": 0, "uncond_prob": 0, "detach_target": False, "detach_noised": False},
    "DiffRec": {
        "dropout_prob": 0, "causal": True, "positions_from": "start", "importance_sampling": False, "rec_on": "both",
        "detach_target": False, "n_layers": 3, "embedding_std": 1,
    },
    "TIGER": {
        "dropout_prob": 0, "causal": True, "positions_from": "start", "id_codes": 4, "n_encoder_layers": 2,
        "n_decoder_layers": 2,
    },
}  # fmt: skip
"""Ours whose loss depends on the history of a target alone."""
WITH_FEATURES = ("SASRecF", "GRU4RecF", "FDSA")


@pytest.fixture
def built(settings, write_atomic, tmp_path):
    """built(model, **values) -> configuration, training loader and model on `walks`, whose histories all fit.

    Its steps are six hours apart, and users have 3 to 11 of them.
    """
    path = tmp_path / "toy/toy.inter"
    head, *lines = path.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    kept = [(u, i, float(t)) for u, i, t in rows if float(t) % 100 < 3 + int(u[1:]) % 9]
    path.write_text("\n".join([head, *(f"{u}\t{i}\t{t * 21600}" for u, i, t in kept)]) + "\n")
    write_atomic({"item_id:token": [f"i{n}" for n in range(40)], "kind:token": [n % 3 for n in range(40)]}, "item")

    def build(name: str, **values):
        small = {"protocol": "leave_one_out", "MAX_ITEM_LIST_LENGTH": 12, "train_batch_size": 10**6}
        features = {"load_col": None, "selected_features": ["kind"]} if name in WITH_FEATURES else {}
        given = settings(name, **(small | features | (SMALL_RECBOLE | SMALL_OURS).get(name, {}) | values))
        config = Config(config_dict=given)
        init_seed(3, True)
        train = create_loaders(config, create_dataset(config))[0]
        init_seed(4, True)
        model = create_model(config, train._dataset)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1 and name in SMALL_OURS:
                    parameter.add_(0.3 * torch.randn_like(parameter))  # biases and norms that matter
        return config, train, model

    return build


def draw_nothing(model):
    """Have a diffusion model know one step, without noise."""
    if hasattr(model, "diffusion"):
        model.diffusion.timesteps = 1
        model.diffusion.alphas_cumprod.fill_(1)


def order_of_rows(rows, windows):
    """[P] for each target of a batch of windows, window by window, its row in a batch of rows."""
    window, step = (windows[NEXT + "item_id_list"] != 0).nonzero().unbind(1)
    wanted = 1000 * windows["user_id"][window] + step + 1
    found = 1000 * rows["user_id"] + rows["item_length"]
    match = wanted.unsqueeze(1) == found
    assert (match.sum(1) == 1).all()
    return match.int().argmax(1)


def loss_and_gradients(config, model, batch):
    model.train()
    model.zero_grad()
    losses = training_loss(config, model)(batch)
    losses = losses if isinstance(losses, tuple) else (losses,)
    sum(losses).backward()
    return [each.item() for each in losses], {name: p.grad for name, p in model.named_parameters()}


def only_batch(train):
    (batch,) = train
    return batch


@pytest.mark.parametrize("name", [*(name for name in CAUSAL if name in SMALL_RECBOLE), *SMALL_OURS])
def test_loss_and_gradient_are_those_of_all_rows(built, name):
    rows = built(name, train_pairs="all")
    windows = built(name, train_pairs="positions", positions_batch_size=10**6)
    batch, other = only_batch(rows[1]), only_batch(windows[1])
    draw_nothing(rows[2]), draw_nothing(windows[2])
    assert len(other) == 60 and int((other[NEXT + "item_id_list"] != 0).sum()) == len(batch) > 60
    wanted, wanted_gradients = loss_and_gradients(rows[0], rows[2], batch)
    found, gradients = loss_and_gradients(windows[0], windows[2], other)
    assert found == pytest.approx(wanted, abs=1e-6)
    for key, gradient in wanted_gradients.items():
        torch.testing.assert_close(gradients[key], gradient, atol=1e-6, rtol=1e-5)


def test_the_last_item_is_in_the_slots_of_windows_too(built):
    losses = []
    for last_item in (True, False):
        rows, windows = (
            built("DiffRec", train_pairs=mode, positions_batch_size=10**6, last_item_in_slot=last_item, slot_scale=0.5)
            for mode in ("all", "positions")
        )
        draw_nothing(rows[2]), draw_nothing(windows[2])
        wanted, _ = loss_and_gradients(rows[0], rows[2], only_batch(rows[1]))
        found, _ = loss_and_gradients(windows[0], windows[2], only_batch(windows[1]))
        assert found == pytest.approx(wanted, abs=1e-6)
        losses.append(found)
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


DSPNET = {
    "SCENE_FIELD": "kind", "hidden_size": 16, "scene_size": 8, "causal": True, "beta_k": 0.0, "alpha_k": 0.0,
    "hidden_dropout_prob": 0, "attn_dropout_prob": 0,
}  # fmt: skip


@pytest.mark.parametrize("future_events", [None, 3])
def test_sets_of_all_rows_are_those_of_positions(built, future_events):
    values = DSPNET | {"future_events": future_events, "load_col": None}
    rows = built("DSPnet", train_pairs="all", **values)
    windows = built("DSPnet", train_pairs="positions", positions_batch_size=10**6, **values)
    batch, other = only_batch(rows[1]), only_batch(windows[1])
    assert int((other[NEXT + "item_id_list"] != 0).sum()) == len(batch) > len(other)
    windows[2].load_state_dict(rows[2].state_dict())
    wanted, wanted_gradients = loss_and_gradients(rows[0], rows[2], batch)
    found, gradients = loss_and_gradients(windows[0], windows[2], other)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6) and wanted[0] > 0 < wanted[1]
    for key, gradient in wanted_gradients.items():
        torch.testing.assert_close(gradients[key], gradient, atol=1e-6, rtol=2e-5)


def test_a_window_is_to_predict_what_comes_behind_it_too(built):
    _, train, _ = built("DSPnet", train_pairs="positions", MAX_ITEM_LIST_LENGTH=2, load_col=None, **DSPNET)
    log = train._dataset.inter_feat
    users, items = log.targets["user_id"], log.targets["item_id"]
    seen = 0
    for batch in train:
        assert (batch["future_item_id_list"][:, : batch["item_id_list"].shape[1]] >= batch[NEXT + "item_id_list"]).all()
        for user, window, future in zip(batch["user_id"], batch["item_id_list"], batch["future_item_id_list"]):
            events = items[(users == user)].tolist()
            events = events[: -2 if len(events) > 3 else -1]  # without those of validation and test
            ahead = [item for item in future.tolist() if item]
            window = [item for item in window.tolist() if item]
            assert events[-len(ahead) :] == ahead and events[-len(ahead) - 1] == window[0]
            seen += len(ahead) > len(window)
    assert seen


@pytest.mark.parametrize("name", [name for name in BY_CROSS_ENTROPY if name in SMALL_RECBOLE])
def test_the_loss_of_rows_is_that_of_recbole(built, name):
    config, train, model = built(name, train_pairs="all")
    batch = only_batch(train)
    model.train()
    assert training_loss(config, model)(batch).item() == pytest.approx(model.calculate_loss(batch).item(), abs=1e-5)


@pytest.mark.parametrize("name", [name for name in CAUSAL if name in SMALL_RECBOLE])
def test_a_later_event_changes_no_earlier_state(built, name):
    _, train, model = built(name, train_pairs="positions", positions_batch_size=10**6)
    batch = only_batch(train)
    model.eval()

    items, length = batch["item_id_list"], batch["item_length"]
    changed = items.clone()
    changed[:, 5:] = torch.where(items[:, 5:] == 0, 0, items[:, 5:] % 39 + 1)
    before, after = (positions.recbole_states(model, each, length) for each in (items, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-4


def conditions(name, model, batch, at_positions: bool):
    """What the loss of DreamRec, PASRec and PreferDiff knows of a history, [P, ...]."""
    if name == "DreamRec":
        return model.guidance_at_positions(batch)[0] if at_positions else model.guidance(batch)
    g, tau_hat, *_ = model.represent_at_positions(batch) if at_positions else model.represent(batch)
    return g if tau_hat is None else torch.cat([model.enrich(g, tau_hat), tau_hat], dim=-1)


@pytest.mark.parametrize("name", ["DreamRec", "PASRec", "PreferDiff"])
def test_every_target_has_the_guidance_of_its_row_and_of_the_same_draws_the_same_loss(built, name):
    _, train, model = built(name, train_pairs="all")
    rows = only_batch(train)
    windows = only_batch(built(name, train_pairs="positions", positions_batch_size=10**6)[1])
    order, d = order_of_rows(rows, windows), model.null_guidance.numel()
    wanted, found = conditions(name, model, rows, False)[order], conditions(name, model, windows, True)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)

    number = len(order)
    shape = (number, d) if name == "DreamRec" else (2, number, d)
    x0, noise, dropped = torch.randn(shape), torch.randn(shape), torch.rand(number, 1) < 0.3
    t = torch.randint(model.diffusion.timesteps, (number,))
    losses = [model.loss_of_draws(x0, h[:, :d], dropped, t, noise) for h in (wanted, found)]
    torch.testing.assert_close(*losses, atol=1e-6, rtol=1e-6)


def test_diffrec_predicts_at_every_target_what_it_predicts_for_its_row(built):
    _, train, model = built("DiffRec", train_pairs="all")
    rows = only_batch(train)
    windows = only_batch(built("DiffRec", train_pairs="positions", positions_batch_size=10**6)[1])
    order = order_of_rows(rows, windows)
    n = torch.randint(1, 21, (len(windows),))  # of 20
    window = (windows[NEXT + "item_id_list"] != 0).nonzero()[:, 0]
    slots = torch.randn(len(order), 16)
    wanted = model.denoise(rows["item_id_list"][order], slots.unsqueeze(1), n[window]).squeeze(1)
    found = model.denoise_at_positions(windows, slots, n)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    other = model.denoise_at_positions(windows, slots, n % 20 + 1)
    assert (other - found).abs().max() > 1e-3


def test_diffrec_records_one_loss_for_each_step_that_it_draws(built):
    _, train, model = built("DiffRec", train_pairs="positions", positions_batch_size=10**6, importance_sampling=True)
    batch = only_batch(train)
    model.calculate_positions_loss(batch)
    assert int(model.steps.counts.sum()) == len(batch) == 60


@pytest.mark.parametrize("name", [*SMALL_OURS, "ACVAE"])
def test_a_later_event_changes_nothing_of_ours_before_it(built, name):
    _, train, model = built(name, train_pairs="positions", positions_batch_size=10**6)
    batch = only_batch(train)
    model.eval()
    window, step = (batch[NEXT + "item_id_list"] != 0).nonzero().unbind(1)
    slots, n = torch.randn(len(step), 16), torch.randint(1, 21, (len(batch),))

    def states(slots):
        if name == "ACVAE":
            return model.infer(batch["item_id_list"])[1][window, step]
        if name == "DiffRec":
            return model.denoise_at_positions(batch, slots, n)
        if name == "TIGER":
            memory, _ = model.read_history(batch["item_id_list"], batch["item_length"])
            return memory[window, (step + 1) * model.tree.depth]  # of an event's last digit
        return conditions(name, model, batch, True)

    before = states(slots)
    items = batch["item_id_list"].clone()
    items[:, 5:] = torch.where(items[:, 5:] == 0, 0, items[:, 5:] % 39 + 1)
    batch.interaction["item_id_list"] = items
    if "toi_list" in batch:
        batch["toi_list"][:, 5:] += 0.3
    after = states(torch.where((step >= 5).unsqueeze(1), torch.randn_like(slots), slots))
    torch.testing.assert_close(before[step < 5], after[step < 5])
    assert (before[step == 5] - after[step == 5]).abs().max() > 1e-4


def test_acvae_learns_from_windows_what_it_learns_from_rows_with_every_step(built):
    name = "ACVAE"
    windows = built(name, train_pairs="positions", positions_batch_size=10**6)
    rows = built(name, train_pairs="window", window_step=None)
    batch, other = only_batch(windows[1]), only_batch(rows[1])
    rank = {int(user): place for place, user in enumerate(batch["user_id"])}
    other = other[torch.tensor([rank[int(user)] for user in other["user_id"]]).argsort()]
    width = batch["item_id_list"].shape[1]  # the same shapes, and so the same draws
    assert not other["item_id_list"][:, width:].any()
    other.interaction["item_id_list"] = other["item_id_list"][:, :width]
    results = []
    for (config, _, model), each in ((windows, batch), (rows, other)):
        torch.manual_seed(7)
        results.append(loss_and_gradients(config, model, each))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-6) and min(results[0][0]) != 0
    for key, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1][key], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["SASRec", "GRU4Rec", "DiffRec", "ACVAE"])
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gBCE"])
@pytest.mark.parametrize("pairs", ["all", "positions"])
def test_every_loss_trains_in_both_modes(run, name, loss, pairs):
    values = {"causal": True, "positions_from": "start"} if name == "DiffRec" else {}
    result = run(
        name, loss=loss, loss_negatives=20, train_pairs=pairs, positions_batch_size=8, epochs=6, learning_rate=0.02,
        **values,
    )  # fmt: skip
    assert result["train_loss"][-1] < 0.9 * result["train_loss"][0]


@pytest.mark.parametrize("name", ["SASRec", "PreferDiff", "DiffRec", "ACVAE", "TIGER"])
def test_a_resumed_run_is_the_run_that_never_stopped(run, tmp_path, name):
    values = {"train_pairs": "positions", "positions_batch_size": 8, "MAX_ITEM_LIST_LENGTH": 3}
    if name in ("DiffRec", "TIGER"):
        values |= {"causal": True, "positions_from": "start"}
    whole = run(name, epochs=4, **values)
    half = run(name, epochs=2, **values)
    rest = quick_start.run(argv=[f"--resume={half['run_dir']}", "--epochs=4"])
    assert rest["train_loss"] == whole["train_loss"] and rest["test_result"] == whole["test_result"]


@pytest.mark.parametrize(
    "model, values, patterns",
    [
        ("BERT4Rec", (), ["BERT4Rec", "masked items", "train_pairs=all"]),
        ("Caser", (), ["Caser", "convolutions"]),
        ("DiffRec", (), ["DiffRec", "--causal=True"]),
        ("DiffRec", ("--causal=True",), ["DiffRec", "--positions_from=start"]),
        ("TIGER", (), ["TIGER", "both directions", "--causal=True"]),
        ("TIGER", ("--causal=True",), ["TIGER", "--positions_from=start"]),
        ("SASRec", ("--loss_type=BPR",), ["loss_type: CE"]),
        ("SASRec", ("--empty_history=True",), ["empty_history"]),
        ("SASRec", ("--transform=mask_itemseq",), ["transform"]),
        ("DSPnet", ("--SCENE_FIELD=kind", "--n_layers=2"), ["DSPnet", "causal", "n_layers"]),
        ("DSPnet", ("--SCENE_FIELD=kind", "--causal=True", "--candidates=sampled"), ["DSPnet", "candidates"]),
    ],
)
def test_what_cannot_be_trained_so_says_why(arguments, refused, write_atomic, model, values, patterns):
    write_atomic({"item_id:token": [f"i{n}" for n in range(40)], "kind:token": [n % 3 for n in range(40)]}, "item")
    refused([*arguments(*values, model=model), "--train_pairs=positions"], "train_pairs: positions", *patterns)


def test_models_without_histories_train_as_ever_and_say_so(run, caplog):
    for model in ("Pop", "BPR"):
        given = {"epochs": 1, "topk": [5], "valid_metric": "NDCG@5"}
        plain = run(model, **given)
        assert "has no effect" not in caplog.text
        result = run(model, **given, train_pairs="positions", positions_batch_size=8)
        assert result["train_loss"] == plain["train_loss"] and result["test_result"] == plain["test_result"]
        for told in (
            f"train_pairs .* has no effect: {model} learns from no histories",
            "positions_batch_size .* no eff",
        ):
            assert re.search(told, caplog.text)
        caplog.clear()


@pytest.mark.parametrize(
    ("key", "value", "others", "read_with"),
    [
        ("positions_batch_size", 8, {}, "train_pairs: positions"),
        ("train_batch_size", 8, {"train_pairs": "positions"}, "positions_batch_size"),
        ("window_step", 3, {"train_pairs": "last"}, "train_pairs: window"),
        ("loss_negatives", 8, {}, "loss: sampled_softmax and loss: gBCE"),
        ("gbce_t", 0.5, {"loss": "sampled_softmax"}, "loss: gBCE"),
    ],
)
def test_keys_that_nothing_reads_beside_the_others_are_told(settings, key, value, others, read_with, walks):
    given = {**settings("SASRec"), "train_batch_size": None, **others}
    del given["train_batch_size"]
    data = create_dataset(Config(config_dict={**given, key: value}))
    assert [note for note in data.notes if re.search(f"^{key} .* has no effect: .*{read_with}", note)]
    assert not create_dataset(Config(config_dict=given)).notes
    read = {
        "train_pairs": {"window_step": "window", "positions_batch_size": "positions"}.get(key, "all"),
        "loss": "gBCE",
    }
    assert not create_dataset(Config(config_dict={**given, **read, key: value})).notes


def test_a_loss_that_a_model_does_not_have_is_refused(arguments, refused):
    refused([*arguments(model="BERT4Rec"), "--loss=gBCE"], "loss: gBCE", "BERT4Rec", "SASRec")
    refused([*arguments(model="SASRec"), "--loss=gBCE", "--loss_type=BPR"], "loss: gBCE", "loss_type: CE")
    refused([*arguments(model="SASRec"), "--loss=bce"], "loss", "softmax")


def test_a_class_of_ones_own_offers_positions_by_a_method(custom, arguments, refused, run):
    line = [*arguments(model="custom:Custom"), "--train_pairs=positions"]
    refused(line, "calculate_positions_loss", "CONTRIBUTING")

    def calculate_positions_loss(self, interaction):
        following = interaction[NEXT + self.ITEM_SEQ]
        states = self.dropout(self.item_embedding(interaction[self.ITEM_SEQ]))[following != 0]
        logits = states @ self.item_embedding.weight.T
        return torch.nn.functional.cross_entropy(logits, following[following != 0]), logits.new_zeros(())

    custom.Custom.calculate_positions_loss = calculate_positions_loss
    result = run("custom:Custom", train_pairs="positions", positions_batch_size=8, epochs=8)
    assert result["train_loss"][-1] < result["train_loss"][0]
