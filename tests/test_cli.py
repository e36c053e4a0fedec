"""Verbs of the command line: which there are, and what an unknown one is told."""

import os
import shlex
import subprocess
import sys

import pytest

from recbole_gen import cli
from recbole_gen.errors import quoted_option


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_help(verb, capsys):
    assert cli.main([verb, "--help"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("usage: recbole-gen") and verb in out.splitlines()[0] and error == ""
    assert f"recbole-gen {verb}" in cli.USAGE or f"| {verb}" in cli.USAGE


@pytest.mark.parametrize(
    "line",
    [
        "tune --model=SASRec --help", "compare --models=Pop --epochs=3 -h", "reproduce acvae-ml-1m --help",
        "reproduce --pages --help", "plot tsne --runs=x --help", "prepare ml-100k --as=pasrec --help",
        "recommend --checkpoint=x --help", "export x --help", "serve --port 1 -h", "models SASRec --help",
        "datasets --help ml-100k", "run --model=SASRec --help", "--model=SASRec --nonsense=1 --help",
    ],
)  # fmt: skip
def test_help_is_given_wherever_it_is_asked_for(line, capsys):
    verb, *_ = line.removeprefix("--model=SASRec ").split()
    assert cli.main(line.split()) == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"usage: recbole-gen {'[run]' if verb in ('run', '--nonsense=1') else verb}") and error == ""


@pytest.mark.parametrize(
    ("line", "near"),
    [
        ("tune --model=SASRec --dataset=ml-100k --num_smaples=3", "'num_samples'"),
        ("tune --model=SASRec --dataset=ml-100k --serach=optuna", "'searcher'"),
        ("compare --models=Pop --dataset=ml-100k --sedes=3", "'seeds'"),
        ("compare --model=Pop --dataset=ml-100k", "--models"),
        ("reproduce --quik", "--quick"), ("reproduce --page", "--pages"), ("reproduce acvae-ml-1m --quik", "'quick'"),
        ("reproduce acvae-ml-1m --sedes=3", "'seeds'"), ("reproduce acvae-ml-1m --laten_size=3", "'latent_size'"),
        ("plot toi --rnu=x", "--run"), ("prepare ml-100k --ass=pasrec", "--as"),
        ("recommend --chekpoint=x", "--checkpoint"), ("export --ouput=x", "--output"), ("serve --prot=1", "--port"),
        ("tokenize --item_vectors=x --outptu=y", "--output"),
        ("datasets --data_pth=x", "--data_path"), ("models --hepl", "--help"),
        ("--model=Pop --dataset=ml-100k --print-confg", "'print-config'"),
    ],
)  # fmt: skip
def test_a_misspelt_option_is_answered_with_the_nearest(line, near, refused):
    first, *_ = refused(line.split()).splitlines()
    assert f"did you mean {near}?" in first


@pytest.mark.parametrize(
    "line",
    [
        "tune --model=SASRec --dataset=ml-100k --output=", "tune --resume=", "compare --models= --dataset=ml-100k",
        "compare --models=Pop --dataset=ml-100k --baseline=", "reproduce acvae-ml-1m --baselines=",
        "reproduce acvae-ml-1m --docs=", "reproduce --docs=", "plot toi --run=", "plot toi --run",
        "prepare ml-100k --as=", "recommend --checkpoint=", "export --checkpoint=x --output=", "serve --checkpoint=",
        "tokenize --item_vectors=", "tokenize --item_vectors=x --output=",
        "datasets --data_path=", "--model=SASRec --dataset=ml-100k --resume=",
    ],
)  # fmt: skip
def test_an_option_without_its_value_is_not_taken_for_its_default(line, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(line.split(), r"--\w+ needs (a value|the folder)").count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_name_stands_behind_the_verb(refused):
    refused(["models", "SASRec", "DiffRec"], "'DiffRec' is not of the form --key=value; a name stands right behind")
    refused(["plot", "--run=x", "toi"], "A figure stands right behind the verb: toi, tsne")


@pytest.mark.parametrize("line", ["reproduce dreamrec-zhihu", "compare --models=Pop", "tune --model=Pop", "prepare"])
def test_print_config_is_for_a_single_run(refused, line):
    refused([*line.split(), "--print-config"], f"not for {line.split()[0]}: recbole-gen --model=NAME .*--paper=NAME")


def test_print_config_takes_no_value(refused):
    refused(["--model=Pop", "--dataset=ml-100k", "--print-config=yes"], "--print-config takes no value")


def test_run_is_the_verb_where_none_is_named(arguments, refused):
    refused(["run", *arguments("--model=SASRecc", model="SASRec")], "SASRec")
    refused(arguments("--model=SASRecc", model="SASRec"), "Did you mean")


def test_an_unknown_verb_names_the_nearest(refused):
    refused(["tunee", "--model=SASRec"], "there is no verb 'tunee'", "Did you mean tune", "models, datasets")


@pytest.mark.parametrize(
    ("value", "said"),
    [("saved/x", "--resume=saved/x"), ("my runs/x", "'--resume=my runs/x'"), ("it's", "'--resume=it'\"'\"'s'")],
)
def test_a_suggested_option_can_be_pasted_into_a_shell(value, said):
    assert quoted_option("resume", value) == said and shlex.split(said) == [f"--resume={value}"]


@pytest.mark.parametrize(
    "line", [["models"], ["datasets"], ["reproduce"], ["--help"], ["tune", "--help"]], ids=" ".join
)
def test_a_reader_that_has_seen_enough_is_no_error(line):
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from recbole_gen import cli; sys.exit(cli.main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *line], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
