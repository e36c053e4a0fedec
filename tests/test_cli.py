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
