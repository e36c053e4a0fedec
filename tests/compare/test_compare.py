"""`compare` through the command line: equal numbers, runs that are kept, gone on with or made anew, and bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_gen import cli
from recbole_gen.compare import runs as compare_runs
from recbole_gen.files import lock_folder

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")


@pytest.fixture
def line(arguments, tmp_path):
    """line("Pop,BPR", "--key=value", ...) is a command line of `compare` on `walks`, of two epochs and two seeds."""

    def make(models: str, *given: str, output: str = "comparison") -> list[str]:
        common = (f"--models={models}", f"--output={tmp_path / output}", "--seeds=2", "--epochs=2", "--resamples=100")
        kept = [each for each in common if each.partition("=")[0] not in [own.partition("=")[0] for own in given]]
        return ["compare", *[each for each in arguments(*kept, *given, model="") if each != "--model="]]

    return make


@pytest.fixture
def no_files(monkeypatch):
    """Without the tables and figures, which take longer than the runs."""
    monkeypatch.setattr(compare_runs, "write_files", lambda *_: [])


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def numbers(folder: Path) -> pd.DataFrame:
    """The long table without what a clock has measured."""
    table = pd.read_csv(folder / "comparison.csv")
    return table[table["part"] != "cost"].reset_index(drop=True)


def kept(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """What is in a folder's files, and when they were written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def interrupt():
    raise KeyboardInterrupt


