"""The quick door: what needs no model is answered before anything large is imported. No timing: see benchmarks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_gen
from recbole_gen import cli

LARGE = ("torch", "ray", "pandas", "numpy", "recbole", "pyarrow", "scipy")
ANSWER = f"""
import sys
from recbole_gen import cli
code = cli.main(sys.argv[1:])
found = [name for name in {LARGE} if name in sys.modules]
print(f"code {{code}}; imported: {{', '.join(found)}}", file=sys.stderr)
"""
LIGHT = {  # command -> exit code
    "--help": 0, "--version": 0, "models --help": 0, "datasets --help": 0, "models": 0, "models SASRec": 0,
    "models recbole.DiffRec": 0,
    "models SASRek": 2, "models --kind=ours": 2, "datasets --path=x": 2, "datasets --data_path=nowhere": 2, "tunee": 2,
    "--model=DreamRek --dataset=ml-100k": 2, "--model=DreamRec --dataset=ml-100k --lerning_rate=0.1": 2,
    "run --model=BPR --dataset=ml-100k --kl_weight=1": 2, "--model=BPR --dataset=ml-100k --protocol=leave_one": 2,
    "--paper=nobody": 2, "--model=BPR --dataset=ml-100k --config_files=nowhere.yaml": 2, "--resume=nowhere": 2,
    "--model=BPR --dataset=ml-100k --lerning_rate=0.1 --print-config": 2, "epochs=3": 2,
    "datasets": 0, "models DreamRec": 0, "models nobody": 2, "prepare": 0, "prepare nothing": 2, "plot": 0,
    "prepare ml-100k --text_encoder=nowhere --output=x": 2, "prepare ml-100k --text_encoder=x --text_colums=y": 2,
    "plot toy": 2, "plot tsne --help": 0, "plot tsne --rnus=x": 2, "recommend --histores=x": 2, "export --out=x": 2,
    "serve --prot=1": 2, "tokenize --item_vectors=x --output=y --codes=1": 2, "tokenize --item_vector=x": 2,
    "tune --model=DreamRec --dataset=ml-100k --num_sample=3": 2, "tune --model=DreamRek --dataset=ml-100k": 2,
    "tune --model=DreamRec --dataset=ml-100k --lerning_rate=0.1": 2, "tune --resume=nowhere": 2,
    "compare --models=Pop,DreamRek --dataset=ml-100k": 2, "compare --models=Pop,BPR --dataset=ml-100k --topq=5": 2,
    "compare --models=Pop --dataset=ml-100k --sedes=3": 2, "reproduce": 0, "reproduce nothing": 2,
    "reproduce acvae-ml-1m --protocol=period": 2, "reproduce acvae-ml-1m --hiden_size=3": 2,
    "reproduce acvae-ml-1m --topk=[10]": 2, "leaderboard --models=Pop,DreamRek --dataset=ml-100k": 2,
    "leaderboard --models=Pop --dataset=ml-100k --cpu_minutes=0": 2,
    "leaderboard --models=Pop --dataset=ml-100k --spaces=nowhere": 2, "leaderboard --pages --docs=nowhere": 2,
    "leaderboard --models=Pop --dataset=ml-100k --sedes=3": 2,
}  # fmt: skip
LIGHT |= {f"{verb} --help": 0 for verb in cli.VERBS}


@pytest.mark.parametrize("command", LIGHT)
def test_nothing_large_is_imported(command, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", ANSWER, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(recbole_gen.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    *_, last = process.stderr.splitlines()
    assert last == f"code {LIGHT[command]}; imported: ", process.stderr
    assert bool(process.stdout) == (LIGHT[command] == 0)


@pytest.mark.parametrize("before", [[], ["--model=SASRec", "--dataset=ml-100k"], ["tune"]])
def test_the_version_tells_what_a_report_of_a_fault_needs(before, capsys):
    assert cli.main([*before, "--version"]) == 0
    words = capsys.readouterr().out
    for name in ("recbole_gen", "recbole", "torch", "ray", "python"):
        assert re.search(rf"\b{name} \d+\.\d+", words), name


def test_a_mistyped_version_is_named(capsys):
    assert cli.main(["--model=SASRec", "--dataset=ml-100k", "--verison"]) == 2
    assert "did you mean 'version'?" in capsys.readouterr().err
