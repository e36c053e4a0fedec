"""Several optimisers as one: state, shared parameters, scaling, clipping, turns, and exact resume of both models."""

import copy
import importlib
import math
import random
import sys
from pathlib import Path

import pytest
import torch
from stubs import equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_gen import checkpoint, cli, quick_start
from recbole_gen.errors import UserError
from recbole_gen.model.acvae import ACVAE
from recbole_gen.training.optimizers import CompositeOptimizer, with_fused_step
from recbole_gen.training.trainer import NonFiniteLoss

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "ACVAE": {"embedding_size": 16, "rnn_size": 16, "latent_size": 8, "MAX_ITEM_LIST_LENGTH": 12},
    "DSPnet": {"hidden_size": 16, "scene_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 12, "train_pairs": "last"},
}
OPTIMISERS = {"ACVAE": {"main", "contrast", "adversary"}, "DSPnet": {"main", "discriminator"}}
both_models = pytest.mark.parametrize("model", TINY)


@pytest.fixture
def scened(settings, write_atomic):
    """Data set `toy` with scenes: 60 users, 40 items, 11 steps each. The scene goes round, the item follows it."""
    draw = random.Random(0)
    columns: dict[str, list] = {"user_id:token": [], "item_id:token": [], "timestamp:float": [], "scene:token": []}
    for user in range(60):
        scene = draw.randrange(4)
        for step in range(11):
            row = (f"u{user}", f"i{10 * scene + draw.randrange(10)}", 100 * user + step, f"s{scene}")
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            scene = (scene + 1) % 4 if draw.random() < 0.8 else draw.randrange(4)
    write_atomic(columns)


@pytest.fixture
def train(run, scened):
    """train(model, **values) is a small run of ACVAE or DSPnet: 60 rows, 3 steps an epoch."""

    def train(model: str = "ACVAE", **values) -> dict:
        common = {"train_batch_size": 20, "eval_step": 1, "epochs": 1, "diagnostics": False, "save_ranks": False}
        return run(model, **{"tensorboard": False, **common, **TINY.get(model, {}), **values})

    return train


def saved(result, name="last.pth"):
    return checkpoint.load(f"{result['run_dir']}/{name}")


# The optimiser by itself

LEARNERS = {
    "main": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "contrast": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9, weight_decay=0.1),
    "adversary": lambda parameters: torch.optim.RMSprop(parameters, lr=0.005),
}


def players(seed: int = 0, learners=LEARNERS) -> tuple[torch.nn.ModuleDict, CompositeOptimizer]:
    """Three layers with an optimiser each; that of `contrast` steps the layer of `main` too."""
    torch.manual_seed(seed)
    layers = torch.nn.ModuleDict({name: torch.nn.Linear(4, 3) for name in ("main", "contrast", "adversary")})
    owned = {name: list(layers[name].parameters()) for name in layers}
    owned["contrast"] += owned["main"]
    return layers, CompositeOptimizer({name: with_fused_step(make(owned[name])) for name, make in learners.items()})


def loss_of(layers, step: int) -> torch.Tensor:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(step))
    outputs = [layer(x) for layer in layers.values()]
    return sum((output.pow(2) * (index + 1)).mean() for index, output in enumerate(outputs)) + outputs[0].sin().sum()


def descend(layers, optimizer, steps) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(layers, step).backward()
        optimizer.step()


def test_T13_three_steps_and_three_after_loading_equal_six(tmp_path):
    whole, whole_optimizer = players()
    descend(whole, whole_optimizer, range(6))
    layers, optimizer = players()
    descend(layers, optimizer, range(3))
    checkpoint.save(tmp_path / "x.pth", {"layers": layers.state_dict(), "optimizer": optimizer.state_dict()})

    stored = checkpoint.load(tmp_path / "x.pth")
    layers, optimizer = players(seed=1)
    assert not equal(layers.state_dict(), stored["layers"])
    layers.load_state_dict(stored["layers"])
    optimizer.load_state_dict(stored["optimizer"])
    assert equal(optimizer.state_dict(), stored["optimizer"])
    descend(layers, optimizer, range(3, 6))
    assert equal(layers.state_dict(), whole.state_dict())
    assert equal(optimizer.state_dict(), whole_optimizer.state_dict())
    assert optimizer.state_dict().keys() == LEARNERS.keys()
    assert all(state["state"] for state in optimizer.state_dict().values()), "an optimiser without state shows nothing"


