"""Random configurations: how many are refused, and whether any ends in a traceback, a hang or accepted nonsense.

    python benchmarks/random_settings.py [--number=5000] [--seed=0] [--seconds=60] [--gib=6] [--models=BPR,DreamRec]

Each configuration is of one of our models or of some of RecBole's, with one to three of its keys set to odd values: of
another kind, not finite, too small, too large, near to the default, or words of other keys. `Config` refuses it, or it
is run on a tiny log: one epoch, one validation, one test. Counted are `refused` (UserError of `Config`), `refused
later` (UserError of the data, the model or the training), `ran`, and the failures, whose settings are printed:

    traceback       any other exception
    hang            not done after --seconds
    nonsense        accepted, and yet not a finite number, True for a number, or a number for a switch

With the same --seed the same configurations; --first=N begins at number N. Exit code 1 if there is a failure.
"""

import argparse
import collections
import logging
import math
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from recbole_gen import quick_start
from recbole_gen.config.config import Config
from recbole_gen.errors import UserError

SMALL = {
    "DreamRec": {"hidden_size": 8, "timesteps": 10, "ddim_stride": 5},
    "DiffRec": {"hidden_size": 8, "inner_size": 8, "timesteps": 10, "n_seeds": 2},
    "PASRec": {"hidden_size": 8, "timesteps": 10, "ddim_stride": 5},
    "PreferDiff": {"hidden_size": 8, "timesteps": 10, "ddim_stride": 5},
    "ACVAE": {"embedding_size": 8, "rnn_size": 8, "latent_size": 4},
    "DSPnet": {"hidden_size": 8, "scene_size": 8, "n_layers": 1, "SCENE_FIELD": "scene"},
    "SASRecCPR": {"reranker_CAN_NUM": 5},
    **{name: {} for name in (
        "Pop", "BPR", "NeuMF", "LightGCN", "MultiVAE", "CDAE", "EASE", "ItemKNN", "HGN", "SASRec", "GRU4Rec",
        "BERT4Rec", "Caser", "NARM", "SHAN", "STAMP", "FPMC", "CORE", "SimpleX", "NAIS", "recbole.DiffRec",
        "DeepFM", "NextItNet", "SINE", "RepeatNet", "FOSSIL", "HRM", "DMF",
    )},
}  # fmt: skip
ODD = (
    None, True, False, 0, 1, 2, 3, 7, -1, 0.5, 1.5, -0.5, 1e-9, 1e9, 10**9, 10**20, 10**400, float("nan"), float("inf"),
    float("-inf"), "", " ", "x", "None", "nan", "1:30", "017", "0x", "[1", "1e9", "-", "é", [], [0], [1, "a"], [-1.0],
    [[1]], {}, {"a": 1}, {"a": None}, {"inter": "x"}, {"max_norm": -1}, {"max_norm": float("nan")}, {"sample_num": 0},
    {"distribution": "uniform", "sample_num": 10**9}, {"split": {"LS": 1}}, {"split": {"RS": [1, float("nan"), 0]}},
    {"mode": "uni0"}, {"mode": {"valid": 1}}, {"order": None}, {"rating": "[4,9"}, {"rating": "(9,4)"}, {"rating": [3]},
    {"timestamp": "[0,inf)"}, {"rating": 3}, {"rating": True}, "[5,inf", "(3,3)", "[0,5];[a,b]", ["rating"],
    ["nothing"],
)  # fmt: skip
NOT_DRAWN = {"model", "dataset", "resume", "paper", "protocol", "config_file", "MODEL_INPUT_TYPE"}
FORCED = {
    "epochs",
    "nproc",
    "worker",
    "num_threads",
    "checkpoint_dir",
    "data_path",
    "use_gpu",
    "tensorboard",
    "state",
    "data_cache",
}
"""Keys whose value is checked, and then replaced by one with which a run is short and leaves nothing behind."""


class Hang(BaseException):
    """A configuration was not done in its time."""