def test_equal_numbers_and_nothing_twice(line, tmp_path, capsys):
    one, other = tmp_path / "one", tmp_path / "other"
    assert cli.main(line("Pop,FPMC", output="one")) == 0
    first = capsys.readouterr()
    assert first.err == "" and "[4/4] FPMC, seed 2021: valid NDCG@10 0." in first.out
    assert sorted(path.name for path in (one / "runs").iterdir()) == ["FPMC-2020", "FPMC-2021", "Pop-2020", "Pop-2021"]
    assert cli.main(line("Pop,FPMC", output="other")) == 0
    pd.testing.assert_frame_equal(numbers(one), numbers(other), check_exact=True)

    values = [result(one / f"runs/FPMC-{seed}")["test_result"]["ndcg@10"] for seed in (2020, 2021)]
    summary = pd.read_csv(one / "summary.csv").set_index("label").loc["FPMC"]
    assert summary["test.ndcg@10.mean"] == pytest.approx(sum(values) / 2)
    assert summary["test.ndcg@10.sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert values[0] != values[1]

    runs, table = kept(one / "runs"), (one / "comparison.csv").read_bytes()
    capsys.readouterr()
    assert cli.main(line("Pop,FPMC", output="one")) == 0
    assert kept(one / "runs") == runs and (one / "comparison.csv").read_bytes() == table
    assert "4 runs, 4 of them finished before" in capsys.readouterr().out


def test_changed_settings_and_data_are_noticed(line, tmp_path, capsys, no_files):
    runs, file = tmp_path / "comparison/runs", tmp_path / "faster.yaml"
    file.write_text("learning_rate: 0.01\n")
    assert cli.main(line("Pop,FPMC", "--seeds=1")) == 0
    old, pop = result(runs / "FPMC-2020"), kept(runs / "Pop-2020")
    capsys.readouterr()
    assert cli.main(line("Pop,FPMC", "--seeds=1", f"--model_configs={{FPMC: {file}}}")) == 0
    out = capsys.readouterr().out
    assert "learning_rate was 0.001 and is 0.01: FPMC-2020 starts anew" in out and "2 runs, 1 of them" in out
    assert kept(runs / "Pop-2020") == pop
    assert result(runs / "FPMC-2020.old1") == old
    new = result(runs / "FPMC-2020")
    assert new["config"]["learning_rate"] == 0.01 and new["train_loss"] != old["train_loss"]

    with (tmp_path / "toy/toy.inter").open("a") as data:
        data.write("u0\ti0\t9999\n")
    assert cli.main(line("Pop,FPMC", "--seeds=1", f"--model_configs={{FPMC: {file}}}")) == 0
    assert "the files of the data set have changed: Pop-2020, FPMC-2020 start anew" in capsys.readouterr().out
    assert result(runs / "FPMC-2020.old2") == new


def write_vectors(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / "items.npy", np.random.default_rng(seed).normal(size=(40, 64)))
    (folder / "items.json").write_text(json.dumps([f"i{n}" for n in range(40)]))
    return folder / "items.npy"


def write_ids(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [
        f"i{item}\t{place // 8} {place % 8}" for place, item in enumerate(np.random.default_rng(seed).permutation(40))
    ]
    (folder / "semantic-ids.tsv").write_text("\n".join(["item_id\tsemantic_id", *lines]) + "\n")
    return folder


@pytest.mark.parametrize("key, model, write", [
    ("item_vectors", "SASRec", write_vectors), ("semantic_ids", "TIGER", write_ids),
])  # fmt: skip
def test_a_changed_file_that_was_given_is_noticed(key, model, write, line, tmp_path, capsys, no_files, monkeypatch):
    """Also one that is named from another folder, in which the workers are not."""
    monkeypatch.chdir(tmp_path)
    command = line(model, "--seeds=1", "--epochs=1", f"--{key}={write(Path('given'), 0)}")
    assert cli.main(command) == 0 and cli.main(command) == 0
    assert "1 run, 1 of them finished before" in capsys.readouterr().out
    folder = tmp_path / f"comparison/runs/{model}-2020"
    first, job = result(folder), json.loads((folder / "job.json").read_text())
    assert Path(job["settings"][key]).is_absolute()

    write(Path("given"), 1)
    assert cli.main(command) == 0
    assert f"the file of {key} has changed: {model}-2020 starts anew" in capsys.readouterr().out
    assert result(folder)["train_loss"] != first["train_loss"]

    job = json.loads((folder / "job.json").read_text())
    del job["data"][key]  # as of a run of before digests of it were kept
    (folder / "job.json").write_text(json.dumps(job))
    assert cli.main(command) == 0
    assert "1 run, 1 of them finished before" in capsys.readouterr().out


def test_threads_are_those_asked_for_not_those_that_are_free(one_thread, line, tmp_path, no_files):
    for given, threads in (("--cpus_per_run=1", 1), ("--cpus_per_run=2", 2)):
        command = [each for each in line("Pop", "--seeds=1", given, output=given) if each != "--num_threads=1"]
        assert cli.main(command) == 0
        assert result(tmp_path / given / "runs/Pop-2020")["threads"] == threads


def test_what_leaves_the_numbers_alone_is_no_change(line, tmp_path, no_files):
    assert cli.main(line("Pop", "--seeds=1")) == 0
    runs = kept(tmp_path / "comparison/runs")
    assert cli.main(line("Pop", "--seeds=1", "--num_threads=2", "--state=INFO", "--tensorboard=false")) == 0
    assert kept(tmp_path / "comparison/runs") == runs


@pytest.mark.parametrize("name", ["result.json", "ranks.test.tsv", "job.json"])
def test_a_run_that_lacks_a_file_is_made_again(name, line, tmp_path, no_files):
    folder = tmp_path / "comparison/runs/Pop-2020"
    assert cli.main(line("Pop", "--seeds=1")) == 0
    expected = result(folder)["test_result"]
    (folder / name).write_text("") if name != "ranks.test.tsv" else (folder / name).unlink()
    assert cli.main(line("Pop", "--seeds=1")) == 0
    assert result(folder)["test_result"] == expected and (folder / name).stat().st_size


def test_ctrl_c_and_the_same_command_again(custom, line, tmp_path, capsys, no_files):
    command = line("Pop,custom:Custom", "--seeds=1", "--epochs=3")
    assert cli.main(line("Pop,custom:Custom", "--seeds=1", "--epochs=3", output="whole")) == 0
    assert custom.steps == 24
    custom.at, custom.trouble = 24 + 20, interrupt  # in the third epoch
    capsys.readouterr()
    assert cli.main(command) == 130
    told = capsys.readouterr()
    assert told.err.startswith("stopped by Ctrl-C; the same command goes on") and told.err.count("\n") == 1
    folder = tmp_path / "comparison/runs/custom.Custom-2020"
    assert (folder / "last.pth").exists() and not (folder / "result.json").exists()
    custom.steps, pop = 0, kept(tmp_path / "comparison/runs/Pop-2020")
    assert cli.main(command) == 0
    assert custom.steps == 8  # those of the third epoch alone
    assert kept(tmp_path / "comparison/runs/Pop-2020") == pop
    whole, again = result(tmp_path / "whole/runs/custom.Custom-2020"), result(folder)
    for key in ("train_loss", "best_valid_result", "test_result", "diagnostics"):
        assert again[key] == whole[key]


def test_ctrl_c_while_tables_are_written(line, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(compare_runs, "write_files", lambda *_: interrupt())
        assert cli.main(line("Pop", "--seeds=1")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert cli.main(line("Pop", "--seeds=1")) == 0
    assert "1 run, 1 of them finished before" in capsys.readouterr().out


def test_models_have_files_of_their_own(line, tmp_path, no_files):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "FPMC.yaml").write_text("embedding_size: 8\nlearning_rate: 0.01\n")
    (folder / "FPMC-wide.yaml").write_text("model: FPMC\nembedding_size: 32\n")
    (folder / "BPR.yaml").write_text("model: nothing\n")  # of no model that is compared
    common = tmp_path / "common.yaml"
    common.write_text("epochs: 1\nseed: 7\nlearning_rate: 0.1\n")
    labels, given = "Pop,FPMC,FPMC-wide", (f"--model_configs={folder}", f"--config_files={common}")
    command = [each for each in line(labels, *given) if each != "--epochs=2"]
    assert cli.main([*command, "--weight_decay=0.5"]) == 0
    runs = tmp_path / "comparison/runs"
    names = {f"{label}-{seed}" for label in labels.split(",") for seed in (7, 8)}
    assert {path.name for path in runs.iterdir()} == names
    narrow, wide = result(runs / "FPMC-7"), result(runs / "FPMC-wide-8")
    assert narrow["model"] == wide["model"] == "FPMC" and wide["parameters"] == 4 * narrow["parameters"]
    assert (narrow["config"]["learning_rate"], wide["config"]["learning_rate"]) == (0.01, 0.1)
    assert narrow["config"]["weight_decay"] == 0.5 and narrow["epochs"] == 1


@pytest.mark.parametrize(
    "given, seeds",
    [(("--seeds=2", "--seed=7"), {7, 8}), (("--seeds=[1, 5]",), {1, 5}), (("--seeds=3,4",), {3, 4})],
)
def test_seeds(given, seeds, line, tmp_path, no_files):
    assert cli.main(line("Pop", *given)) == 0
    assert {result(folder)["seed"] for folder in (tmp_path / "comparison/runs").iterdir()} == seeds


def test_models_that_cannot_run_are_named_and_the_others_go_on(line, tmp_path, capsys):
    assert cli.main(line("Pop,DSPnet,FPMC", "--seeds=1")) == 0
    out = capsys.readouterr().out
    assert out.index("left out: DSPnet: ") < out.index("[1/2]")
    page = (tmp_path / "comparison/comparison.html").read_text()
    assert "Left out: DSPnet: " in page


@pytest.mark.parametrize("where", ["line", "file"])
def test_a_key_of_some_models_is_for_those_that_have_it(where, custom, line, tmp_path, capsys, no_files):
    common = ["--hidden_size=16", "--width=4", "--learning_rate=0.002"]
    if where == "file":
        (tmp_path / "common.yaml").write_text("hidden_size: 16\nwidth: 4\nlearning_rate: 0.002\n")
        common = [f"--config_files={tmp_path / 'common.yaml'}"]
    (tmp_path / "own.yaml").write_text("hidden_size: 8\nmodel: FPMC\n")  # which FPMC ignores
    command = line("Pop,mine,GRU4Rec,custom:Custom", "--seeds=1", "--epochs=1", "--baseline=GRU4Rec", *common)
    assert cli.main([*command, f"--model_configs={{mine: {tmp_path / 'own.yaml'}}}"]) == 0
    out = capsys.readouterr().out
    assert "hidden_size is for GRU4Rec alone: without such a key are Pop, mine, custom:Custom\n" in out
    assert "width is for custom:Custom alone: without such a key are Pop, mine, GRU4Rec\n" in out
    assert "left out" not in out and "learning_rate is" not in out
    used = {folder.name: result(folder)["config"] for folder in (tmp_path / "comparison/runs").iterdir()}
    assert used["GRU4Rec-2020"]["hidden_size"] == 16 and used["custom.Custom-2020"]["width"] == 4
    assert len(used) == 4 and all(each["learning_rate"] == 0.002 for each in used.values())
    assert all("hidden_size" not in used[f"{label}-2020"] for label in ("Pop", "mine", "custom.Custom"))


def test_a_key_in_a_common_file_names_the_compared_models_that_have_it_first(line, tmp_path, recwarn, caplog):
    (tmp_path / "common.yaml").write_text("hidden_size: 16\n")
    assert cli.main(line("Pop,SASRec", "--seeds=1", "--epochs=1", f"--config_files={tmp_path / 'common.yaml'}")) == 0
    assert "is ignored: Pop does not read it, SASRec, " in caplog.text


def test_a_failed_run_is_told_and_the_others_go_on(line, tmp_path, capsys):
    file = tmp_path / "nan.yaml"
    file.write_text("learning_rate: 1.0e30\n")
    assert cli.main(line("FPMC,Pop", "--seeds=1", f"--model_configs={{FPMC: {file}}}")) == 1
    out, err = capsys.readouterr()
    assert "[1/2] FPMC, seed 2020: FAILED: " in out and "nan" in out and "Traceback" not in out + err
    assert "Failed: FPMC, seed 2020: " in (tmp_path / "comparison/comparison.md").read_text()
    assert set(numbers(tmp_path / "comparison")["label"]) == {"Pop"}
    assert cli.main(line("FPMC,Pop", "--seeds=1", f"--model_configs={{FPMC: {file}}}", "--baseline=FPMC")) == 1
    out, err = capsys.readouterr()
    assert err == "nothing to compare: the baseline FPMC has not finished all of its runs, see FAILED above\n"
    assert "[1/1] FPMC, seed 2020: FAILED: " in out  # tried again, and Pop's run was not


def test_a_mistake_in_a_model_leaves_its_traceback_in_the_log(custom, line, tmp_path, capsys, no_files):
    def mistake():
        raise KeyError("no such thing")

    custom.at, custom.trouble = 3, mistake
    assert cli.main(line("custom:Custom,Pop", "--seeds=1")) == 1
    out, err = capsys.readouterr()
    assert "custom:Custom, seed 2020: FAILED: KeyError: 'no such thing' (more in " in out
    assert "Traceback" not in out + err
    log = (tmp_path / "comparison/runs/custom.Custom-2020/run.log").read_text()
    assert "Traceback" in log and "custom.py" in log
    custom.steps, custom.at = 0, 3
    assert cli.main(line("custom:Custom", "--seeds=1", output="alone")) == 1
    assert capsys.readouterr().err.startswith("nothing to compare: no model has finished")


@pytest.mark.parametrize("given, masked", [((), False), (("--mask_seen=true",), True)])
def test_masking_is_equal_for_all_kinds_of_models(given, masked, line, tmp_path, no_files):
    assert cli.main(line("BPR,FPMC", "--seeds=1", "--epochs=1", *given)) == 0
    runs = tmp_path / "comparison/runs"
    for label in ("BPR", "FPMC"):
        assert result(runs / f"{label}-2020")["config"]["mask_seen"] is masked
        ranks = pd.read_csv(runs / f"{label}-2020/ranks.test.tsv", sep="\t")["rank"]
        # 40 items, and each user has had several of them: a target can only be among the last where they are ranked.
        assert (ranks.max() > 36) is not masked


@pytest.mark.parametrize(
    "models, given",
    [
        ("Pop,FPMC", ("--protocol=holdout_82",)),
        ("Pop,FPMC", ("--protocol=period", "--period_start=0.5")),
        ("FPMC,GRU4Rec", ("--protocol=sequence_811", "--sequence_order=shuffle", "--epochs=1")),
        ("Pop,FPMC", ("--eval_step=0",)),
    ],
)
def test_protocols(models, given, line, tmp_path, capsys, no_files):
    data = pd.read_csv(tmp_path / "toy/toy.inter", sep="\t")
    data["timestamp:float"] = data.groupby("user_id:token").cumcount() * 100  # users at the same time, not one by one
    data.to_csv(tmp_path / "toy/toy.inter", sep="\t", index=False)
    assert cli.main(line(models, *given)) == 0
    out = capsys.readouterr().out
    assert "FAILED" not in out and "left out" not in out
    assert ("not validated" in out) == ("--eval_step=0" in given)
    tested = [result(folder)["test_result"] for folder in (tmp_path / "comparison/runs").iterdir()]
    assert len(tested) == 4 and all(tested)


def test_a_cluster_that_is_not_there_is_one_message(no_ray, line, refused):
    refused(line("Pop", "--address=nonsense"), "there is no Ray cluster", "ray start --head")


@pytest.mark.xdist_group("ray")
def test_ray_gives_the_same_numbers_and_goes_on_with_runs(two_cores, custom, line, refused, tmp_path, capsys):
    custom.at, custom.trouble = 20, interrupt  # a run that was cut off in its third epoch
    command = line("custom:Custom,Pop", "--seeds=1", "--epochs=3")
    assert cli.main(command) == 130
    assert cli.main(line("custom:Custom,Pop", "--seeds=1", "--epochs=3", output="sequence")) == 0
    capsys.readouterr()
    refused([*command, "--ray", "--cpus_per_run=999"], "999")
    assert cli.main([*command, "--ray", "--cpus_per_run=2"]) == 0
    out = capsys.readouterr().out
    assert "[2/2]" in out and "FAILED" not in out
    pd.testing.assert_frame_equal(numbers(tmp_path / "comparison"), numbers(tmp_path / "sequence"), check_exact=True)


def test_one_comparison_at_a_time_in_a_folder(line, refused, tmp_path):
    with lock_folder(tmp_path / "comparison", "comparison"):
        refused(line("Pop"), "another process is at work on the comparison in ")


@pytest.mark.parametrize(
    "models, given, message",
    [
        ("", (), "--models needs a value"),
        ("Pop,Pop", (), "names Pop more than once"),
        ("Pop,../up", (), "'../up' cannot be a label"),
        ("Pop,SASRce", (), "unknown model 'SASRce'. Did you mean SASRec"),
        ("Pop,nix:Nix", (), "no module 'nix'"),
        ("Pop", ("--seeds=0",), "--seeds must be a number of at least 1"),
        ("Pop", ("--seeds=[1, 1]",), "a list of different seeds"),
        ("Pop", ("--seeds=two",), "got 'two'"),
        ("Pop", ("--seed=-1",), "seed must be a whole number of at least 0"),
        ("Pop,BPR", ("--dataset=nix",), "there is no data set 'nix'"),
        ("Pop,BPR", ("--protocol=nix",), "there is no protocol 'nix'"),
        ("Pop,BPR", ("--lerning_rate=1",), r"'lerning_rate' \(command line\): did you mean 'learning_rate'"),
        ("Pop,BPR", ("--learning_rate=high",), r"learning_rate must be a number, got 'high' \(command line\)"),
        ("BPR", ("--mask_history=true",), "give --mask_seen=true"),
        ("Pop,BPR", ("--metrics=[ItemCoverage]", "--valid_metric=ItemCoverage@10"), "has a value for each user"),
        ("Pop,BPR", ("--nproc=2",), "nproc must be 1"),
        ("Pop,BPR", ("--save_ranks=false",), "save_ranks must be True"),
        ("Pop", ("--baseline=BPR",), "--baseline=BPR is not among"),
        ("Pop,DIN", ("--baseline=DIN",), "the baseline DIN cannot run here: it is not evaluated by ranking"),
        ("Pop", ("--test=f",), "there is no test 'f'"),
        ("Pop", ("--resamples=1",), "resamples must be"),
        ("Pop", ("--cpus_per_run=0",), "--cpus_per_run must be a number"),
        ("Pop", ("--ray=perhaps",), "--ray must be true or false"),
        ("Pop", ("--model=BPR",), "--model is not for compare"),
        (
            "Pop,BPR",
            ("--hidden_size=8",),
            r"unknown key 'hidden_size' \(command line\): it is a key of \w+, .*, and not "
            r"of Pop or BPR\. Leave it out\.$",
        ),
        (
            "Pop,SASRec",
            ("--hidden_sise=8", "--n_layers=1"),
            r"unknown key 'hidden_sise' \(command line\): did you mean 'hidden_size'\?$",
        ),
        ("Pop", ("--resume=there",), "--resume is not for compare"),
        ("Pop", ("--baseline",), "--baseline needs a value"),
        ("Pop", ("--model_configs=nix",), "there is no such folder"),
        ("Pop", ("--model_configs={BPR: b.yaml}",), "names BPR, which is not among --models"),
        ("Pop", ("--model_configs={Pop: nix.yaml}",), "there is no configuration file nix.yaml"),
    ],
)
def test_bad_input(models, given, message, line, refused, tmp_path):
    refused(line(models, *given), message)
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("dataset: other\nseed: 3\n", "is for BPR alone and sets dataset, seed"),
        ("embeding_size: 3\n", r"BPR: unknown key 'embeding_size' \(.*own.yaml\): did you mean 'embedding_size'"),
        ("topk: [3, 10]\n", r"BPR and Pop would not be comparable: topk is \[3, 10\]"),
        ("mask_seen: true\n", "BPR and Pop would not be comparable: mask_seen is True"),
        ("- a list\n", "must hold `key: value` lines"),
    ],
)
def test_files_of_a_model_that_cannot_be(text, message, line, refused, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    refused(line("Pop,BPR", f"--model_configs={{BPR: {tmp_path / 'own.yaml'}}}"), message)


def test_a_common_file_names_no_model(line, refused, tmp_path):
    (tmp_path / "run.yaml").write_text("model: SASRec\n")
    refused(line("Pop,BPR", f"--config_files={tmp_path / 'run.yaml'}"), "config_files sets `model`")


def test_a_cut_off_beyond_the_items_is_told_once_and_nothing_is_trained(line, tmp_path, capsys):
    assert cli.main(line("Pop,BPR", "--topk=[10, 400]")) == 2
    said = capsys.readouterr()
    assert (said.out + said.err).count("needs more than the 40 items there are") == 1 and "FAILED" not in said.out
    assert not list((tmp_path / "comparison" / "runs").glob("*"))


def test_a_model_without_sequences_beside_others_on_split_files(line, write_atomic, tmp_path, no_files):
    """What the files of the parts say is the split, whatever RecBole's defaults for a kind of model say of one."""
    for number, part in enumerate(("train", "valid", "test")):
        users = [f"{part}{user}" for user in range(40)]
        lists = [[f"i{(user + step) % 40}" for step in range(4)] for user in range(40)]
        items = [f"i{(user + 4 + number) % 40}" for user in range(40)]
        columns = {"user_id:token": users, "item_id_list:token_seq": lists, "item_id:token": items}
        write_atomic(columns, f"{part}.inter", "parts")
    given = ("--dataset=parts", "--protocol=benchmark", "--seeds=1", "--TIME_FIELD=", "--epochs=1")
    assert cli.main(line("GRU4Rec,Pop", *given)) == 0
    for label in ("GRU4Rec", "Pop"):
        ranks = pd.read_csv(tmp_path / f"comparison/runs/{label}-2020/ranks.test.tsv", sep="\t")
        assert list(ranks["user_id"]) == [f"test{user}" for user in range(40)]


def test_split_files_with_several_lines_a_user_are_for_one_kind_of_model(
    line, write_atomic, tmp_path, refused, no_files, capsys
):
    for part in ("train", "valid", "test"):
        users = [f"u{number // 2}" for number in range(80)]
        lists = [[f"i{(number + step) % 40}" for step in range(4)] for number in range(80)]
        columns = {"user_id:token": users, "item_id_list:token_seq": lists}
        write_atomic({**columns, "item_id:token": [f"i{(n + 4) % 40}" for n in range(80)]}, f"{part}.inter", "parts")
    given = ("--dataset=parts", "--protocol=benchmark", "--seeds=1", "--TIME_FIELD=", "--epochs=1")
    refused(
        line("GRU4Rec,Pop", *given),
        r"\(40 and 80 rows, 80 and 80 targets\)|\(80 and 40 rows, 80 and 80 targets\)",
        "Pop ranks once a user, for all of his targets together, and GRU4Rec once a target",
        "need split files with one test line a user. Without models that read no histories the others can be compared",
    )
    assert cli.main(line("GRU4Rec,Transitions", *given)) == 0
    assert "Users have 2 test rows each: " in capsys.readouterr().out.replace("\n", " ")


# Orders of simultaneous events


@pytest.fixture
def tied(tmp_path, walks):
    """The walks with four steps at a time, so that every user's last one is tied."""
    path = tmp_path / "toy/toy.inter"
    table = pd.read_csv(path, sep="\t")
    table["timestamp:float"] = table["timestamp:float"] // 100 * 100 + table["timestamp:float"] % 100 // 4
    table.to_csv(path, sep="\t", index=False)


def test_tie_orders_are_spread_beside_seeds_and_kept(tied, line, tmp_path, capsys):
    command, runs = line("Pop,FPMC", "--tie_orders=3"), tmp_path / "comparison/runs"
    assert cli.main(command) == 0
    out = capsys.readouterr().out
    assert "[10/10] FPMC, seed 2020, tie seed 3: valid" in out and "Seeds and tie orders" in out
    names = [path.name for path in sorted(runs.glob("FPMC*"))]
    assert names == ["FPMC-2020", "FPMC-2020-ties1", "FPMC-2020-ties2", "FPMC-2020-ties3", "FPMC-2021"]
    tests = [pd.read_csv(runs / f"{model}-2020-ties{n}/ranks.test.tsv", sep="\t").sort_values("user_id")["item_id"]
             for model in ("Pop", "FPMC") for n in (1, 2, 3)]  # fmt: skip
    assert all(tests[n].tolist() == tests[n + 3].tolist() for n in range(3)) and tests[0].tolist() != tests[1].tolist()
    results = [result(runs / f"FPMC-2020-ties{n}") for n in (1, 2, 3)]
    assert {run["seed"] for run in results} == {2020} and result(runs / "FPMC-2021")["config"]["tie_order"] == "file"
    values = pd.Series([run["test_result"]["ndcg@10"] for run in results])
    summary = pd.read_csv(tmp_path / "comparison/summary.csv").set_index("label").loc["FPMC"]
    assert summary["ties.ndcg@10.sd"] == pytest.approx(values.std()) and values.std() > 0

    before = kept(runs)
    assert cli.main(command) == 0 and kept(runs) == before
    assert cli.main(line("Pop,FPMC", "--tie_orders=[3, 9]")) == 0
    assert "8 runs, 6 of them finished before" in capsys.readouterr().out


def test_a_drawn_order_is_one_for_all_seeds(tied, line, tmp_path, no_files):
    assert cli.main(line("Pop", "--tie_order=random")) == 0
    results = [result(tmp_path / f"comparison/runs/Pop-{seed}") for seed in (2020, 2021)]
    assert [run["config"]["tie_seed"] for run in results] == [2020, 2020]


def test_runs_of_before_there_were_tie_orders_are_finished(line, tmp_path, capsys, no_files):
    assert cli.main(line("Pop", "--seeds=1")) == 0
    job = tmp_path / "comparison/runs/Pop-2020/job.json"
    content = json.loads(job.read_text())
    for key in ("tie_order", "tie_seed"):
        del content["settings"][key]
    job.write_text(json.dumps(content))
    capsys.readouterr()
    assert cli.main(line("Pop", "--seeds=1")) == 0
    assert "1 run, 1 of them finished before" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "message"), [
    (["--tie_orders=1"], "--tie_orders must be a number of at least 2"), (["--tie_orders=x"], "--tie_orders must be"),
    (["--tie_orders=[2, 2]"], "--tie_orders must be"),
])  # fmt: skip
def test_tie_orders_that_say_nothing(given, message, line, refused):
    refused(line("Pop", *given), message)


def test_split_files_have_no_tie_orders(write_atomic, line, refused):
    for part in ("train", "valid", "test"):
        write_atomic({"user_id:token": ["u"], "item_id:token": ["i"], "item_id_list:token_seq": [["j"]]},
                     suffix=f"{part}.inter")  # fmt: skip
    refused(line("GRU4Rec", "--protocol=benchmark", "--tie_orders=2"), "tie_order: random needs the whole log")