def test_T13_without_the_state_the_steps_are_others():
    whole, whole_optimizer = players()
    descend(whole, whole_optimizer, range(6))
    layers, optimizer = players()
    descend(layers, optimizer, range(3))
    forgetful = players()[0]
    forgetful.load_state_dict(layers.state_dict())
    owned = {name: list(forgetful[name].parameters()) for name in forgetful}
    owned["contrast"] += owned["main"]
    descend(forgetful, CompositeOptimizer({name: make(owned[name]) for name, make in LEARNERS.items()}), range(3, 6))
    for name in LEARNERS:
        assert not torch.equal(forgetful[name].weight, whole[name].weight), name


def changed(name: str):
    """A state with something about it that does not fit."""
    layers, optimizer = players()
    descend(layers, optimizer, range(2))
    states = optimizer.state_dict()
    if name == "missing":
        del states["adversary"]
    elif name == "one too many":
        states["other"] = states["main"]
    elif name == "another name":
        states["discriminator"] = states.pop("adversary")
    elif name == "another learner":
        other = players(learners={**LEARNERS, "adversary": torch.optim.Adagrad})[1]
        states["adversary"] = other.state_dict()["adversary"]
    elif name == "fewer parameters":
        (group,) = states["contrast"]["param_groups"]
        states["contrast"] = states["contrast"] | {"param_groups": [{**group, "params": [0]}]}
    elif name == "one optimiser":
        return torch.optim.AdamW(layers.parameters()).state_dict()
    elif name == "none":
        return {}
    return states


@pytest.mark.parametrize(
    "what, named",
    [
        (
            "missing",
            r"holds the optimisers main \(AdamW .*, contrast .*, and the model has .* adversary \(RMSprop ",
        ),
        ("one too many", r"other \(AdamW of \d+ tensors\), and the model has"),
        (
            "another name",
            r"discriminator \(RMSprop of \d+ tensors\), and the model has main .*adversary \(RMSprop of \d+ tensors\)",
        ),
        (
            "another learner",
            r"adversary \(Adagrad of \d+ tensors\), and the model has .*adversary \(RMSprop of \d+ tensors\)",
        ),
        (
            "one optimiser",
            r"and the model has main \(AdamW of .*, contrast \(SGD of .*, adversary \(RMSprop of ",
        ),
        ("none", "holds the optimisers none, and the model has"),
        pytest.param(
            "fewer parameters",
            "contrast",
        ),
    ],
)
def test_T13_a_state_that_does_not_fit_is_refused_as_a_whole(what, named):
    layers, optimizer = players()
    descend(layers, optimizer, range(1))
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UserError, match=named):
        optimizer.load_state_dict(changed(what))
    assert equal(optimizer.state_dict(), before)


def test_T14_a_parameter_of_two_optimisers_is_mentioned_once():
    layers, optimizer = players()
    mentioned = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(mentioned) == len(set(mentioned)) and set(mentioned) == {id(p) for p in layers.parameters()}
    assert [len(own) for own in optimizer.disjoint_parameters()] == [2, 2, 2]
    stepped = {name: len(member.param_groups[0]["params"]) for name, member in optimizer.optimizers.items()}
    assert stepped == {"main": 2, "contrast": 4, "adversary": 2}


def scaled(layers, optimizer, scaler, steps, clip=None, spoil=None) -> None:
    for step in steps:
        optimizer.zero_grad()
        scaler.scale(loss_of(layers, step)).backward()
        if spoil is not None:
            spoil.grad.view(-1)[0] = torch.inf
        if clip:
            scaler.unscale_(optimizer)
            for parameters in optimizer.disjoint_parameters():
                torch.nn.utils.clip_grad_norm_(parameters, clip)
        scaler.step(optimizer)
        scaler.update()


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("active", [None, {"main", "contrast"}, {"adversary"}])
def test_T14_a_scaled_step_equals_the_plain_one(active, clip):
    ends = []
    for scale in (1.0, 2.0**10):
        layers, optimizer = players()
        optimizer.active = active
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1)
        scaled(layers, optimizer, scaler, range(4), clip)
        assert scaler.get_scale() == scale
        ends.append((layers.state_dict(), optimizer.state_dict()))
    if clip is None:
        layers, optimizer = players()
        optimizer.active = active
        descend(layers, optimizer, range(4))
        assert equal(ends[0], (layers.state_dict(), optimizer.state_dict()))
    assert equal(ends[0], ends[1])  # the scale is a power of two


