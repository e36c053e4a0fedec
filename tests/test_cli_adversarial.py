"""ACVAE and DSPnet from the command line: a run and what it leaves, each ablation by a flag alone, and mistakes."""

import json
import math
import random
import shutil
from pathlib import Path

import pytest
import torch
from stubs import equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_gen import checkpoint, cli, quick_start

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {
    "ACVAE": ["--embedding_size=16", "--rnn_size=16", "--latent_size=8"],
    "DSPnet": ["--hidden_size=16", "--scene_size=8", "--n_layers=1", "--train_pairs=last"],
}
PARTS = {  # what each loss term trains, by the first part of the parameters' names
    "ACVAE": {"item_embedding", "gru", "encoder", "hidden", "output", "adversary", "critic"},
    "DSPnet": {"item_embedding", "scene_embedding", "f", "g", "r", "D", "bias"},
}
PROTOCOLS = {"ACVAE": "holdout_82", "DSPnet": "period"}
both_models = pytest.mark.parametrize("model", TINY)


def columns_of_log() -> dict[str, list]:
    """40 users, 30 items, 4 scenes, 12 steps each: the scene goes round, the item follows it."""
    draw = random.Random(0)
    columns: dict[str, list] = {"user_id:token": [], "item_id:token": [], "timestamp:float": [], "scene:token": []}
    for user in range(40):
        scene = draw.randrange(4)
        for step in range(12):
            row = (f"u{user}", f"i{(scene * 7 + draw.randrange(9)) % 30}", 10 * step + user % 10, f"s{scene}")
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
            scene = (scene + 1) % 4 if draw.random() < 0.8 else draw.randrange(4)
    return columns


@pytest.fixture
def line(tmp_path, write_atomic):
    """line(model, *given) is the command line of a small run of one epoch; what is given replaces what it has."""
    write_atomic(columns_of_log())

    def line(model: str, *given: str) -> list[str]:
        common = [
            f"--model={model}", "--dataset=toy", f"--data_path={tmp_path}", f"--checkpoint_dir={tmp_path}/saved",
            "--epochs=1", "--eval_step=1", "--train_batch_size=16", "--MAX_ITEM_LIST_LENGTH=10", "--use_gpu=False",
            "--num_threads=1", "--show_progress=False", "--state=ERROR", *TINY[model],
        ]  # fmt: skip
        named = {argument.partition("=")[0] for argument in given}
        return [argument for argument in common if argument.partition("=")[0] not in named] + list(given)

    return line


@pytest.fixture
def folder(line, tmp_path, capsys):
    """folder(model, *given): the folder of such a run, which has ended well and in silence."""

    def folder(model: str, *given: str) -> Path:
        before = set(tmp_path.glob("saved/*"))
        assert cli.main(line(model, *given)) == 0
        assert capsys.readouterr() == ("", "")
        (new,) = set(tmp_path.glob("saved/*")) - before
        return new

    return folder


@pytest.fixture(scope="module")
def runs():
    """Model -> folder of a run."""
    return {}


@pytest.fixture
def copied(request, runs, tmp_path):
    """copied(model): a copy of the folder of a run that is made once."""

    def copied(model: str) -> Path:
        if model not in runs:
            runs[model] = request.getfixturevalue("folder")(model)
        return Path(shutil.copytree(runs[model], tmp_path / "copy"))

    return copied


def result_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def parts_of(folder: Path) -> set[str]:
    """First parts of the names of a run's weights."""
    return {name.partition(".")[0] for name in checkpoint.load(folder / "best.pth")["state_dict"]}


def scores_of(loaded) -> dict[str, torch.Tensor]:
    """All scores of a loaded run's test rows."""
    batches = [batch[0] for batch in loaded.test]
    predict = {"items": loaded.model.full_sort_predict}
    if hasattr(loaded.model, "full_sort_predict_scene"):
        predict["scenes"] = loaded.model.full_sort_predict_scene
    with torch.no_grad():
        return {name: torch.cat([call(batch) for batch in batches]) for name, call in predict.items()}


# A run


