"""TIGER: the walk of the tree against an item at a time, beams against the walk, the loss against the plain formula."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_gen import cli, quick_start
from recbole_gen.data.semantic_ids import cooccurrence_vectors
from recbole_gen.errors import UserError
from recbole_gen.model import prefix_search, prefix_tree, tiger
from recbole_gen.model.prefix_tree import PrefixTree
from recbole_gen.reading.semantic_ids import read_semantic_ids
from recbole_gen.recommending.recommender import Recommender

IDS = ["0 0 0", "0 0 1", "0 2 0", "1 1 0", "1 0 0", "3 0 0", "3 0 1", "3 0 2", "3 4 0"]


def digits_of(ids: list[str]) -> torch.Tensor:
    return torch.tensor([[0] * len(ids[0].split()), *([int(each) for each in one.split()] for one in ids)])


def random_ids(number: int, sizes: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """So many different IDs in no order, padding first."""
    drawn = torch.randperm(math.prod(sizes), generator=torch.Generator().manual_seed(seed))[:number]
    digits = np.stack(np.unravel_index(drawn.numpy(), sizes), 1)
    return torch.cat([torch.zeros(1, len(sizes), dtype=torch.int64), torch.from_numpy(digits)])


@pytest.fixture
def make_model(make_config, write_atomic):
    """make_model(digits) builds an untrained TIGER, in evaluation mode, whose outputs differ for all items."""

    def make(digits: torch.Tensor, **values):
        names = [f"i{number}" for number in range(len(digits) - 1)]
        write_atomic(
            {"user_id:token": ["u"] * len(names), "item_id:token": names, "timestamp:float": range(len(names))}
        )
        small = {"hidden_size": 16, "inner_size": 32, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 6, **values}
        config = make_config("TIGER", **small)
        dataset = type("Data", (), {})()
        dataset.semantic_ids, dataset.num = digits, lambda field: len(digits) if field == "item_id" else 2
        dataset.field2seqlen = {"item_id_list": 6}
        torch.manual_seed(3)
        model = config.model_class(config, dataset)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        return model.eval()

    return make


def histories(n_items: int, lengths: list[int], seed: int = 5) -> Interaction:
    drawn = torch.randint(1, n_items, (len(lengths), 6), generator=torch.Generator().manual_seed(seed))
    length = torch.tensor(lengths)
    drawn[torch.arange(6) >= length.unsqueeze(1)] = 0
    return Interaction({"item_id_list": drawn, "item_length": length})


OVER = ("all", "existing")
"""Values of `digit_softmax`."""


def one_by_one(model, batch: Interaction) -> torch.Tensor:
    """log p of every item, each by a pass of torch's decoder over its digits."""
    columns = []
    for item in range(1, model.n_items):
        own = Interaction({**batch.interaction, "item_id": torch.full((len(batch),), item)})
        columns.append(model.predict(own))
    return torch.stack(columns, 1)


# The tree


def test_the_tree_has_each_prefix_once_in_order_with_its_item_at_the_end():
    tree = PrefixTree(digits_of(IDS))
    assert tree.depth == 3 and tree.sizes == [4, 5, 3] and [tree.width(depth) for depth in range(4)] == [1, 3, 6, 9]
    assert tree.last_digits(1).tolist() == [0, 1, 3] and tree.parents(2).tolist() == [0, 0, 1, 1, 2, 2]
    ways = []
    for node in range(9):
        way, at = [], node
        for depth in (3, 2, 1):
            way.insert(0, int(tree.last_digits(depth)[at]))
            at = int(tree.parents(depth)[at])
        ways.append(" ".join(map(str, way)))
    assert ways == sorted(IDS) and [IDS[item - 1] for item in tree.items] == ways


@pytest.mark.parametrize("cells", [prefix_tree.MOST_CELLS, 5])
def test_children_that_no_item_has_are_known(monkeypatch, cells):
    monkeypatch.setattr(prefix_tree, "MOST_CELLS", cells)
    tree = PrefixTree(digits_of(IDS))
    for depth, width in enumerate([1, 3, 6]):
        nodes, digits = torch.arange(width).flip(0).expand(2, -1), torch.arange(tree.sizes[depth])
        assert torch.equal(tree.exists(depth, nodes), tree.next_nodes(depth, nodes.unsqueeze(-1), digits)[1])
    found, exist = tree.next_nodes(1, torch.tensor([[[2], [0]]]), torch.arange(5))
    assert exist.tolist() == [[[True, False, False, False, True], [True, False, True, False, False]]]
    assert found[exist].tolist() == [4, 5, 0, 1]