@pytest.mark.parametrize("spoiled", LEARNERS)
def test_T14_an_infinite_gradient_skips_all_optimisers(spoiled):
    layers, optimizer = players()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled(layers, optimizer, scaler, range(2))
    steps = optimizer.state_dict()["main"]["state"][0]["step"].item()
    before = {name: value.clone() for name, value in layers.state_dict().items()}
    scaled(layers, optimizer, scaler, [2], spoil=layers[spoiled].weight)
    assert equal(layers.state_dict(), before)
    assert optimizer.state_dict()["main"]["state"][0]["step"].item() == steps == 2
    assert scaler.get_scale() == 512.0
    scaled(layers, optimizer, scaler, [3])
    assert not any(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_only_active_optimisers_step_and_all_gradients_are_cleared():
    layers, optimizer = players()
    for active, moved in (
        ({"main"}, {"main"}),
        ({"contrast"}, {"main", "contrast"}),  # the shared layer
        ({"adversary"}, {"adversary"}),
        (set(), set()),
        (None, set(LEARNERS)),
    ):
        before = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        optimizer.active = active
        descend(layers, optimizer, [0])
        assert {name for name, layer in layers.items() if not torch.equal(layer.weight, before[name])} == moved, active
        optimizer.active = {"main"}
        assert all(parameter.grad is not None for parameter in layers.parameters())
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in layers.parameters())
    descend(layers, optimizer, [1])
    optimizer.zero_grad(set_to_none=False)
    assert all(not parameter.grad.any() for parameter in layers.parameters())


def test_a_shared_parameter_is_stepped_by_each_in_their_order():
    layers, optimizer = players(
        learners={
            "main": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
            "contrast": lambda parameters: torch.optim.SGD(parameters, lr=0.25, weight_decay=1.0),
        }
    )
    start = layers["main"].weight.detach().clone()
    loss_of(layers, 0).backward()
    gradient = layers["main"].weight.grad.clone()
    optimizer.step()
    first = start - 0.5 * gradient
    torch.testing.assert_close(layers["main"].weight.detach(), first - 0.25 * (gradient + first))


# A model of the user's own

RIVALS = """
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType


class Rivals(SequentialRecommender):
    input_type = InputType.POINTWISE
    loss_names = ("ranking", "pressure")
    left_out = ()

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.item_embedding = torch.nn.Embedding(self.n_items, config["width"])
        self.rival = torch.nn.Linear(config["width"], 1)
        self.pressure, self.settings = config["pressure"], config["rival_optimizer"]

    def optimizer_spec(self):
        rival = [parameter for name, parameter in self.rival.named_parameters() if name not in self.left_out]
        main = [self.item_embedding.weight]
        return {"main": (main, None), "rival": (rival, self.settings)}

    def active_optimizers(self, step):
        return None

    def last(self, interaction):
        last = interaction[self.ITEM_SEQ].gather(1, interaction[self.ITEM_SEQ_LEN].unsqueeze(1) - 1)
        return self.item_embedding(last.squeeze(1))

    def full_sort_predict(self, interaction):
        return self.last(interaction) @ self.item_embedding.weight.T

    def calculate_loss(self, interaction):
        scores = self.full_sort_predict(interaction)
        ranking = torch.nn.functional.cross_entropy(scores, interaction[self.POS_ITEM_ID])
        return ranking, self.pressure * self.rival(self.last(interaction).detach()).mean()
"""


@pytest.fixture
def rivals(tmp_path, monkeypatch):
    """Module with a model of the user's own that has two optimisers, `rivals:Rivals`, and its YAML beside it."""
    folder = tmp_path / "rival_models"
    folder.mkdir()
    (folder / "rivals.py").write_text(RIVALS)
    (folder / "Rivals.yaml").write_text(
        "width: 8\npressure: 1.0\nlearner: sgd\nlearning_rate: 1.0\n"
        "rival_optimizer: {learner: sgd, learning_rate: 1.0, weight_decay: 0.0}\n"
    )
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("rivals")
    del sys.modules["rivals"]


