"""`leaderboard` through the command line: one budget for all, winners by validation, pages from numbers, mistakes."""

import json
import re
from pathlib import Path

import pytest
import yaml

from recbole_gen import cli
from recbole_gen.config.places import PROPERTIES
from recbole_gen.leaderboard.pages import MARKER, index_text, page_text
from recbole_gen.leaderboard.results import read_board, read_boards
from recbole_gen.sweep import cluster, state, trial, tune
from recbole_gen.sweep.space_file import read_space
from recbole_gen.sweep.state import Sweep

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")

SPACE = "learning_rate: {loguniform: [1.0e-3, 1.0e-1]}\nguidance_scale: {grid: [0, 2]}\n"


@pytest.fixture
def line(arguments, tmp_path):
    """line("Pop,BPR", "--key=value", ...) is a command line of `leaderboard` on `walks`, of one epoch and two seeds."""

    def make(models: str, *given: str) -> list[str]:
        common = (
            f"--models={models}", f"--output={tmp_path / 'board'}", f"--docs={tmp_path / 'docs'}", "--seeds=2",
            "--num_samples=2", "--resamples=100", "--tensorboard=false",
        )  # fmt: skip
        kept = [each for each in common if each.partition("=")[0] not in [own.partition("=")[0] for own in given]]
        words = arguments(*kept, *given, model="Pop")
        return ["leaderboard", *(each for each in words if each != "--model=Pop")]

    return make


@pytest.fixture
def files(tmp_path):
    """files("spaces", SASRec="...") writes spaces/SASRec.yaml, and so on, and returns `--spaces=FOLDER`."""

    def write(option: str, **texts: str) -> str:
        folder = tmp_path / option
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.yaml").write_text(text)
        return f"--{option}={folder}"

    return write


def kept(*folders: Path) -> dict[Path, tuple[bytes, int]]:
    """What is in the files of folders, and when they were written."""
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


# Without a search


def test_models_without_a_space_run_as_they_are_and_have_a_page(line, tmp_path, capsys):
    given = line("Pop,BPR", "--tie_orders=2", "--mask_seen=true")
    assert cli.main(given) == 0
    out, place = capsys.readouterr().out, tmp_path / "docs/toy"
    assert "Pop has no search space, and runs as it is" in out and f"written: {place / 'README.md'}" in out
    board = read_board(place / "leaderboard.json")
    assert {entry.label for entry in board.entries} == {"Pop", "BPR"} and not any(
        e.tuning.trials for e in board.entries
    )
    results = [json.loads(path.read_text()) for path in (tmp_path / "board/comparison/runs").glob("*/result.json")]
    for entry in board.entries:
        own = [each for each in results if each["model"] == entry.label]
        assert len(own) == entry.runs == 4  # two seeds, two orders
        assert entry.cpu_seconds == pytest.approx(sum(each["seconds"]["train_cpu"] for each in own))
        assert entry.scores["NDCG@10"].ties_sd is not None
        assert {each["config"]["mask_seen"] for each in own} == {True}
    text = (place / "README.md").read_text()
    assert text.startswith(MARKER) and "sd over tie orders" in text and "not tuned" in text
    assert str(tmp_path) not in text
    assert all((place / target).exists() for target in re.findall(r"\]\(([^)]+)\)", text))
    assert yaml.safe_load((place / "models/Pop.yaml").read_text()) == {"model": "Pop"}
    assert "[toy](toy/README.md)" in (tmp_path / "docs/README.md").read_text()

    before = kept(tmp_path / "board/comparison")
    assert cli.main(given) == 0
    assert "8 runs, 8 of them finished before" in capsys.readouterr().out
    assert kept(tmp_path / "board/comparison") == before


def test_a_label_has_its_model_on_the_page(line, files, tmp_path):
    own = files("model_configs", Wide="model: BPR\nembedding_size: 96\n")
    assert cli.main(line("Pop,Wide", own)) == 0
    text = (tmp_path / "docs/toy/README.md").read_text()
    assert "| Wide | - | model BPR, embedding\\_size 96 |" in text and "| Pop | - | - |" in text