# Exact ranking


@pytest.mark.parametrize("ranking", [{}, {"exact_top": 3}, {"beam_size": 3}])
@pytest.mark.parametrize("place", ["token_embedding.weight", "outputs.1.bias", "decoder.norm.weight"])
def test_scores_that_are_not_numbers_are_seen_in_every_ranking(make_model, ranking, place):
    model, batch = make_model(random_ids(20, (3, 4, 2)), **ranking), histories(21, [6, 1, 3, 0])
    with torch.no_grad():
        model.get_parameter(place)[:1] = torch.nan
        scores = model.full_sort_predict(batch)
    assert scores[:, 1:].isnan().any(1).all()


def test_over_existing_digits_the_probabilities_of_all_items_sum_to_1(make_model):
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3])
    with torch.no_grad():
        sums = [make_model(digits, digit_softmax=over).full_sort_predict(batch).exp().sum(1) for over in OVER]
    torch.testing.assert_close(sums[1], torch.ones(3), rtol=1e-4, atol=1e-4)
    assert (sums[0] < 0.9).all()


def test_over_existing_digits_searches_and_rows_agree_with_the_walk(make_model):
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3, 6, 2])
    models = [
        make_model(digits, digit_softmax="existing", **more) for more in ({}, {"exact_top": 10}, {"beam_size": 90})
    ]
    with torch.no_grad():
        every, some, wide = (model.full_sort_predict(batch) for model in models)
        torch.testing.assert_close(every[:, 1:], one_by_one(models[0], batch), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(wide, every, rtol=1e-4, atol=1e-4)
    best = every.topk(10, dim=1)
    torch.testing.assert_close(some.gather(1, best.indices), best.values, rtol=1e-4, atol=1e-4)


def test_over_existing_digits_what_follows_for_sure_teaches_nothing(make_model):
    """Of IDs that their first digit tells apart, the others have no loss."""
    digits = torch.tensor([[0, 0], *([n, n % 3] for n in range(5))])
    model, batch = make_model(digits, digit_softmax="existing").train(), histories(6, [3, 2, 4, 6])
    batch.update(Interaction({"item_id": torch.tensor([1, 4, 2, 5])}))
    model.calculate_loss(batch).backward()
    assert model.outputs[0].weight.grad.abs().sum() > 0
    assert model.outputs[1].weight.grad.abs().max() < 1e-6


@pytest.mark.parametrize("sizes, number", [((4, 5, 3), 40), ((7,), 5), ((2, 2, 2, 2, 2), 20), ((50, 3), 90)])
@pytest.mark.parametrize("floats, causal", [(tiger.FLOATS, False), (1, False), (tiger.FLOATS, True)])
def test_the_walk_gives_each_item_what_a_pass_of_its_own_gives(make_model, monkeypatch, sizes, number, floats, causal):
    monkeypatch.setattr(tiger, "FLOATS", floats)  # 1: a history at a time
    monkeypatch.setattr(tiger, "FLOATS_OF_A_STEP", floats)  # 1: a prefix at a time
    model = make_model(random_ids(number, sizes), causal=causal, positions_from="start" if causal else "end")
    batch = histories(number + 1, [6, 1, 3, 6, 0, 2])
    with torch.no_grad():
        scores, alone = model.full_sort_predict(batch), one_by_one(model, batch)
    assert scores.shape == (6, number + 1) and (scores[:, 0] == -torch.inf).all()
    torch.testing.assert_close(scores[:, 1:], alone, rtol=1e-4, atol=1e-4)
    assert scores[:, 1:].std() > 0.1 and (scores[0, 1:] - scores[1, 1:]).abs().max() > 0.01


def test_probabilities_of_all_ids_that_there_can_be_sum_to_one(make_model):
    model = make_model(random_ids(24, (2, 4, 3)))
    with torch.no_grad():
        scores = model.full_sort_predict(histories(25, [4, 2]))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(2))