ONE_STEP = {"train_batch_size": 4096, "epochs": 1, "tensorboard": False}


def test_each_optimiser_is_clipped_by_its_own_norm(run, rivals):
    start = saved(run("rivals:Rivals", **ONE_STEP | {"epochs": 0}), "best.pth")["state_dict"]

    def step(**values) -> dict[str, torch.Tensor]:
        end = saved(run("rivals:Rivals", **ONE_STEP, **values))["state_dict"]
        return {name: end[name] - start[name] for name in start}

    def length(moves, *names) -> float:
        return math.sqrt(sum(float(moves[name].square().sum()) for name in names))

    rival = ("rival.weight", "rival.bias")
    free = step(pressure=1e3)
    of_main, of_rival = length(free, "item_embedding.weight"), length(free, *rival)
    assert of_main > 0.02 and of_rival > 1000
    for pressure in (1e3, 1e6):  # too much for the rival, and not for the other
        moves = step(pressure=pressure, clip_grad_norm={"max_norm": 2 * of_main})
        assert torch.equal(moves["item_embedding.weight"], free["item_embedding.weight"]), pressure
        assert length(moves, *rival) == pytest.approx(2 * of_main, rel=1e-3)
    moves = step(pressure=1e6, clip_grad_norm={"max_norm": 0.01})
    assert length(moves, "item_embedding.weight") == pytest.approx(0.01, rel=1e-3)
    assert length(moves, *rival) == pytest.approx(0.01, rel=1e-3)


def test_a_shared_parameter_is_clipped_once_and_with_its_first_optimiser(run, rivals, monkeypatch):
    start = saved(run("rivals:Rivals", **ONE_STEP | {"epochs": 0}), "best.pth")["state_dict"]
    spec = rivals.Rivals.optimizer_spec

    def shared(self):
        given = spec(self)
        return {**given, "rival": (given["rival"][0] + given["main"][0], given["rival"][1])}

    monkeypatch.setattr(rivals.Rivals, "optimizer_spec", shared)
    end = saved(run("rivals:Rivals", **ONE_STEP, pressure=1e6, clip_grad_norm={"max_norm": 0.01}))["state_dict"]
    moved = float((end["item_embedding.weight"] - start["item_embedding.weight"]).norm())
    assert moved == pytest.approx(2 * 0.01, rel=1e-3)  # two optimisers with a rate of 1 take the same clipped step


@pytest.mark.parametrize(
    "left_out, named", [(("bias",), "rival.bias"), (("weight", "bias"), "rival.weight, rival.bias")]
)
def test_a_parameter_that_no_optimiser_has_is_the_programmers_mistake(run, rivals, left_out, named):
    rivals.Rivals.left_out = left_out
    with pytest.raises(ValueError, match=rf"optimizer_spec\(\) of Rivals leaves out {named}$") as caught:
        run("rivals:Rivals", epochs=1)
    assert not isinstance(caught.value, UserError)


def test_a_parameter_that_is_not_trained_needs_no_optimiser(run, rivals):
    rivals.Rivals.left_out = ("bias",)
    build = rivals.Rivals.__init__

    def frozen(self, *args):
        build(self, *args)
        self.rival.bias.requires_grad_(False)

    rivals.Rivals.__init__ = frozen
    assert run("rivals:Rivals", epochs=1)["epochs"] == 1


# Settings