def test_the_metric_that_chose_is_on_the_page_of_the_test_rows_too(line, write_atomic, tmp_path):
    """Though it has no value for each user, and so is not tested."""
    rows = [(f"u{user}", f"i{(user + day) % 30}", 86400 * day + user) for user in range(60) for day in range(11)]
    users, items, times = zip(*rows)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    period = ("--protocol=period", "--period_start=0.5")
    assert cli.main(line("Pop", *period, "--valid_metric=period_NDCG@10", "--name=later")) == 0
    board = read_board(tmp_path / "docs/later/leaderboard.json")
    assert board.valid_metric == "period_NDCG@10" and "period_NDCG@10" not in board.metrics
    results = [json.loads(path.read_text()) for path in (tmp_path / "board/comparison/runs").glob("Pop-*/result.json")]
    mean = sum(each["test_result"]["period_ndcg@10"] for each in results) / len(results)
    pop = next(entry for entry in board.entries if entry.label == "Pop")
    assert pop.scores["period_NDCG@10"].mean == pytest.approx(mean) and pop.scores["period_NDCG@10"].p is None
    head, *rows = read_rows((tmp_path / "docs/later/README.md").read_text())
    assert head[-2:] == ["period\\_NDCG@10", "period\\_NDCG@10, validation"]
    assert f"{mean:.4f}" in next(row for row in rows if row[0] == "Pop")[-2]


def test_pages_are_made_of_their_numbers_alone(line, tmp_path, capsys):
    docs = tmp_path / "docs"
    assert cli.main(line("Pop")) == 0
    assert cli.main(line("Pop", "--name=other", f"--output={tmp_path / 'other'}")) == 0
    pages = [docs / "README.md", docs / "toy/README.md", docs / "other/README.md"]
    texts = [page.read_bytes() for page in pages]
    assert b"(other/README.md)" in texts[0] and b"(toy/README.md)" in texts[0]
    for page in pages[1:]:
        page.unlink()
    pages[0].write_text(f"{MARKER}\nold")
    capsys.readouterr()
    assert cli.main(["leaderboard", "--pages", f"--docs={docs}"]) == 0
    assert capsys.readouterr().out == "".join(f"written: {page}\n" for page in (pages[2], pages[1], pages[0]))
    assert [page.read_bytes() for page in pages] == texts


def test_committed_pages_are_those_of_their_numbers():
    docs = Path(__file__).parents[2] / "docs/leaderboard"
    boards = read_boards(docs)
    for board in boards:
        assert (docs / board.name / "README.md").read_text(encoding="utf-8") == page_text(board)
    listed = (docs / "README.md").read_text(encoding="utf-8")
    assert not listed.startswith(MARKER) or listed == index_text(boards)


def read_rows(text: str) -> list[list[str]]:
    """The cells of the first Markdown table of a text, without its links."""
    lines = re.search(r"(?:^\|.*\n)+", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text), re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.group().splitlines()]


def test_the_table_of_the_readme_is_that_of_the_page():
    root = Path(__file__).parents[2]
    readme = (root / "README.md").read_text(encoding="utf-8").partition("**Tuned against tuned.**")[2]
    rows = read_rows((root / "docs/leaderboard/ml-100k/README.md").read_text(encoding="utf-8"))
    assert read_rows(readme) == [row[:6] for row in rows]
    assert len(rows) > 10