def test_padding_and_other_rows_change_nothing(make_model):
    model, batch = make_model(random_ids(20, (4, 5, 3))), histories(21, [6, 2, 4])
    with torch.no_grad():
        together = model.full_sort_predict(batch)
        alone = [model.full_sort_predict(batch[torch.tensor([row])]) for row in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


# Beams


@pytest.mark.parametrize("size", [90, 1000])
def test_a_beam_as_wide_as_the_tree_is_exact(make_model, size):
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3])
    with torch.no_grad():
        exact, found = (make_model(digits, beam_size=beam).full_sort_predict(batch) for beam in (None, size))
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_a_beam_wider_than_the_tree_costs_no_more_than_one_as_wide(make_model, monkeypatch):
    """All places that digits could have, or a history at a time, would be seconds a batch."""
    model, batch = make_model(random_ids(30, (40, 50, 60)), beam_size=10**9), histories(31, [6, 1, 3, 6])
    rows, seen = model.rank_beam, []
    monkeypatch.setattr(model, "rank_beam", lambda items, length: (seen.append(len(items)), rows(items, length))[1])
    with torch.no_grad():
        model.full_sort_predict(batch)
        items, _ = model.beam_search(batch["item_id_list"], batch["item_length"], 10**9)
    assert seen == [4] and items.shape == (4, 30) and (items.sort(1).values == torch.arange(1, 31)).all()