SETTINGS = {
    "sgd": "must be a mapping such as {learner: sgd, learning_rate: .*}, got 'sgd'",
    "[sgd, 0.1]": "must be a mapping such as",
    "{}": "must be a mapping such as",
    "{learner: sgdd, learning_rate: 0.1, weight_decay: 0.0}": "must be one of adam, .*, rmsprop, got 'sgdd'",
    "{learner: 5, learning_rate: 0.1, weight_decay: 0.0}": "must be one of adam, .*got 5",
    "{learner: sgd, learning_rate: 0.1}": "must be a mapping such as .*weight_decay",
    "{learner: sgd, weight_decay: 0.1}": "must be a mapping such as .*learning_rate",
    "{learning_rate: 0.1, weight_decay: 0.0}": "must be a mapping such as .*learner",
    "{learner: sgd, learning_rate: 0.1, weight_decay: 0.0, momentum: 0.9}": "has no 'momentum'",
    "{learner: sgd, lr: 0.1, weight_decay: 0.0}": "has no 'lr'",
    "{learner: sgd, learning_rate: -0.1, weight_decay: 0.0}": "must be .*number, got -0.1",
    "{learner: sgd, learning_rate: .nan, weight_decay: 0.0}": "must be .*number, got nan",
    "{learner: sgd, learning_rate: .inf, weight_decay: 0.0}": "must be .*number, got inf",
    "{learner: sgd, learning_rate: fast, weight_decay: 0.0}": "must be .*number, got 'fast'",
    "{learner: sgd, learning_rate: 0.1, weight_decay: -1}": "must be .*number, got -1",
    "{learner: sgd, learning_rate: 0.1, weight_decay: .nan}": "must be .*number, got nan",
}


@pytest.fixture
def line(arguments, scened):
    """line(model, *given) is the command line of a small run."""

    def line(model: str, *given: str) -> list[str]:
        own = [f"--{key}={value}" for key, value in TINY[model].items()]
        return arguments(*own, *given, model=model)

    return line


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay"])
def test_a_switch_is_no_number(key, line, refused):
    settings = {"learner": "sgd", "learning_rate": 0.1, "weight_decay": 0.1} | {key: True}
    refused(line("ACVAE", f"--contrast_optimizer={settings}"), f"{key} must be a number, got True")


@pytest.mark.parametrize("given", SETTINGS)
def test_settings_that_make_no_optimiser_are_refused(given, line, refused, tmp_path):
    refused(line("ACVAE", f"--contrast_optimizer={given}"), "contrast", SETTINGS[given])
    assert not list(tmp_path.glob("saved/*/*.pth"))


@pytest.mark.parametrize(
    "model, key",
    [("ACVAE", "contrast_optimizer"), ("ACVAE", "adversary_optimizer"), ("DSPnet", "discriminator_optimizer")],
)
def test_the_key_of_bad_settings_is_named(model, key, line, refused):
    refused(line(model, f"--{key}=sgd"), key)


@pytest.mark.parametrize("model, weights", [("ACVAE", ("kl_weight", "contrast_weight")), ("DSPnet", ("alpha_k",))])
def test_an_adversary_that_does_not_exist_has_no_optimiser(train, model, weights):
    result = train(model, **dict.fromkeys(weights, 0))
    assert saved(result)["optimizer"].keys() == {"main"}
    again = quick_start.run(argv=[f"--resume={result['run_dir']}", "--epochs=2"])
    assert again["epochs"] == 2


# Resume

WAYS = {
    "same_batch": ("ACVAE", {"adv_schedule": "same_batch"}),
    "alternate": ("ACVAE", {"adv_schedule": "alternate"}),
    "extra": ("ACVAE", {"adv_schedule": "alternate", "encoder_extra_sgd": True, "eval_noise": "sample"}),
    "DSPnet": ("DSPnet", {}),
}
RICH = {  # learners with a state of their own, so that a lost one shows
    key: {"learner": learner, "learning_rate": 0.01, "weight_decay": 0.1}
    for key, learner in (("contrast_optimizer", "rmsprop"), ("adversary_optimizer", "adam"))
}


@pytest.mark.parametrize("way", WAYS)
def test_resumed_run_equals_uninterrupted_run(train, way):
    model, values = WAYS[way]
    if model == "ACVAE":
        values = values | RICH
    whole = train(model, epochs=6, **values)
    part = train(model, epochs=3, **values)
    middle = saved(part)
    assert middle["steps"] == 9, "an even number ends no epoch between the turns"
    resumed = quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=6"])

    for key in ("test_result", "best_valid_result", "best_valid_score", "best_epoch", "train_loss"):
        assert resumed[key] == whole[key], key
    assert len(resumed["train_loss"]) == 6
    for name in ("last.pth", "best.pth"):
        a, b = saved(resumed, name), saved(whole, name)
        for key in a.keys() - {"config", "train_seconds", "train_cpu_seconds"}:
            assert equal(a[key], b[key]), (name, key)
    last = saved(resumed)
    assert last["steps"] == 18 and last["optimizer"].keys() == OPTIMISERS[model]
    assert all(state["state"] for state in last["optimizer"].values()), "an optimiser without state shows nothing"
    for key in ("state_dict", "optimizer", "random_states"):
        assert not equal(middle[key], last[key]), key