def test_a_list_that_somebody_wrote_is_kept(line, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/README.md").write_text("# Mine\n")
    assert cli.main(line("Pop")) == 0
    assert "README.md, which this command has not written" in capsys.readouterr().out
    assert (tmp_path / "docs/README.md").read_text() == "# Mine\n" and (tmp_path / "docs/toy/README.md").exists()


def test_a_page_that_somebody_wrote_is_told_before_any_work(line, refused, tmp_path):
    (tmp_path / "docs/toy").mkdir(parents=True)
    (tmp_path / "docs/toy/README.md").write_text("# Mine\n")
    refused(line("Pop", "--name=toy"), "toy/README.md is not a page of `leaderboard`, and would be lost")
    assert (tmp_path / "docs/toy/README.md").read_text() == "# Mine\n"
    (tmp_path / "docs/README.md").write_text("# Mine\n")
    refused(line("Pop", "--name=README.md"), "docs/README.md is a file: name a folder")
    assert not (tmp_path / "board").exists()


def test_a_folder_that_was_renamed_keeps_its_page(line, tmp_path):
    docs = tmp_path / "docs"
    assert cli.main(line("Pop", "--name=old")) == 0
    (docs / "old").rename(docs / "new")
    assert cli.main(["leaderboard", "--pages", f"--docs={docs}"]) == 0
    assert sorted(path.name for path in docs.iterdir()) == ["README.md", "new"]
    assert "# Leaderboard new" in (docs / "new/README.md").read_text()
    assert "new/README.md" in (docs / "README.md").read_text()


def test_numbers_of_another_form_are_one_message(tmp_path, refused):
    (tmp_path / "docs/x").mkdir(parents=True)
    for text in ("", "[]", '{"version": 1}', '{"version": 1, "entries": [3]}', '{"version": 1, "entries": 3}'):
        (tmp_path / "docs/x/leaderboard.json").write_text(text)
        refused(["leaderboard", "--pages", f"--docs={tmp_path / 'docs'}"], "x/leaderboard.json .*make it again")


def test_damaged_numbers_are_one_message_and_change_no_page(line, refused, tmp_path, capsys):
    docs = tmp_path / "docs"
    assert cli.main(line("Pop", "--name=x")) == 0
    capsys.readouterr()
    sound, before = json.loads((docs / "x/leaderboard.json").read_text()), kept(docs)
    for damage in ({"cpu_minutes": "ten"}, {"metrics": []}, {"num_samples": None}, {"seeds": 3}, {"entries": []}):
        (docs / "x/leaderboard.json").write_text(json.dumps({**sound, **damage}))
        refused(["leaderboard", "--pages", f"--docs={docs}"], "x/leaderboard.json .*make it again")
    after = kept(docs)
    assert all(after[path] == before[path] for path in before if path.name == "README.md")


# Winners that are there already


def test_a_page_is_checked_and_given_a_model_and_seeds_by_its_winners(line, files, tmp_path, capsys):
    own = files("model_configs", Wide="model: BPR\nembedding_size: 96\n")
    docs = tmp_path / "docs"
    assert cli.main(line("Pop,Wide", own, "--name=first", "--num_samples=3")) == 0
    capsys.readouterr()
    first = read_board(docs / "first/leaderboard.json")
    options = (own, f"--winners={docs / 'first'}", f"--output={tmp_path / 'second'}", "--name=second", "--seeds=3")
    again = [each for each in line("Pop,Wide,BPR", *options) if not each.startswith("--num_samples")]
    assert cli.main(again) == 0
    out = capsys.readouterr().out
    assert "Pop was tuned before" in out and "Wide was tuned before" in out and "BPR has no search space" in out
    second = read_board(docs / "second/leaderboard.json")
    assert second.num_samples == 3 and second.seeds == [2020, 2021, 2022]  # the budget is that of the page
    assert {entry.label for entry in second.entries} == {"Pop", "Wide", "BPR"}
    before, after = ({each.label: each for each in board.entries} for board in (first, second))
    assert after["Wide"].tuning == before["Wide"].tuning and after["Wide"].own == {"embedding_size": 96}
    assert (before["Wide"].runs, after["Wide"].runs) == (2, 3)
    text = (docs / "second/README.md").read_text()
    assert str(tmp_path) not in text and f"which were found by:\n\n    {first.command}\n" in text
    assert second.tuned_by == first.command


def test_winners_of_something_else_are_refused(line, files, refused, tmp_path, capsys):
    files("own", BPR="embedding_size: 8")
    files("spaces", BPR="embedding_size: {choice: [8, 16]}")
    assert cli.main(line("Pop,BPR")) == 0
    capsys.readouterr()
    winners, other = f"--winners={tmp_path / 'docs/toy'}", f"--output={tmp_path / 'other'}"
    for models, given, pattern in (
        ("Pop", "--num_samples=9", r"num_samples: that page was made with 2, and this would be with 9: .*tuned anew"),
        ("Pop", "--cpu_minutes=5", r"cpu_minutes: that page was made with 10, and this would be with 5"),
        ("Pop", "--protocol=holdout_82", r"protocol: .* with leave_one_out, and this would be with holdout_82"),
        ("Pop", "--valid_metric=MRR@10", r"valid_metric: that page was made without it, and this would be with MRR@10"),
        ("Pop", "--name=toy", r"the page there would be written over, without BPR: --name=NAME"),
        ("BPR", f"--model_configs={tmp_path / 'own'}", r"BPR .*there, and {'embedding_size': 8} here.*its command"),
        ("BPR", f"--spaces={tmp_path / 'spaces'}", r"BPR was tuned as something else: nothing was searched"),
    ):
        name = [] if given == "--name=toy" else ["--name=new"]
        refused(line(models, winners, other, given, *name), pattern)
    refused(line("Pop", f"--winners={tmp_path}", other), "there is no leaderboard.json in it")
    page = tmp_path / "docs/toy/leaderboard.json"
    sound = json.loads(page.read_text())
    for damage, pattern in (
        ({"tuning": {"params": [1]}}, r"toy/leaderboard.json .*make it again"),
        ({"tuning": {"score": "x"}}, r"toy/leaderboard.json .*make it again"),
        ({"label": 3}, r"toy/leaderboard.json .*make it again"),
        ({"model": "evil:Evil"}, r"was tuned as something else: it is evil:Evil there"),
        ({"tuning": {"params": {"model": "evil:Evil"}}}, r"has model there, which was not searched"),
        ({"tuning": {"params": {"metrics": ["evil:Evil"]}}}, r"has metrics there, which was not searched"),
    ):
        entries = [{**entry, **damage} for entry in sound["entries"]]
        page.write_text(json.dumps({**sound, "entries": entries}))
        refused(line("Pop,BPR", winners, other, "--name=new"), pattern)
    assert not (tmp_path / "other").exists()


# Bad input


@pytest.mark.parametrize(
    "models, given, pattern",
    [
        ("", [], "--models needs a value"),
        ("Pop,Popp", [], "Popp"),
        ("Pop,mine", [], "mine.*needs a file with `model: NAME`"),
        ("Pop", ["--num_samples=0"], "--num_samples must be a whole number of at least 1"),
        ("Pop", ["--cpu_minutes=0"], "--cpu_minutes must be a number of minutes above 0"),
        ("Pop", ["--cpu_minute=1"], "cpu_minute"),
        ("Pop", ["--scheduler=pbt"], "--scheduler must be asha or none"),
        ("Pop", ["--seeds=0"], "--seeds must be"),
        ("Pop", ["--tie_orders=1"], "--tie_orders must be"),
        ("Pop", ["--baseline=SASRec"], "--baseline=SASRec is not among --models=Pop"),
        ("Pop", ["--spaces=nowhere"], "--spaces=nowhere: there is no such folder"),
        ("Pop", ["--model_configs=nowhere"], "--model_configs=nowhere: there is no such folder"),
        ("Pop", ["--name=a/b"], "--name=a/b cannot be one"),
        ("Pop", ["--model=BPR"], "--model is not for leaderboard"),
        ("Pop", ["--dataset=nowhere"], "there is no data set 'nowhere'"),
        ("DreamRec,Pop", ["--learning_rate=0.1"], "DreamRec: learning_rate: given for all trials, and searched"),
    ],
)  # fmt: skip
def test_bad_options_are_one_message_and_leave_nothing(line, refused, tmp_path, models, given, pattern):
    words = [each for each in line(models, *given) if not each.startswith("--timesteps")]
    refused(words, pattern)
    assert not (tmp_path / "board").exists() and not (tmp_path / "docs").exists()


@pytest.mark.parametrize(
    "text, own, pattern",
    [
        ("dropout_prob: {choice: [0.1, 0.2]}", "", r"SASRec: unknown key 'dropout_prob' .*spaces/SASRec\.yaml"),
        ("n_layers: {choice: [1, 1000]}", "", r"SASRec: n_layers must be .*got 1000 .*spaces/SASRec\.yaml"),
        ("seed: {choice: [1, 2]}", "", r"spaces/SASRec\.yaml is for SASRec alone and has seed, which all models share"),
        ("n_layers: {choice: [1, 2]}", "n_layers: 1", "SASRec: n_layers: given for all trials, and searched in"),
        ("n_layers: 1", "", "nothing is searched in"),
    ],
)
def test_a_space_that_a_model_cannot_have_is_told_before_any_trial(line, files, refused, tmp_path, text, own, pattern):
    given = [files("spaces", SASRec=text), *([files("model_configs", SASRec=own)] if own else [])]
    refused(line("SASRec,Pop", *given), pattern)
    assert not (tmp_path / "board").exists()


def test_a_folder_with_something_else_in_it_is_refused(line, refused, tmp_path):
    (tmp_path / "board").mkdir()
    (tmp_path / "board/notes.txt").write_text("mine")
    refused(line("Pop"), "no leaderboard lies in it: name another --output")
    assert [path.name for path in (tmp_path / "board").iterdir()] == ["notes.txt"]


def test_pages_need_a_folder_and_no_models(refused, tmp_path):
    refused(["leaderboard", "--pages", f"--docs={tmp_path / 'none'}"], "there are no pages in")
    refused(["leaderboard", "--pages", "--models=Pop"], "leaderboard --pages has no option --models")


def test_the_help_names_every_option(capsys):
    from recbole_gen.leaderboard import command

    assert cli.main(["leaderboard", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{option}" in out for option in {**command.OPTIONS, **command.PAGES_OPTIONS})


# With searches


def search_here(sweep: Sweep, points: list[dict], *_) -> None:
    """The trials of a search that have not ended, one after the other in this process, without Ray."""
    for number, point in enumerate(points):
        if not (sweep.trial_folder(number) / "trial.json").exists():
            state.write_new_trial(sweep, number, {"params": point})
    for number in range(len(points)):
        trial.run_trial({"number": number}, sweep, cluster.WorkingEnvironment.current(), has_gpu=False)


@pytest.fixture
def broken(custom, tmp_path):
    """The name of a model of the user's own that cannot be trained."""
    text = "import custom\n\n\nclass Broken(custom.Custom):\n    def calculate_loss(self, interaction):\n"
    (tmp_path / "own_models/broken.py").write_text(text + "        raise KeyError('its mistake')\n")
    (tmp_path / "own_models/Broken.yaml").write_text("width: 4\n")
    return "broken:Broken"


@pytest.mark.xdist_group("ray")
def test_winners_are_those_of_validation_and_nothing_is_done_twice(
    two_cores, broken, line, files, tmp_path, monkeypatch, capsys
):
    board, docs = tmp_path / "board", tmp_path / "docs/toy"
    spaces = files("spaces", DreamRec=SPACE, **{"broken.Broken": "width: {choice: [4, 8]}\n"})
    own = files("model_configs", DreamRec="hidden_size: 16\ntimesteps: 10\nddim_stride: 5\n")
    given = line(f"DreamRec,{broken},Pop", spaces, own, "--scheduler=none", "--num_samples=1")
    assert cli.main(given) == 1
    out = capsys.readouterr().out
    assert "FAILED: no trial of broken:Broken came to a validation score (trials 0, 1: KeyError: 'its mistake'" in out
    assert "start its search anew" in out and "[1/4] DreamRec, seed 2020" in out
    trials = state.read_trials(board / "sweeps/DreamRec")
    best = state.best_trial(trials, bigger=True)
    winner = {"model": "DreamRec", "hidden_size": 16, "timesteps": 10, "ddim_stride": 5, **best["params"]}
    assert yaml.safe_load((board / "models/DreamRec.yaml").read_text()) == winner
    assert not any(read(path).get("test_result") for path in (board / "sweeps").rglob("result.json"))
    runs = {path.parent.name: read(path) for path in (board / "comparison/runs").glob("*/result.json")}
    assert runs.keys() == {"DreamRec-2020", "DreamRec-2021", "Pop-2020", "Pop-2021"}
    assert runs["DreamRec-2020"]["config"].items() >= winner.items()
    assert runs["DreamRec-2020"]["best_valid_score"] == best["score"]  # the trial's own run, made again

    found = read_board(docs / "leaderboard.json")
    entry = next(entry for entry in found.entries if entry.label == "DreamRec")
    assert (entry.tuning.number, entry.tuning.params, entry.tuning.wanted) == (best["number"], best["params"], 2)
    assert entry.tuning.trials == {"finished": 2} and entry.train_pairs == "all"
    assert entry.tuning.cpu_seconds == pytest.approx(sum(trial["cpu_seconds"] for trial in trials), abs=0.02)
    assert "no trial of broken:Broken" in found.failed[broken] and "no trial of" in (docs / "README.md").read_text()
    assert "its defaults and one sample of its space" in (docs / "README.md").read_text()
    texts = [path.read_text() for path in docs.iterdir() if path.suffix in (".md", ".html", ".json", ".csv", ".tex")]
    assert len(texts) > 5 and not any(str(board) in text for text in texts)  # nobody else has that folder
    assert (docs / "models/DreamRec.yaml").read_text() == (board / "models/DreamRec.yaml").read_text()
    assert len(trials) == 2  # the defaults, and no multiple for its grid: all models have the same budget
    defaults = yaml.safe_load((PROPERTIES / "model/DreamRec.yaml").read_text())
    assert trials[0]["params"] == {key: defaults[key] for key in ("learning_rate", "guidance_scale")}
    assert read_space(docs / "spaces/DreamRec.yaml") == read_space(tmp_path / "spaces/DreamRec.yaml").without_grid()

    before = kept(board / "sweeps", board / "comparison/runs")
    assert cli.main(given) == 1
    assert "tuning" not in capsys.readouterr().out and kept(board / "sweeps", board / "comparison/runs") == before

    # The winners of its page need no search, and give the same numbers.
    again = line("DreamRec,Pop", spaces, own, "--scheduler=none", f"--winners={docs}", f"--output={tmp_path / 'again'}")
    again = [each for each in again if each != "--num_samples=2"]  # the budget is that of the page
    assert cli.main([*again, "--name=again"]) == 0
    assert "DreamRec was tuned before" in (out := capsys.readouterr().out) and "tuning DreamRec" not in out
    taken = next(e for e in read_board(tmp_path / "docs/again/leaderboard.json").entries if e.label == "DreamRec")
    assert (taken.tuning, taken.scores["Hit@10"].mean) == (entry.tuning, entry.scores["Hit@10"].mean)
    for file in ("models/DreamRec.yaml", "spaces/DreamRec.yaml"):
        assert (tmp_path / "docs/again" / file).read_text() == (docs / file).read_text()

    # From here on it matters which searches are made, not how.
    monkeypatch.setattr(tune, "_run_trials", search_here)
    monkeypatch.setattr(trial, "_report_to_scheduler", lambda *_: None)

    # A larger budget goes on; without the model that fails the rest is whole.
    assert cli.main(line("DreamRec,Pop", spaces, own, "--scheduler=none", "--num_samples=2")) == 0
    assert "tuning DreamRec" in capsys.readouterr().out
    after = state.read_trials(board / "sweeps/DreamRec")
    assert after[:2] == trials and len(after) == 3

    # What decides the trials' numbers starts them anew.
    assert cli.main(line("DreamRec,Pop", spaces, own, "--scheduler=none", "--epochs=2", "--num_samples=1")) == 0
    out = capsys.readouterr().out
    assert "DreamRec: num_samples was 2 and is 1: it is tuned anew" in out
    assert len(state.read_trials(board / "sweeps/DreamRec.old1")) == 3
    counts = {entry.label: entry.tuning.trials for entry in read_board(docs / "leaderboard.json").entries}
    assert counts == {"DreamRec": {"finished": 2}, "Pop": {}}

    # A damaged sweep starts anew, too, and stands in the way of no other model's.
    (board / "sweeps/DreamRec/sweep.json").write_text('{"values"')
    assert cli.main(line("DreamRec,Pop", spaces, own, "--scheduler=none", "--epochs=2", "--num_samples=1")) == 0
    assert "DreamRec: sweep.json in the folder, or the space beside it, is damaged: it is tuned anew" in (
        capsys.readouterr().out
    )
    assert (board / "sweeps/DreamRec.old2/sweep.json").read_text() == '{"values"'


def read(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("verb", ["compare", "leaderboard"])
def test_a_slip_in_models_is_answered_with_it(verb, refused):
    refused([verb, "--modles=SASRec,Pop", "--dataset=ml-100k"], "needs --models=NAME", "mean --models by --modles")