def test_a_beam_gives_items_with_their_exact_scores_and_no_others(make_model):
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3])
    model = make_model(digits)
    with torch.no_grad():
        exact = model.full_sort_predict(batch)
        items, scores = model.beam_search(batch["item_id_list"], batch["item_length"], 5)
        ranked = make_model(digits, beam_size=5).full_sort_predict(batch)
    assert items.shape == (3, 5) and (items > 0).all() and (scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(scores, exact.gather(1, items), rtol=1e-4, atol=1e-4)
    assert ((ranked > tiger.NOT_FOUND).sum(1) == 5).all()
    torch.testing.assert_close(ranked.gather(1, items), scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("ranking", [{}, {"exact_top": 3}, {"beam_size": 3}])
@pytest.mark.parametrize("items", [[7], [90, 1, 42, 43, 5], [*range(1, 91)]])
def test_some_items_have_the_scores_that_they_have_among_all(make_model, over, ranking, items):
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3])
    with torch.no_grad():
        exact = make_model(digits, digit_softmax=over).full_sort_predict(batch)
    some = make_model(digits, digit_softmax=over, **ranking).score_items(batch, torch.tensor(items))
    torch.testing.assert_close(some, exact[:, items], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top", [1, 5, 40, 90, 500])
@pytest.mark.parametrize("sharpness", [1, 8])
@pytest.mark.parametrize("floats", [prefix_search.FLOATS_OF_A_FRONT, 1000, 1])  # 1: a history at a time
def test_the_best_items_are_exact_without_the_others(make_model, monkeypatch, top, sharpness, floats):
    monkeypatch.setattr(prefix_search, "FLOATS_OF_A_FRONT", floats)
    digits, batch = random_ids(90, (6, 7, 5)), histories(91, [6, 1, 3, 6, 2])
    exact, some = make_model(digits), make_model(digits, exact_top=top)
    with torch.no_grad():
        for model in (exact, some):
            for output in model.outputs:
                output.weight.mul_(sharpness)
        every, found = exact.full_sort_predict(batch), some.full_sort_predict(batch)
    best = every.topk(min(top, 90), dim=1)
    torch.testing.assert_close(found.gather(1, best.indices), best.values, rtol=1e-4, atol=1e-4)
    is_found = found > tiger.NOT_FOUND
    torch.testing.assert_close(found[is_found], every[is_found], rtol=1e-4, atol=1e-4)
    assert (is_found.sum(1) >= min(top, 90)).all() and (is_found.sum() < 450 or top >= 40)


def greedy(model, batch) -> list[str]:
    """The ID of the likeliest digit each time that some item's ID goes on with: by hand, over all items."""
    ids, found = model.semantic_ids[1:], []
    for row in range(len(batch)):
        left = torch.ones(len(ids), dtype=torch.bool)
        memory, padding = model.read_history(batch["item_id_list"][row : row + 1], batch["item_length"][row : row + 1])
        begun: list[int] = []
        for place in range(ids.shape[1]):
            tokens = [0, *(model.first_token[at] + digit for at, digit in enumerate(begun))]
            x = model.token_embedding(torch.tensor([tokens])) + model.digit_embedding.weight[: place + 1]
            logits = model.outputs[place](model.decoder(x, memory, padding)[0, -1])
            possible = ids[left, place].unique()
            begun.append(int(possible[logits[possible].argmax()]))
            left &= ids[:, place] == begun[-1]
        found.append(int(left.nonzero()) + 1)
    return found


def test_a_beam_of_one_is_greedy(make_model):
    model, batch = make_model(random_ids(60, (6, 7, 5))), histories(61, [6, 1, 3, 4])
    with torch.no_grad():
        items, _ = model.beam_search(batch["item_id_list"], batch["item_length"], 1)
        assert items.squeeze(1).tolist() == greedy(model, batch)


# Training


def test_the_loss_is_the_cross_entropy_of_the_digits(make_model):
    model, batch = make_model(random_ids(20, (4, 5, 3))), histories(21, [6, 2, 4, 1])
    batch.update(Interaction({"item_id": torch.tensor([3, 20, 7, 7])}))
    loss = model.calculate_loss(batch)
    by_hand = []
    for row in range(4):
        memory, padding = model.read_history(batch["item_id_list"][row : row + 1], batch["item_length"][row : row + 1])
        tokens, digits = model.tokens(batch["item_id"][row]), model.semantic_ids[batch["item_id"][row]]
        for place in range(3):
            read = torch.cat([torch.zeros(1, dtype=torch.int64), tokens[:place]])
            x = (model.token_embedding(read) + model.digit_embedding.weight[: place + 1]).unsqueeze(0)
            logits = model.outputs[place](model.decoder(x, memory, padding)[:, -1])
            by_hand.append(F.cross_entropy(logits, digits[place : place + 1]))
    torch.testing.assert_close(loss, torch.stack(by_hand).mean())
    loss.backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_it_learns_walks_and_recommends_from_its_folder(run, tmp_path):
    result = run("TIGER", epochs=25, learning_rate=0.01)
    assert result["test_result"]["ndcg@10"] > 0.3 > 3 * result["diagnostics"]["pop"]["ndcg@10"]
    recommender = Recommender.load(result["run_dir"])
    assert "i6" in set(recommender.recommend([["i3", "i4", "i5"]], k=3)["item"])

    by_folder = recommender.recommend([["i3", "i4", "i5"]], k=40, exclude_seen=False)
    assert len(by_folder) == 40 and by_folder.attrs["short"] == 0


def test_metrics_up_to_the_best_are_those_of_all(run, caplog):
    """Also where the history is not ranked, if there is room for it."""
    for more in ({}, {"mask_history": True}):
        more |= {"MAX_ITEM_LIST_LENGTH": 11}  # and 5 are 16
        every = run("TIGER", topk=[3, 5], valid_metric="NDCG@5", **more)
        some = run("TIGER", topk=[3, 5], valid_metric="NDCG@5", exact_top=16, **more)
        assert some["test_result"] == every["test_result"] and some["best_valid_score"] == every["best_valid_score"]
    assert "exact_top" not in caplog.text
    run("TIGER", topk=[3, 20], valid_metric="NDCG@3", exact_top=16)
    assert "topk [20]: with exact_top: 16 a list has 16 items for sure" in caplog.text


def test_what_a_beam_has_not_come_to_is_no_hit_and_is_not_recommended(run, settings, tmp_path, caplog, capsys):
    """Else one permutation would fill the lists of all users, and hit by chance."""
    result = run("TIGER", beam_size=4, topk=[4, 10], valid_metric="NDCG@10")
    assert "topk [10]: with beam_size: 4 a list has 4 items at most" in caplog.text
    metrics = result["test_result"]
    assert metrics["hit@10"] == metrics["hit@4"] > 0 and metrics["ndcg@10"] == metrics["ndcg@4"]
    assert result["diagnostics"]["lists"]["length"] == 4 and result["diagnostics"]["tied_rows"] == 0
    places = pd.read_csv(f"{result['run_dir']}/ranks.test.tsv", sep="\t")["place"]
    assert (places > 0).mean() == pytest.approx(metrics["hit@10"], abs=1e-4) and places.max() <= 4

    recommender = Recommender.load(result["run_dir"])
    found = recommender.recommend([["i3", "i4"], ["i5"], []], k=10, exclude_seen=False)
    assert found.groupby("user").size().tolist() == [4, 4, 10] and found["score"].min() > -1000
    assert found.attrs["short"] == 2 and "2 users have fewer than k items" in caplog.text

    worst = [f"i{number}" for number in range(1, 31) if f"i{number}" not in set(found["item"])][:6]
    asked = recommender.recommend([["i3", "i4"], ["i5"]], k=10, exclude_seen=False, candidates=worst)
    assert asked.groupby("user")["item"].agg(set).tolist() == [{*worst}] * 2 and asked["score"].min() > -1000

    (tmp_path / "h.jsonl").write_text('{"user": "a", "history": ["i3"]}\n')
    line = ["recommend", f"--checkpoint={result['run_dir']}", f"--histories={tmp_path / 'h.jsonl'}"]
    capsys.readouterr()
    assert cli.main([*line, f"--output={tmp_path / 'out.csv'}"]) == 0
    assert "1 user has fewer than k items: the run's beam_size or exact_top ends there" in capsys.readouterr().out
    assert cli.main([*line, f"--output={tmp_path / 'few.csv'}", "--k=3"]) == 0
    assert "fewer than k" not in capsys.readouterr().out


# IDs from a file


@pytest.fixture
def id_file(tmp_path):
    """id_file(lines) writes a table of IDs and returns its path; by default one for all 40 items of `walks`."""

    def write(lines: list[str] | None = None) -> str:
        lines = lines or ["item_id\tsemantic_id", *(f"i{n}\t{n // 8} {n % 8}" for n in range(40))]
        (tmp_path / "semantic-ids.tsv").write_text("\n".join(lines) + "\n")
        return str(tmp_path / "semantic-ids.tsv")

    return write


def test_ids_of_a_file_are_those_of_the_items_whatever_their_order(run, id_file):
    lines = [f"i{n}\t{n // 8} {n % 8}" for n in range(40)]
    first = run("TIGER", semantic_ids=id_file(["item_id\tsemantic_id", *lines]))
    with_more = [line.replace("\t", "\tx\t") for line in reversed(lines)]
    other = run("TIGER", semantic_ids=id_file(["item_id\tmore\tids", *with_more]))
    assert first["test_result"] == other["test_result"] and first["train_loss"] == other["train_loss"]
    model = quick_start.load(first["run_dir"]).model
    names = quick_start.load(first["run_dir"]).train._dataset.field2id_token["item_id"]
    assert [f"{a} {b}" for a, b in model.semantic_ids[1:].tolist()] == [
        f"{int(name[1:]) // 8} {int(name[1:]) % 8}" for name in names[1:]
    ]


@pytest.mark.parametrize(
    "lines, pattern",
    [
        (["item_id\tid"], "must have a line of names"),
        (["item_id\tid", "i1\t1 1", "i2"], "line 3 has 1 cell, and the line of names 2"),
        (["item_id\tid", "i1\t1 1", "i2\t1 1"], "has the ID '1 1' in line 2 and in line 3: a last digit"),
        (["item_id\tid", "i1\t1 1", "i1\t1 2"], "has the item 'i1' in line 2 and in line 3"),
        (["item_id\tid", "i1\t1 1", "i2\t1 x"], "line 3 has 'x', which is no digit"),
        (["item_id\tid", "i1\t1 1", "i2\t1 -2"], "line 3 has '-2', which is no digit"),
        (["item_id\tid", "i1\t1 1", "i2\t1"], "line 3 has 1 digits, and the first ID has 2"),
        (["item_id\tid", "i1\t1 1", "i2\t1 70000"], "line 3 has a digit above 65,535"),
        (["item_id\tid\tother", "i1\t1 1\t2 2", "i2\t1 2\t2 3"], "2 columns of IDs: name one of id, other"),
        (["item_id\tid", "i1\t1 1", "i2\t01 1"], "has the ID '1 1' in line 2 and in line 3"),
        (["item_id\tid", "", "i1\t1 1", "", "i2\t1 x"], "line 5 has 'x', which is no digit"),
        (["i1\t1 1", "i2\t1 2"], "begins with 'i1' and '1 1', and its first line must have the names"),
        (["item_id\tid", "i1\t1", "i2\t2"], "no column of IDs.* one of single digits is named with"),
        (["", "", ""], "must have a line of names"),
        (["item_id\tid", "x1\t1 1", "x2\t1 2"], "none of the 40 items .* is among the 2"),
    ],
)
def test_files_that_cannot_be_used_are_one_message(settings, id_file, lines, pattern):
    with pytest.raises(UserError, match=pattern):
        quick_start.run(config_dict=settings("TIGER", semantic_ids=id_file(lines)))


def test_a_column_that_is_not_there_is_near_another(settings, id_file):
    path = id_file(["item_id\trq_vae\trq_kmeans", *(f"i{n}\t{n} 0\t0 {n}" for n in range(40))])
    with pytest.raises(UserError, match="has no column rq_va: did you mean rq_vae"):
        quick_start.run(config_dict=settings("TIGER", semantic_ids=path, semantic_ids_column="rq_va"))
    with pytest.raises(UserError, match="there is no file"):
        quick_start.run(config_dict=settings("TIGER", semantic_ids=path + "x"))


def test_a_file_that_is_not_there_is_missed_before_the_data_set_is_read(make_config, write_atomic, tmp_path):
    """As `compare` and `tune` ask before their first run."""
    write_atomic({"user_id:token": ["u"], "item_id:token": ["i"], "timestamp:float": [1]})
    for path in (tmp_path / "nowhere.tsv", tmp_path):
        with pytest.raises(UserError, match="semantic_ids: there is no file"):
            make_config("TIGER", semantic_ids=str(path))


def test_items_without_an_id_are_told_and_differ(run, id_file, caplog):
    path = id_file(["item_id\tid", *(f"i{n}\t{n // 8} {n % 8}" for n in range(38)), "gone\t9 9"])
    result = run("TIGER", semantic_ids=path)
    assert "2 items have no ID in" in caplog.text and "1 other name is there, of no item" in caplog.text
    ids = quick_start.load(result["run_dir"]).model.semantic_ids[1:].tolist()
    assert len({tuple(each) for each in ids}) == 40 and sum(first == 10 for first, _ in ids) == 2


def test_items_without_an_id_of_one_digit_get_digits_of_no_other(run, id_file, caplog):
    path = id_file(["item_id\tid", *(f"i{n}\t{n}" for n in range(38))])
    result = run("TIGER", semantic_ids=path, semantic_ids_column="id")
    assert "2 items have no ID in" in caplog.text
    ids = quick_start.load(result["run_dir"]).model.semantic_ids[1:].flatten().tolist()
    assert sorted(ids) == [*range(40)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_titles_and_odd_names_and_empty_lines_are_no_part_of_the_ids(tmp_path, end):
    """Names are what `tokenize` takes: those with other marks of a line end, too."""
    names = ["a\u2028b", "c\x85", "d e", "f\x0b"]
    lines = ["item\ttitle\tid", *(f"{name}\tToy Story {n}\t0{n} 1" for n, name in enumerate(names)), "", ""]
    path = tmp_path / "ids.tsv"
    path.write_bytes(("\ufeff" + end.join([lines[0], "", *lines[1:]])).encode())
    found = read_semantic_ids(path)
    assert found.names == names and found.digits.tolist() == [[n, 1] for n in range(4)]


def test_a_run_goes_on_with_its_ids_only(run, id_file, arguments):
    path = id_file()
    result = run("TIGER", semantic_ids=path, epochs=1)
    id_file(["item_id\tid", *(f"i{n}\t{n % 5} {n // 5}" for n in range(40))])
    with pytest.raises(UserError, match="semantic_ids are others"):
        quick_start.run(config_dict={"resume": result["run_dir"], "epochs": 2})


def test_ids_that_are_made_are_those_of_the_run(make_model, id_file):
    """Sums of other threads may make others: what was learned is of the run's own."""
    first, other = random_ids(30, (4, 5, 3)), random_ids(30, (4, 5, 3), seed=1)
    learned, new = make_model(first), make_model(other)
    new.load_state_dict(learned.state_dict())
    with torch.no_grad():
        scores = [model.full_sort_predict(histories(31, [6, 2])) for model in (learned, new)]
    torch.testing.assert_close(*scores)
    with pytest.raises(RuntimeError, match="semantic_ids are others"):
        make_model(other, semantic_ids=id_file()).load_state_dict(learned.state_dict())


def test_cold_items_without_an_id_of_their_own_are_told(run, id_file, caplog):
    run("TIGER", epochs=1, cold_items=0.1)
    told = "cold_items: the 4 cold items have semantic IDs that say nothing"
    assert told in caplog.text
    caplog.clear()
    run("TIGER", epochs=1, cold_items=0.1, semantic_ids=id_file())
    assert told not in caplog.text


def test_item_vectors_are_refused_with_the_way_that_there_is(run, arguments, refused, tmp_path):
    np.save(tmp_path / "v.npy", np.eye(40, dtype=np.float32))
    (tmp_path / "v.json").write_text(json.dumps([f"i{n}" for n in range(40)]))
    for use in ("init", "adaptor"):
        line = arguments(f"--item_vectors={tmp_path / 'v.npy'}", f"--item_vectors_use={use}", model="TIGER")
        refused(line, "TIGER has no table of item vectors.* `tokenize --item_vectors=FILE .* --semantic_ids=FOLDER")
    folder = run("TIGER", epochs=1)["run_dir"]
    with pytest.raises(UserError, match=r"items: TIGER knows items by their semantic IDs.* such as SASRec"):
        Recommender.load(folder, items=tmp_path / "v.npy")


def test_a_run_that_goes_on_as_another_model_says_so(run, caplog):
    folder = run("TIGER", epochs=1, causal=True, exact_top=20)["run_dir"]
    quick_start.run(argv=[f"--resume={folder}", "--epochs=2", "--learning_rate=0.01"])
    assert "another TIGER" not in caplog.text
    quick_start.run(argv=[f"--resume={folder}", "--epochs=3", "--causal=False", "--beam_size=20"])
    assert re.search(
        r"goes on with another TIGER .*beam_size was None and is 20 .*; causal was True and is False .* not comparable",
        caplog.text,
    )


def test_own_ids_are_the_same_again_where_items_are_near_no_other(run, walks):
    """Cold items leave the sums of fewer rank than the vectors have columns."""
    first, again = (run("TIGER", cold_items=0.2, epochs=1) for _ in range(2))
    assert again["test_result"] == first["test_result"] and again["train_loss"] == first["train_loss"]
    model, data = (loaded := quick_start.load(first["run_dir"])).model, loaded.train._dataset
    vectors = cooccurrence_vectors(data, 2020)
    assert np.allclose(vectors, cooccurrence_vectors(data, 2020), atol=1e-9)
    known = set(data.inter_feat["item_id"].tolist())
    nothing = {item + 1 for item in np.flatnonzero(np.linalg.norm(vectors, axis=1) < 0.5)}
    assert nothing and not nothing & known
    resumed = quick_start.run(argv=[f"--resume={first['run_dir']}", "--epochs=2"])
    assert len(resumed["train_loss"]) == 2 and model.semantic_ids.shape[0] == len(vectors) + 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"exact_top": 10}, "'history not ranked' and 'trained items only' may be of shorter lists"),
        ({"exact_top": 10, "mask_history": True}, "the metrics (with mask_history) may be of shorter lists"),
        ({"beam_size": 60}, None),
    ],
)
def test_lists_that_end_before_items_are_left_out_are_told(run, walks, caplog, more, told):
    run("TIGER", epochs=1, topk=[5, 10], valid_metric="NDCG@5", MAX_ITEM_LIST_LENGTH=20, **more)
    assert (told in caplog.text) if told else ("shorter lists" not in caplog.text)