def test_a_resumed_run_that_forgets_whose_turn_it_is_ends_elsewhere(train):
    part = train(epochs=3, adv_schedule="alternate")
    last = Path(part["run_dir"]) / "last.pth"
    content = checkpoint.load(last)
    assert content["steps"] == 9

    def go_on(steps: int) -> dict:
        checkpoint.save(last, content | {"steps": steps})
        return saved(quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=4"]))

    right, forgetful, other = go_on(9), go_on(0), go_on(11)
    assert equal(right["state_dict"], other["state_dict"])  # odd as well: the same turns
    assert not equal(right["state_dict"]["adversary.input.weight"], forgetful["state_dict"]["adversary.input.weight"])
    assert not equal(right["state_dict"]["item_embedding.weight"], forgetful["state_dict"]["item_embedding.weight"])
    assert right["steps"] == 12


def test_turns_go_on_from_one_epoch_to_the_next(train):
    """With 3 steps an epoch, the first has turns main, adversary, main and the second adversary, main, adversary."""
    first, second = (saved(train(epochs=epochs, adv_schedule="alternate"))["optimizer"] for epochs in (1, 2))
    assert [int(state["main"]["state"][0]["step"]) for state in (first, second)] == [2, 3]


def test_turns_leave_the_others_as_they_are(train):
    values = {"train_batch_size": 4096, "adv_schedule": "alternate", "tensorboard": False}
    start = saved(train(epochs=0, **values), "best.pth")["state_dict"]
    main = saved(train(epochs=1, **values))["state_dict"]
    both = saved(train(epochs=2, **values))["state_dict"]

    def moved(before, after) -> set[str]:
        return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}

    assert moved(main, both) == {"adversary"}
    assert moved(start, main) == {name.partition(".")[0] for name in start} - {"adversary"}


