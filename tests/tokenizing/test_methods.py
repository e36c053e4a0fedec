"""Residual k-means and the RQ-VAE: they find clusters that were planted, and the same ones for the same seed."""

import copy
import random

import numpy as np
import pytest
import torch

from recbole_gen.data.residual_kmeans import residual_kmeans
from recbole_gen.errors import UserError
from recbole_gen.tokenizing.kmeans import quantize_by_kmeans
from recbole_gen.tokenizing.quantized import in_one_scale
from recbole_gen.tokenizing.rqvae import RQVAE, Settings, quantize_by_rqvae
from recbole_gen.tokenizing.settings import RQVAE_DEFAULTS

COARSE = np.repeat(np.arange(8), 40)
FINE = np.tile(np.repeat(np.arange(8), 5), 8)
SMALL = {"hidden_sizes": [16], "latent_size": 4}


def settings(**values) -> Settings:
    return Settings(**{**RQVAE_DEFAULTS, "epochs": 100, **values})


@pytest.fixture(scope="module")
def planted() -> np.ndarray:
    """320 vectors: each the sum of one of 8 coarse centres, one of its 8 fine ones and a little noise."""
    draw = np.random.default_rng(0)
    coarse, fine = 10 * draw.normal(size=(8, 16)), 2 * draw.normal(size=(8, 8, 16))
    vectors = coarse[COARSE] + fine[COARSE, FINE] + 0.1 * draw.normal(size=(320, 16))
    return vectors.astype(np.float32)


def share_of_pairs(alike: np.ndarray, among: np.ndarray) -> float:
    """Of the pairs of two items that are ``among`` each other, the share that is alike; [n] labels each."""
    pairs = (among[:, None] == among) & ~np.eye(len(among), dtype=bool)
    return float((alike[:, None] == alike)[pairs].mean())


def test_kmeans_finds_the_planted_clusters(planted):
    found = quantize_by_kmeans(in_one_scale(planted), levels=2, codes=8, seed=0)
    first, both = found.digits[:, 0], 8 * found.digits[:, 0] + found.digits[:, 1]
    assert share_of_pairs(first, COARSE) == share_of_pairs(COARSE, first) == 1
    assert share_of_pairs(both, 8 * COARSE + FINE) > 0.99
    one, two = found.variance_left
    assert 0 < two < one < 0.05


def test_an_rqvae_finds_the_planted_clusters(planted):
    found = quantize_by_rqvae(in_one_scale(planted), 2, 8, 0, settings())
    first, both = found.digits[:, 0], 8 * found.digits[:, 0] + found.digits[:, 1]
    assert share_of_pairs(first, COARSE) > 0.9 and share_of_pairs(COARSE, first) > 0.9
    assert share_of_pairs(both, 8 * COARSE + FINE) > 0.9
    one, two = found.variance_left
    assert 0 < two < one < 0.3


@pytest.mark.parametrize("method", ["kmeans", "rqvae"])
def test_scale_and_place_of_vectors_do_not_matter(method, planted):
    near, far = (in_one_scale(vectors) for vectors in (planted, 1e30 * planted + np.float32(1e31)))
    assert abs(float(np.square(near).mean()) - 1) < 1e-5 and np.abs(near.mean(axis=0)).max() < 1e-5
    np.testing.assert_allclose(near, far, atol=1e-4)
    if method == "kmeans":
        one, other = (quantize_by_kmeans(each, 1, 8, 0).digits for each in (near, far))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("method", ["kmeans", "rqvae"])
def test_the_seed_alone_decides(method, planted):
    def digits(seed: int) -> np.ndarray:
        vectors = in_one_scale(planted)
        if method == "kmeans":
            return quantize_by_kmeans(vectors, 2, 16, seed).digits
        return quantize_by_rqvae(vectors, 2, 16, seed, settings(epochs=3, **SMALL)).digits

    first = digits(1)
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    before = torch.random.get_rng_state()
    assert np.array_equal(digits(1), first) and not np.array_equal(digits(2), first)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("method", ["kmeans", "rqvae"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7e37])
def test_vectors_that_are_all_the_same_get_the_same_digits(method, value):
    vectors = in_one_scale(np.full((12, 5), value, dtype=np.float32))
    if method == "kmeans":
        found = quantize_by_kmeans(vectors, 3, 4, 0)
    else:
        found = quantize_by_rqvae(vectors, 3, 4, 0, settings(epochs=2, **SMALL))
    assert not vectors.any() and len(np.unique(found.digits, axis=0)) == 1 and found.variance_left == [0, 0, 0]


