"""Fused optimisers: the steps of the plain ones, where torch has kernels for them, and each other's checkpoints."""

import copy
import importlib
import sys
from pathlib import Path

import pytest
import torch
from stubs import equal
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recbole_gen import checkpoint, quick_start
from recbole_gen.training.optimizers import CompositeOptimizer, _has_kernel, with_fused_step

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def saved(result) -> dict:
    return checkpoint.load(f"{result['run_dir']}/last.pth")


def is_fused(optimizer) -> bool:
    return all(bool(group.get("fused")) for group in optimizer.param_groups)


def two_optimisers(kind, fuse=True) -> tuple[torch.nn.ModuleDict, list[torch.optim.Optimizer]]:
    """Layers `a` and `idle`, the second without gradients, with an optimiser; and another one for `a` and `b`.

    ``fuse`` False gives the plain optimisers, as where no kernel fits.
    """
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict({name: torch.nn.Linear(37, 5) for name in ("a", "b", "idle")})
    own = [[*layers["a"].parameters(), *layers["idle"].parameters()], [*layers["a"].parameters(), layers["b"].weight]]
    optimizers = [kind(each, lr=0.05, weight_decay=0.1) for each in own]
    return layers, [with_fused_step(each, () if fuse else layers.parameters()) for each in optimizers]


def descend(layers, optimizer, steps, scaler=None, spoiled=()) -> None:
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(5, 37, generator=torch.Generator().manual_seed(step))
        scaler.scale((layers["a"](x) * layers["b"](x)).sin().sum()).backward()
        if step in spoiled:
            layers["a"].weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()


@every_kind
def test_the_steps_are_those_of_the_plain_optimiser(kind):
    ends = []
    for fuse in (True, False):
        layers, optimizers = two_optimisers(kind, fuse)
        assert [is_fused(each) for each in optimizers] == [fuse, fuse]
        idle = layers["idle"].weight.clone()
        descend(layers, CompositeOptimizer(dict(zip("xy", optimizers, strict=True))), range(6))
        assert torch.equal(layers["idle"].weight, idle)
        ends.append(layers.state_dict())
    torch.testing.assert_close(ends[0], ends[1])


@every_kind
def test_scaled_steps_are_those_without_a_scale_and_an_infinite_gradient_makes_none(kind):
    ends = []
    for scale in (1.0, 2.0**10):
        layers, (optimizer, _) = two_optimisers(kind)
        descend(layers, optimizer, range(4), torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale > 1))
        ends.append((layers["a"].state_dict(), optimizer.state_dict()))
    assert equal(*ends)  # the scale is a power of two

    layers, (optimizer, _) = two_optimisers(kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    descend(layers, optimizer, range(2), scaler)
    before = copy.deepcopy((layers.state_dict(), optimizer.state_dict()))
    descend(layers, optimizer, [2], scaler, spoiled=[2])
    assert equal(before, (layers.state_dict(), optimizer.state_dict())) and scaler.get_scale() == 512.0


PARAMETERS = {
    "strided": lambda: torch.nn.Parameter(torch.randn(4, 12)[:, ::2]),
    "half": lambda: torch.nn.Parameter(torch.randn(4, 6).half()),
    "sparse": lambda: torch.nn.Embedding(4, 6, sparse=True).weight,
}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adagrad])
def test_parameters_that_the_kernels_cannot_step_are_stepped_as_before(kind, name):
    ends = []
    for fuse in (True, False):
        torch.manual_seed(0)
        odd, plain = PARAMETERS[name](), torch.nn.Parameter(torch.randn(3))
        optimizer = kind([odd, plain], lr=0.1)
        if fuse:
            optimizer = with_fused_step(optimizer, [odd] if name == "sparse" else [])
            assert not is_fused(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            if name == "sparse":
                torch.nn.functional.embedding(torch.tensor([1, 2, 1]), odd, sparse=True).exp().sum().backward()
            else:
                odd.exp().sum().backward()
            optimizer.step()
        ends.append(odd.detach())
    assert torch.equal(*ends)


def test_no_hook_hears_of_steps_that_are_none():
    _has_kernel.cache_clear()  # as in a new process
    seen = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer))
    try:
        for kind in KINDS.values():
            assert is_fused(with_fused_step(kind([torch.nn.Parameter(torch.zeros(3))], lr=0.1)))
        assert not seen
    finally:
        handle.remove()


def test_kinds_without_a_kernel_stay_as_they_are():
    parameter = torch.nn.Parameter(torch.zeros(3))
    for kind in (torch.optim.RMSprop, torch.optim.SparseAdam):
        optimizer = kind([parameter])
        assert with_fused_step(optimizer) is optimizer


@every_kind
@pytest.mark.parametrize("numbers", [False, True], ids=["step is a tensor", "step is a number"])
@pytest.mark.parametrize("fused_first", [False, True])
def test_each_goes_on_with_the_state_of_the_other(kind, fused_first, numbers):
    whole, (optimizer, _) = two_optimisers(kind, fuse=False)
    descend(whole, optimizer, range(6))

    layers, (first, _) = two_optimisers(kind, fuse=fused_first)
    descend(layers, first, range(3))
    state = copy.deepcopy(first.state_dict())
    for group in state["param_groups"]:
        assert bool(group["fused"]) is fused_first
    for each in state["state"].values():
        if numbers and "step" in each:
            each["step"] = each["step"].item()
    others, (second, _) = two_optimisers(kind, fuse=not fused_first)
    others.load_state_dict(layers.state_dict())
    second.load_state_dict(state)
    assert is_fused(second) is not fused_first
    descend(others, second, range(3, 6))
    torch.testing.assert_close(others.state_dict(), whole.state_dict())


# Runs


@pytest.mark.parametrize("learner", [*KINDS, "rmsprop"])
def test_a_run_of_before_goes_on_with_fused_steps(run, learner):
    whole = run("SASRec", epochs=3, learner=learner)
    part = run("SASRec", epochs=1, learner=learner)
    last = Path(part["run_dir"]) / "last.pth"
    content = checkpoint.load(last)
    old = copy.deepcopy(content["optimizer"])
    assert [bool(group.get("fused")) for group in old["param_groups"]] == [learner != "rmsprop"]
    for group in old["param_groups"]:
        group.pop("fused", None)
    checkpoint.save(last, content | {"optimizer": old})
    resumed = quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=3"])
    assert equal(saved(resumed)["state_dict"], saved(whole)["state_dict"])
    assert equal(saved(resumed)["optimizer"], saved(whole)["optimizer"])


SPARSE = """
import torch
from custom import Custom


class Sparse(Custom):
    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.table = torch.nn.Embedding(self.n_items, config["width"], sparse=True)

    def calculate_loss(self, interaction):
        return super().calculate_loss(interaction)[0] + self.table(interaction[self.POS_ITEM_ID]).square().mean()
"""


@pytest.mark.parametrize("learner", ["sgd", "adagrad"])
def test_a_model_with_sparse_gradients_trains(run, custom, learner):
    folder = Path(custom.__file__).parent
    (folder / "sparse_table.py").write_text(SPARSE)
    (folder / "Sparse.yaml").write_text("width: 8\n")
    try:
        assert importlib.import_module("sparse_table").Sparse
        assert run("sparse_table:Sparse", learner=learner, epochs=1)["epochs"] == 1
    finally:
        del sys.modules["sparse_table"]