def rates(result) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each optimiser."""
    groups = {name: state["param_groups"][0] for name, state in saved(result)["optimizer"].items()}
    return {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}


def test_rates_given_with_resume_are_those_of_their_optimiser(train):
    part = train()
    resume = f"--resume={part['run_dir']}"
    assert rates(part) == {"main": (0.001, 0.01), "contrast": (0.0003, 0.1), "adversary": (0.0005, 0.1)}
    resumed = quick_start.run(argv=[resume, "--epochs=2", "--learning_rate=0.25"])
    assert rates(resumed) == {"main": (0.25, 0.01), "contrast": (0.0003, 0.1), "adversary": (0.0005, 0.1)}
    given = "--adversary_optimizer={learner: sgd, learning_rate: 0.1, weight_decay: 0.0}"
    resumed = quick_start.run(argv=[resume, "--epochs=3", given])
    assert rates(resumed) == {"main": (0.25, 0.01), "contrast": (0.0003, 0.1), "adversary": (0.1, 0.0)}
    assert resumed["epochs"] == 3


@pytest.mark.parametrize(
    "given, named",
    [
        (
            "--adversary_optimizer={learner: adam, learning_rate: 0.1, weight_decay: 0.0}",
            r"adversary \(SGD of \d+ tensors\).*adversary \(Ada",
        ),
        (
            "--contrast_optimizer={learner: adamw, learning_rate: 0.1, weight_decay: 0.0}",
            r"contrast \(SGD of \d+ tensors\).*\(AdamW of \d+ tensors\)",
        ),
        ("--learner=sgd", "holds the state of learner adamw"),
        ("--kl_weight=0", "do not fit the model"),
        pytest.param(
            "--encoder_extra_sgd=True",  # the critic's optimiser then has more parameters than the stored state
            r"last\.pth|optimiser",
        ),
    ],
)
def test_resume_refuses_other_optimisers(train, given, named, refused, capsys):
    part = train(state="ERROR")
    before = (Path(part["run_dir"]) / "last.pth").read_bytes()
    capsys.readouterr()
    refused([f"--resume={part['run_dir']}", "--epochs=2", given], named)
    assert (Path(part["run_dir"]) / "last.pth").read_bytes() == before


OWN = {"learner": "adamw", "learning_rate": 0.03, "weight_decay": 0.0}


@pytest.mark.parametrize(("begun", "given"), [(OWN, "~"), (None, OWN)])
def test_resume_goes_not_on_with_several_optimisers_for_one(train, begun, given, refused, capsys):
    part = train("PreferDiff", state="ERROR", hidden_size=8, history_vectors="own", history_optimizer=begun)
    before = (Path(part["run_dir"]) / "last.pth").read_bytes()
    capsys.readouterr()
    line = [f"--resume={part['run_dir']}", "--epochs=2", f"--history_optimizer={given}"]
    refused(line, "go on with the settings that it has in its config.yaml")
    assert (Path(part["run_dir"]) / "last.pth").read_bytes() == before


# A run

TERMS = {"ACVAE": ACVAE.loss_names, "DSPnet": ("items", "scenes", "prior", "contrast", "discriminator")}


def test_the_term_that_is_no_number_is_named(train, line, monkeypatch, capsys, tmp_path):
    healthy = ACVAE.divergence
    calls = []

    def divergence(self, *args):
        calls.append(0)
        return healthy(self, *args) * (math.nan if len(calls) == 5 else 1.0)

    monkeypatch.setattr(ACVAE, "divergence", divergence)
    assert cli.main(line("ACVAE", "--epochs=3", "--train_batch_size=20")) == 2
    message = capsys.readouterr().err
    (folder,) = (tmp_path / "saved").iterdir()
    assert "training loss 'kl' is nan in epoch 2, step 2;" in message and "'nll'" not in message
    assert f"the epoch starts from {folder}/last.pth, which is kept" in message and "Traceback" not in message
    assert checkpoint.load(folder / "last.pth")["next_epoch"] == 1
    assert not (folder / "result.json").exists()
    resumed = quick_start.run(argv=[f"--resume={folder}"])
    assert resumed["epochs"] == 3 and all(map(math.isfinite, resumed["train_loss"]))


@pytest.mark.parametrize(
    "model, values, term",
    [
        ("ACVAE", {"learner": "sgd", "learning_rate": 1e30}, "nll"),
        ("ACVAE", {"adversary_optimizer": {"learner": "sgd", "learning_rate": 1e30, "weight_decay": 0.0}}, "adversary"),
        ("DSPnet", {"learner": "sgd", "learning_rate": 1e30}, "items"),
        (
            "DSPnet",
            {"discriminator_optimizer": {"learner": "sgd", "learning_rate": 1e38, "weight_decay": 0.0}},
            "discriminator",
        ),
    ],
)
def test_a_rate_that_is_far_too_large_ends_with_the_name_of_the_term(train, model, values, term):
    with pytest.raises(NonFiniteLoss, match=rf"'{term}' is (nan|inf|-inf).* in epoch \d, step \d+;"):
        train(model, epochs=4, **values)


@both_models
def test_tensorboard_shows_each_term(train, model):
    result = train(model, tensorboard=True, epochs=2)
    events = EventAccumulator(result["run_dir"])
    events.Reload()
    shown = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    terms = [shown.pop(f"train/{name}") for name in TERMS[model]]
    assert len(shown.pop("train/learning_rate")) == 2
    assert not [tag for tag in shown if tag.startswith("train/")]
    assert [sum(values) for values in zip(*terms, strict=True)] == pytest.approx(result["train_loss"], rel=1e-5)
    assert len(terms[0]) == 2 and all(value != 0 for values in terms for value in values)


@both_models
def test_mixed_precision_trains(train, model):
    half, single = train(model, enable_amp=True, tensorboard=True), train(model)
    events = EventAccumulator(half["run_dir"])
    events.Reload()
    assert all(math.isfinite(events.Scalars(f"train/{name}")[0].value) for name in TERMS[model])
    assert half["train_loss"] != single["train_loss"]  # it was in half precision
    assert half["train_loss"] == pytest.approx(single["train_loss"], rel=0.05)
    assert all(value.isfinite().all() for value in saved(half)["state_dict"].values())


@both_models
def test_T35_negative_sampling_is_refused(line, refused, model):
    refused(line(model, "--train_neg_sample_args={distribution: uniform, sample_num: 1}"), "train_neg_sample_args")