@both_models
@pytest.mark.parametrize("own_protocol", [True, False])
def test_a_run_leaves_a_complete_result(model, own_protocol, folder):
    given = [f"--protocol={PROTOCOLS[model]}"] if own_protocol else []
    run = folder(model, "--epochs=2", *given)
    result = result_of(run)
    assert (result["model"], result["epochs"], result["run_dir"]) == (model, 2, str(run))
    assert result["protocol"] == (PROTOCOLS[model] if own_protocol else "leave_one_out")
    assert len(result["train_loss"]) == 2 and all(map(math.isfinite, result["train_loss"]))

    names = {"ACVAE": ("recall", "ndcg", "mrr"), "DSPnet": ("recall", "ndcg")} if own_protocol else {}
    topk = (5, 10) if own_protocol and model == "DSPnet" else (5, 10, 20)
    metrics = names.get(model, ("hit", "ndcg", "mrr"))
    expected = {f"{metric}@{k}" for metric in metrics for k in topk}
    if model == "DSPnet":  # there are 4 scenes: 5 and 10 would hold all
        scenes = {f"scene_{metric}@1" for metric in metrics}
        more = {f"period_{name}" for name in expected} | {f"scene_period_{metric}@1" for metric in metrics}
        expected = expected | scenes | (more if own_protocol else set())
    for key in ("test_result", "best_valid_result"):
        assert result[key].keys() == expected, key
        assert all(0 <= value <= 1 for value in result[key].values())

    diagnostics, (rows, size) = result["diagnostics"], scores_of(quick_start.load(run))["items"].shape
    assert diagnostics["rows"] > 0 and (own_protocol or rows == diagnostics["rows"] == 40) and size <= 31
    latent = diagnostics["latent"]
    dimensions = {"ACVAE": 8, "DSPnet": 16}[model]
    assert latent.keys() == {"corr", "std", "mean_size"} and all(map(math.isfinite, latent.values()))
    assert 0 < latent["corr"] <= dimensions * (dimensions - 1) and latent["std"] > 0
    assert diagnostics["pop"] and diagnostics["lists"] and diagnostics["item_table"]["rms"] > 0
    assert ("scene" in diagnostics) == (model == "DSPnet")
    assert parts_of(run) == PARTS[model]


@both_models
def test_a_loaded_run_scores_as_the_model_that_was_trained(model, folder, monkeypatch):
    ends = []
    test = quick_start._test_best_epoch

    def keep(config, trainer, *rest):
        out = test(config, trainer, *rest)
        ends.append(trainer.model)
        return out

    monkeypatch.setattr(quick_start, "_test_best_epoch", keep)
    run = folder(model, f"--protocol={PROTOCOLS[model]}")
    loaded, again = quick_start.load(run), quick_start.load(run)
    own = scores_of(loaded)
    assert all(scores.isfinite().all() and scores.std() > 0 for scores in own.values())
    assert equal(own, scores_of(again)) and loaded.model is not again.model
    assert not loaded.model.training and equal(loaded.model.state_dict(), ends[0].state_dict())
    trained = ends[0].eval()
    with torch.no_grad():
        batches = [batch[0] for batch in loaded.test]
        assert torch.equal(own["items"], torch.cat([trained.full_sort_predict(batch) for batch in batches]))


@both_models
@pytest.mark.parametrize("given", [[], ["--eval_noise=sample"]])
def test_evaluating_again_gives_the_same_numbers(model, given, folder):
    if given and model == "DSPnet":
        given = ["--candidates=sampled", "--num_sampled=16"]
    run = folder(model, *given)
    first = result_of(run)
    assert cli.main([f"--resume={run}"]) == 0  # nothing is left to train
    second = result_of(run)
    for key in ("test_result", "diagnostics", "best_valid_result", "train_loss", "epochs"):
        assert first[key] == second[key], key


@pytest.mark.parametrize("model", ["ACVAE", "DSPnet"])
def test_the_settings_of_a_run_are_a_configuration(model, copied):
    settings = result_of(copied(model))["config"]
    config, _ = quick_start.configure(config_dict=settings)
    assert config.settings() == settings


# Ablations