def write_log(folder: Path) -> None:
    """Data set `tiny`: 40 users walk over 25 items in 5 scenes, 9 steps each, over 90 days."""
    draw = random.Random(0)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float\tscene:token"]
    for user in range(40):
        item = draw.randrange(25)
        for step in range(9):
            time = 1_400_000_000 + 86_400 * (user % 10 + 9 * step)
            lines.append(f"u{user}\ti{item}\t{draw.randint(1, 5)}\t{time}\ts{item % 5}")
            item = (item + 1) % 25 if draw.random() < 0.8 else draw.randrange(25)
    (folder / "tiny").mkdir()
    (folder / "tiny/tiny.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def base_settings(model: str, folder: Path) -> dict:
    """Those of a short run."""
    return {
        "model": model, "dataset": "tiny", "data_path": str(folder), "checkpoint_dir": str(folder / "saved"),
        "use_gpu": False, "num_threads": 1, "epochs": 1, "tensorboard": False, "show_progress": False, "state": "ERROR",
        "data_cache": False,
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp", "scene"]}, "topk": [5], "metrics": ["NDCG"],
        "valid_metric": "NDCG@5" if model != "DeepFM" else "AUC", "MAX_ITEM_LIST_LENGTH": 5, **SMALL[model],
        **({"metrics": ["AUC"], "threshold": {"rating": 3}} if model == "DeepFM" else {}),
    }  # fmt: skip


def near(value, draw: random.Random):
    """A value like the default, and yet another."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, (int, float)):
        return draw.choice([value + 1, value * 2, value / 2, -value, value * 10, value * 1000, str(value), [value]])
    if isinstance(value, str):
        return draw.choice([value.upper(), value.lower(), f"{value}x", [value], value[:-1]])
    if isinstance(value, list):
        return draw.choice([value[:1], value * 2, [], value[::-1], dict.fromkeys(map(str, value)), [*value, None]])
    return draw.choice([{**value, "extra": 1}, dict.fromkeys(value), list(value), dict(list(value.items())[:1])])


def draw_settings(number: int, seed: int, defaults: dict[str, dict], models: list[str]) -> tuple[str, dict]:
    """Model and odd settings of a configuration."""
    draw = random.Random(f"{seed}-{number}")
    model = draw.choice(models)
    values = defaults[model]
    keys = draw.sample(sorted(values.keys() - NOT_DRAWN), draw.choice([1, 1, 2, 3]))
    words = [value for value in values.values() if isinstance(value, str)]
    pools = [lambda key: draw.choice(ODD), lambda key: near(values[key], draw), lambda key: draw.choice(words)]
    return model, {key: draw.choices(pools, [5, 4, 1])[0](key) for key in keys}


def nonsense(drawn: dict, defaults: dict, config: Config) -> list[str]:
    """Settings that nobody can have meant, and that were accepted."""
    found = []
    for key, given in drawn.items():
        default, value = defaults[key], config.final_config_dict.get(key)
        if isinstance(value, float) and not math.isfinite(value):
            found.append(f"{key} is not finite")
        if type(default) in (int, float) and isinstance(given, bool):
            found.append(f"{key} is a switch")
        if isinstance(default, bool) and type(given) in (int, float) and given not in (0, 1):
            found.append(f"{key} is a number")
        if type(default) in (int, float) and type(value) in (int, float) and abs(value) > 1e12:
            found.append(f"{key} is absurd")
    return found


def try_settings(model: str, drawn: dict, defaults: dict, folder: Path, seconds: int) -> tuple[str, str]:
    """What becomes of a configuration, and what is said."""
    given = {**base_settings(model, folder), **drawn}
    signal.alarm(seconds)
    try:
        try:
            config = Config(config_dict=given)
        except UserError as error:
            return "refused", str(error)
        if bad := nonsense(drawn, defaults, config):
            return "nonsense", ", ".join(bad)
        short = {key: value for key, value in base_settings(model, folder).items() if key in FORCED}
        try:
            quick_start.run(config_dict={**given, **short, "nproc": 1, "worker": 0}, run_dir=folder / "run", quiet=True)
        except UserError as error:
            return "refused later", str(error)
        return "ran", ""
    except Hang:
        return "hang", ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "traceback", traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)


def raise_hang(*_):
    raise Hang


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("number", 5000), ("first", 0), ("seed", 0), ("seconds", 60), ("gib", 6)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--models", default=",".join(SMALL))
    parser.add_argument("--verbose", action="store_true", help="print what is said of each configuration")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (args.gib << 30, args.gib << 30))
    signal.signal(signal.SIGALRM, raise_hang)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    models, counts = args.models.split(","), collections.Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder)
        defaults = {model: Config(config_dict=base_settings(model, folder)).settings() for model in models}
        for number in range(args.first, args.first + args.number):
            model, drawn = draw_settings(number, args.seed, defaults, models)
            outcome, said = try_settings(model, drawn, defaults[model], folder, args.seconds)
            counts[outcome] += 1
            if args.verbose or outcome not in ("refused", "refused later", "ran"):
                print(f"{number}: {model} {drawn!r:.300}: {outcome} {said}", flush=True)
    print(", ".join(f"{outcome}: {count}" for outcome, count in sorted(counts.items())))
    return int(any(counts[failure] for failure in ("traceback", "hang", "nonsense")))


if __name__ == "__main__":
    sys.exit(main())