@pytest.mark.parametrize("method", ["kmeans", "rqvae"])
def test_fewer_items_than_codes(method, planted):
    vectors = in_one_scale(planted[::40])
    if method == "kmeans":
        found = quantize_by_kmeans(vectors, 2, 256, 0)
        assert found.variance_left[0] < 1e-10
    else:
        found = quantize_by_rqvae(vectors, 2, 256, 0, settings(epochs=2, **SMALL))
    assert found.digits.shape == (8, 2) and found.digits.max() < 8


def test_centres_of_many_items_are_learned_from_a_part_of_them():
    draw = np.random.default_rng(0)
    centres = np.array([[-9.0], [0.0], [9.0]], dtype=np.float32)
    of = draw.integers(3, size=1000)
    found, digits = residual_kmeans(centres[of] + 0.1 * draw.normal(size=(1000, 1)).astype("f4"), 1, 3, 0)
    assert share_of_pairs(digits[:, 0], of) == 1
    np.testing.assert_allclose(np.sort(found[0], axis=0), centres, atol=0.05)


# The RQ-VAE's parts against the paper's formulas


def test_digits_are_nearest_codes_of_what_is_left():
    torch.manual_seed(0)
    model = RQVAE(5, levels=3, codes=7, settings=settings(**SMALL))
    torch.nn.init.normal_(model.codebooks)
    z = torch.randn(20, 4)
    digits, residuals, chosen = model.quantize(z)
    rest = z
    for level in range(3):
        torch.testing.assert_close(residuals[level], rest)
        distance = (rest[:, None] - model.codebooks[level]).square().sum(dim=2)
        assert torch.equal(digits[:, level], distance.argmin(dim=1))
        assert torch.equal(chosen[level], model.codebooks[level][digits[:, level]])
        rest = rest - chosen[level]


def test_loss_and_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    model = RQVAE(5, levels=2, codes=7, settings=settings(**SMALL)).double()
    torch.nn.init.normal_(model.codebooks)
    x = torch.randn(20, 5, dtype=torch.double)
    loss, digits = model.losses(x)
    loss.backward()

    plain = copy.deepcopy(model)
    plain.zero_grad()
    z = plain.encoder(x)
    first, second = (plain.codebooks[level][digits[:, level]] for level in range(2))
    summed = (first + second).detach().requires_grad_()
    reconstruction = (x - plain.decoder(summed)).square().sum(1).mean()
    rest = z - first.detach()
    codes = (z.detach() - first).square().sum(1).mean() + (rest.detach() - second).square().sum(1).mean()
    commitment = (z - first.detach()).square().sum(1).mean() + (rest - second.detach()).square().sum(1).mean()
    torch.testing.assert_close(loss, reconstruction + codes + 0.25 * commitment)
    reconstruction.backward(retain_graph=True)
    (codes + 0.25 * commitment).backward(retain_graph=True)
    z.backward(summed.grad)  # straight through
    for (name, one), other in zip(model.named_parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_dead_codes_begin_anew_at_residuals_and_used_ones_stay():
    torch.manual_seed(0)
    model = RQVAE(5, levels=2, codes=6, settings=settings(**SMALL))
    torch.nn.init.normal_(model.codebooks)
    before, x = model.codebooks.detach().clone(), torch.randn(30, 5)
    used = torch.tensor([[True, False, True, True, False, True], [True] * 6])
    _, residuals, _ = model.quantize(model.encoder(x))
    model.restart_dead_codes(used, x)
    assert torch.equal(model.codebooks[used], before[used])
    assert torch.equal(model.codebooks[0, ~used[0]], residuals[0][:2])


def test_restarts_keep_codes_in_use(planted):
    def used(restart: bool) -> int:
        small = settings(epochs=150, learning_rate=0.01, restart_dead_codes=restart, **SMALL)
        digits = quantize_by_rqvae(in_one_scale(planted), 2, 64, 0, small).digits
        return sum(len(np.unique(digit)) for digit in digits.T)

    assert used(True) > used(False)


def test_a_training_that_diverges_is_told(planted):
    with pytest.raises(UserError, match="diverged in epoch 1: a smaller --learning_rate than 1e\\+30"):
        quantize_by_rqvae(in_one_scale(planted), 2, 8, 0, settings(learner="sgd", learning_rate=1e30))


def test_epochs_make_thousands_of_steps_unless_they_are_named():
    assert settings(epochs=7).epochs_for(1000) == 7
    assert settings(epochs=None).epochs_for(12101) == 84  # of 48 steps
    assert settings(epochs=None).epochs_for(1_000_000) == 20