ABLATIONS = {  # flags -> parts of the model that are gone, loss terms that are 0
    "ACVAE --kl_weight=0": ({"adversary"}, {"kl", "adversary"}),
    "ACVAE --contrast_weight=0": ({"critic"}, {"contrast"}),
    "ACVAE --kl_weight=0 --contrast_weight=0": ({"adversary", "critic"}, {"kl", "contrast", "adversary"}),
    "ACVAE --encoder_type=fc": (set(), set()),
    "ACVAE --encoder_type=fc_no_res": (set(), set()),
    "ACVAE --conv_type=vertical": (set(), set()),
    "ACVAE --gru_softplus=True": (set(), set()),
    "ACVAE --contrast_valid_pair=False": (set(), set()),
    "ACVAE --encoder_extra_sgd=True": (set(), set()),
    "ACVAE --adv_schedule=alternate": (set(), set()),
    "ACVAE --eval_noise=none": (set(), set()),
    "ACVAE --eval_noise=mean": (set(), set()),
    "ACVAE --train_pairs=all": (set(), set()),
    "DSPnet --alpha_k=0": ({"D"}, {"prior", "discriminator"}),
    "DSPnet --beta_k=0": (set(), {"contrast"}),
    "DSPnet --lambda_scene=0": (set(), {"scenes"}),
    "DSPnet --lambda_scene=0 --fusion=no_concat": (set(), {"scenes"}),
    "DSPnet --fusion=no_concat": (set(), set()),
    "DSPnet --fusion=no_mlp": ({"g"}, set()),
    "DSPnet --fusion=one_to_one": (set(), set()),
    "DSPnet --candidates=sampled": (set(), set()),
    "DSPnet --ccr_similarity=dot": (set(), set()),
    "DSPnet --apr_generator=nonsaturating": (set(), set()),
    "DSPnet --mask_ratio=0.3": (set(), set()),
    "DSPnet --logit_bias=none --objective_scale=none": (set(), set()),
    "DSPnet --share_r=True --scene_size=16": (set(), set()),
}
TERMS = {
    "ACVAE": ("nll", "kl", "contrast", "adversary"),
    "DSPnet": ("items", "scenes", "prior", "contrast", "discriminator"),
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_an_ablation_is_a_flag(ablation, folder):
    model, *given = ablation.split()
    gone, idle = ABLATIONS[ablation]
    run = folder(model, *given)
    result = result_of(run)
    assert parts_of(run) == PARTS[model] - gone
    assert math.isfinite(result["train_loss"][0]) and result["test_result"]
    assert all(0 <= value <= 1 for value in result["test_result"].values())
    for argument in given:  # the flag has reached the run
        key, value = argument.removeprefix("--").replace("'", "").split("=")
        assert str(result["config"][key]) == value
    loss = terms_of(run, TERMS[model])
    assert {name for name, value in loss.items() if value == 0} == idle
    assert sum(loss.values()) == pytest.approx(result["train_loss"][0], rel=1e-5)


def terms_of(folder: Path, names) -> dict[str, float]:
    """The loss terms of a run's first epoch, from TensorBoard."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: events.Scalars(f"train/{name}")[0].value for name in names}


# Mistakes

TYPOS = {
    "ACVAE --kl_wieght=0": "unknown key 'kl_wieght' .command line.: did you mean 'kl_weight'",
    "ACVAE --encoder_typ=fc": "did you mean 'encoder_type'",
    "ACVAE --adversary_optimiser={}": "did you mean 'adversary_optimizer'",
    "ACVAE --alpha_k=0": "unknown key 'alpha_k' .*for ACVAE: it is a key of DSPnet",
    "ACVAE --encoder_type=cnn": "encoder_type must be one of fc_cnn, fc, fc_no_res, got 'cnn'",
    "ACVAE --conv_type=horizontal": "conv_type must be one of dense, vertical",
    "ACVAE --eval_noise=on": "eval_noise must be",
    "ACVAE --adv_schedule=turns": "adv_schedule must be one of same_batch, alternate",
    "ACVAE --kernel_size=0": "kernel_size must be a whole number from 1",
    "ACVAE --kl_weight=-1": "kl_weight must be 0 or a positive number",
    "ACVAE --emb_dropout_prob=2": "emb_dropout_prob must be from 0 to 1",
    "DSPnet --fuson=no_mlp": "unknown key 'fuson' .command line.: did you mean 'fusion'",
    "DSPnet --lamda_scene=0": "did you mean 'lambda_scene'",
    "DSPnet --kl_weight=0": "unknown key 'kl_weight' .*for DSPnet: it is a key of .*ACVAE",
    "DSPnet --fusion=none": "fusion must be one of full, no_concat, no_mlp, one_to_one, got 'none'",
    "DSPnet --candidates=some": "candidates must be one of auto, full, sampled",
    "DSPnet --ccr_similarity=l2": "ccr_similarity must be one of cosine, dot",
    "DSPnet --n_views=0": "n_views must be a whole number from 1",
    "DSPnet --tau_neg=0": "tau_neg must be a positive number",
    "DSPnet --mask_ratio=2": "mask_ratio must be beta or above 0 and below 1",
    "DSPnet --share_r=True": "share_r needs hidden_size 16 and scene_size 8 to be equal",
    "DSPnet --n_heads=3": r"hidden_size must be a multiple of n_heads \(3\), got 16",
    "DSPnet --alpha_k=-1": "alpha_k must be 0 or a positive number",
    "DSPnet --scene_topk=[0]": "scene_topk must be a positive whole number",
    "DSPnet --scene_rule=last": "scene_rule must be one of",
}


def test_a_weight_that_is_no_number_is_refused(line, refused):
    refused(line("ACVAE", "--kl_weight=.nan"), "kl_weight")


@pytest.mark.parametrize("typo", TYPOS)
def test_a_mistake_is_named_with_the_nearest_key(typo, line, refused, tmp_path):
    model, *given = typo.split()
    refused(line(model, *given), TYPOS[typo])
    assert not list(tmp_path.glob("saved/*/result.json"))


NO_SCENES = (r"SCENE_FIELD", "globo-scene", "no column 'scene'", r"toy\.inter")


def test_a_log_without_scenes_is_explained(line, refused, write_atomic):
    columns = columns_of_log()
    del columns["scene:token"]
    write_atomic(columns)
    refused(line("DSPnet"), *NO_SCENES)
    assert cli.main(line("ACVAE")) == 0  # which needs none


def test_a_scene_column_of_another_name_is_found_by_it(line, refused, write_atomic, folder):
    columns = columns_of_log()
    columns["place:token"] = columns.pop("scene:token")
    write_atomic(columns)
    refused(line("DSPnet"), *NO_SCENES)
    run = folder("DSPnet", "--SCENE_FIELD=place")
    assert "scene_hit@1" in result_of(run)["test_result"]


def test_scenes_that_are_numbers_are_explained(line, refused, write_atomic):
    columns = columns_of_log()
    columns["scene:float"] = [float(scene[1:]) for scene in columns.pop("scene:token")]
    write_atomic(columns)
    refused(line("DSPnet"), "the scene 'scene' must be categories, 'scene:token' in the title line, got 'scene:float'")


def test_one_scene_is_explained(line, refused, write_atomic):
    write_atomic(columns_of_log() | {"scene:token": ["home"] * 480})
    refused(line("DSPnet"), "fewer than two scenes in 'scene'")


@both_models
@pytest.mark.parametrize("damage", ["truncated", "no checkpoint", "zeros", "other weights"])
def test_a_damaged_checkpoint_is_explained(model, damage, copied, refused):
    run = copied(model)
    last = run / "last.pth"
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-500])
    elif damage == "no checkpoint":
        torch.save({"state_dict": {}}, last)
    elif damage == "zeros":
        last.write_bytes(b"\0" * 1000)
    else:
        content = checkpoint.load(last)
        del content["format"], content["state_dict"]["item_embedding.weight"]
        checkpoint.save(last, content)
    pattern = {
        "truncated": "truncated or not a checkpoint",
        "no checkpoint": "not a checkpoint of recbole_gen",
        "zeros": "truncated or not a checkpoint|pickled Python objects",
        "other weights": "do not fit the model",
    }[damage]
    refused([f"--resume={run}", "--epochs=2"], r"last\.pth", pattern)


@both_models
def test_a_checkpoint_without_one_of_the_optimisers_is_explained(model, copied, refused):
    run = copied(model)
    content = checkpoint.load(run / "last.pth")
    del content["format"]
    name = list(content["optimizer"])[-1]
    del content["optimizer"][name]
    checkpoint.save(run / "last.pth", content)
    refused([f"--resume={run}", "--epochs=2"], rf"the checkpoint holds the optimisers .*the model has .*{name}")
