"""`run` carries a configuration to a result; the command line, sweeps, comparisons and tests all call it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import colorlog
import torch
from recbole.utils import EvaluatorType, init_seed, set_color
from tabulate import tabulate

from recbole_gen import __version__, checkpoint, compat, distributed
from recbole_gen.config.config import ROOT, Config, model_path
from recbole_gen.config.layers import merge_layers, read_user_layers
from recbole_gen.data import cache
from recbole_gen.data.loaders import create_loaders, history_sizes
from recbole_gen.data.rows import training_counts
from recbole_gen.errors import UserError
from recbole_gen.evaluation import calibration
from recbole_gen.evaluation.diagnostics import Diagnostics
from recbole_gen.evaluation.ranking import TASKS
from recbole_gen.files import write_json
from recbole_gen.prepare.missing_dataset import with_data
from recbole_gen.training.state import vocabulary_of
from recbole_gen.training.trainer import Epoch, Trainer, create_trainer

PACKAGES = ("recbole", "torch", "numpy", "pandas", "scipy")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run, a sweep or a comparison; the message says what is kept and how to go on."""


def _interrupted(run_dir: Path) -> Interrupted:
    last = run_dir / "last.pth"
    if last.exists():
        epochs = checkpoint.load(last)["next_epoch"]
        return Interrupted(f"stopped by Ctrl-C; {epochs} finished epoch(s) are kept: go on with --resume={run_dir}")
    return Interrupted("stopped by Ctrl-C; no epoch was finished yet, so there is nothing to go on with")


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
    run_dir: str | Path | None = None,
    test: bool = True,
    on_epoch: Callable[[Epoch], None] | None = None,
    quiet: bool = False,
    data_cache: str | Path | None = None,
) -> dict[str, Any]:
    """Train a model, test its best epoch, and leave everything of the run in one folder.

    The first arguments are those of `Config`. A data set that is not there is fetched, if it is one that can be. With
    a `resume` key, the run in that folder goes on with its own configuration under the values given here. Returns the
    content of result.json: metrics, diagnostics, costs, versions, `run_dir`.

    Args:
        run_dir: the run's folder; by default a new one in checkpoint_dir, or that of the run that goes on.
        test: whether to test the best epoch; a search for hyper-parameters must not look.
        on_epoch: called after every epoch, once its checkpoints are written.
        quiet: whether the log goes to run.log alone, and only warnings to the terminal.
        data_cache: a folder of this machine in which runs share the data set that they read, see `data.cache`; wins
            over the key of that name.

    Raises UserError for bad input, before any long work where it can be known by then.
    """
    config, resume_from = with_data(partial(configure, model, dataset, config_file_list, config_dict, argv))
    if config["nproc"] > 1 and not distributed.is_launched():
        if on_epoch:
            raise UserError("a run that a sweep watches has one process: use nproc: 1")
        arguments = (model, dataset, config_file_list, config_dict, list(argv), run_dir, test, None, quiet, data_cache)
        return _spawn(config["nproc"], arguments)
    distributed.init_process_group(config["device"])
    try:
        if run_dir:
            run_dir = _made(Path(run_dir).absolute())
        else:
            run_dir = resume_from.parent if resume_from else _agreed_run_dir(config)
        config["checkpoint_dir"] = str(run_dir)
        log = _log_to(run_dir / "run.log", config["state"], quiet)
        with log if distributed.is_main_process() else contextlib.nullcontext():
            try:
                return _run(config, run_dir, resume_from, test, on_epoch, data_cache)
            except KeyboardInterrupt:
                raise _interrupted(run_dir) from None
            except Exception as error:
                logging.getLogger().debug("the run failed", exc_info=error)
                raise
    finally:
        distributed.destroy_process_group()


def _agreed_run_dir(config: Config) -> Path:
    return Path(
        distributed.broadcast_object(
            str(_new_run_dir(config)) if distributed.is_main_process() else None, config["device"]
        )
    )


def _spawn(nproc: int, arguments: tuple) -> dict[str, Any]:
    """`run` in several processes of this machine; returns what that of the first one returns."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder) / "outcome.json"
        try:
            torch.multiprocessing.spawn(_work, (nproc, port, str(outcome), arguments), nproc)
        except torch.multiprocessing.ProcessExitedException as error:
            if not outcome.exists():
                raise UserError(f"one of {nproc} processes was killed ({error}); see the run's log") from None
        told = json.loads(outcome.read_text(encoding="utf-8"))
    if "error" in told:
        raise UserError(told["error"])
    return told["result"]


def _work(rank: int, nproc: int, port: int, outcome: str, arguments: tuple) -> None:
    """One of the processes of `_spawn`; the first to have a result, or a user's mistake to report, writes it down."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(nproc), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    told: dict[str, Any]
    try:
        told = {"result": run(*arguments)}
    except UserError as error:
        told = {"error": str(error)}
    if rank == 0 or "error" in told:
        write_json(Path(outcome), told)
    if "error" in told:
        raise SystemExit(2)  # ends the others, which would wait for this one


def _run(
    config: Config, run_dir: Path, resume_from: Path | None, test: bool, on_epoch, data_cache: str | Path | None
) -> dict[str, Any]:
    log = logging.getLogger().info
    whose = "RecBole" if config.is_recbole_model else config.model_class.__module__
    name = set_color(config["model"], "pink")
    log(f"{name} (of {whose}) on {config['dataset']}, protocol {config['protocol']}; all of it in {run_dir}")
    torch.set_num_threads(config["num_threads"] or free_cores())
    if config["device"].type == "cpu":
        compat.keep_freed_memory()
    _forget_peak_memory()
    started = time.time()

    init_seed(config["seed"], config["reproducibility"])
    try:
        data, parts = cache.load(config, data_cache)
    except NotImplementedError as error:  # RecBole's answer to an option that it does not know
        raise UserError(str(error)) from error
    if config["eval_type"] == EvaluatorType.RANKING and max(config["topk"]) >= data.item_num:
        raise UserError(f"topk {config['topk']} needs more than the {data.item_num - 1} items there are")
    train_data, valid_data, test_data = create_loaders(config, data, parts)
    init_seed(config["seed"], config["reproducibility"])
    model = create_model(config, train_data._dataset).to(config["device"])
    log(model)
    trainer = create_trainer(config, model)
    trainer.on_epoch = on_epoch
    if resume_from:
        trainer.resume(resume_from, vocabulary_of(data))
    if distributed.is_main_process():
        (run_dir / "config.yaml").write_text(config.describe() + "\n", encoding="utf-8")
    loaded = time.time()

    best_score, best_result = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
    trained = time.time()
    test_result, diagnostics = None, None
    if test:
        test_result, diagnostics = _test(config, trainer, data, train_data, test_data, run_dir)
    result = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "run_dir": str(run_dir),
        "best_valid_score": float(best_score) if best_result else None,
        "valid_metric": config["valid_metric"],
        "best_epoch": trainer.best_epoch,
        "epochs": len(trainer.train_loss_dict),
        "best_valid_result": best_result,
        "test_result": test_result,
        "diagnostics": diagnostics,
        "scoring": trainer.scoring if test_result else None,
        "train_loss": list(trainer.train_loss_dict.values()),
        "seconds": {
            "load": round(loaded - started, 2),
            "train": round(trainer.train_seconds or trained - loaded, 2),
            "test": round(time.time() - trained, 2),
        },
        "peak_memory_mib": peak_memory(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "device": str(config["device"]),
        "seed": config["seed"],
        "versions": {
            "recbole_gen": __version__,
            **{name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
        "git_commit": git_commit(),
        "config": config.settings(),
    }
    if distributed.is_main_process():
        if test and getattr(model, "uses_time", False) and len(valid_data) and len(test_data):
            measured = calibration.measure(model.eval(), train_data._dataset.inter_feat, valid_data, test_data)
            if measured:
                write_json(run_dir / calibration.FILE, measured)
        write_json(run_dir / "result.json", result)
        log("\n" + report(result))
    trainer.tensorboard.close()
    return result


def create_model(config: Config, dataset) -> torch.nn.Module:
    """The model of a configuration, new. Raises UserError if it does not accept that, or lacks a package."""
    try:
        return config.model_class(config, dataset)
    except ValueError as error:
        if not config.is_recbole_model:
            raise  # of ours and the user's models only a UserError blames the configuration
        raise UserError(f"{config['model']} does not accept its configuration: {error}") from error
    except ImportError as error:
        if not config.is_recbole_model:
            raise
        raise UserError(f"RecBole's model {config['model']} needs a package that is not installed: {error}") from error


def _test(config, trainer: Trainer, dataset, train_data, test_data, run_dir: Path):
    """Metrics of the best epoch on the test rows, with diagnostics where the model ranks all items."""
    if not len(test_data):
        return None, None
    has_best = Path(trainer.saved_model_file).exists()  # S3Rec's pre-training stage leaves none
    ranks_all = config["eval_type"] == EvaluatorType.RANKING and config["eval_args"]["mode"]["test"] == "full"
    by_length = config["group_metrics"] == "length"
    if not (ranks_all and (config["diagnostics"] or config["save_ranks"] or by_length)):
        return trainer.evaluate(test_data, load_best_model=has_best, show_progress=config["show_progress"]), None
    counts = training_counts(train_data._dataset.inter_feat, dataset.iid_field, dataset.item_num)
    diagnostics = Diagnostics(config, counts)
    result = trainer.evaluate(
        test_data, load_best_model=has_best, show_progress=config["show_progress"], diagnostics=diagnostics
    )
    if not distributed.is_main_process():
        return result, None
    if config["save_ranks"]:
        diagnostics.ranks(dataset).to_csv(run_dir / "ranks.test.tsv", sep="\t", index=False)
    if not (config["diagnostics"] or by_length):
        return result, None
    return result, diagnostics.result(trainer.model, history_sizes(test_data, dataset) if by_length else None)


@dataclass(frozen=True)
class Loaded:
    """A finished run: its configuration, its model in evaluation mode, and the loaders of its three parts."""

    config: Config
    model: Any
    train: Any
    valid: Any
    test: Any


def best_checkpoint(folder: str | Path) -> Path:
    """The checkpoint of the best epoch of the run in ``folder``. Raises UserError if there is no such run."""
    path = Path(folder) / "best.pth"
    if not path.exists():
        raise UserError(
            f"there is no run in {folder}: it has no best.pth. A run's folder is in the last line it prints"
        )
    return path


def load(folder: str | Path) -> Loaded:
    """The model of the run in ``folder``, with the weights of its best epoch, and its data, split as it was.

    Raises UserError if there is no such run, or its data set is not here or not the one that it was trained on.
    """
    path = best_checkpoint(folder)
    content = checkpoint.load(path)
    config = Config(stored=settings_of(content))
    init_seed(config["seed"], config["reproducibility"])
    data, parts = cache.load(config)
    train, valid, test = create_loaders(config, data, parts)
    model = create_model(config, train._dataset).to(config["device"])
    checkpoint.require_match(path, content, config["model"], vocabulary_of(data))
    checkpoint.load_weights(path, content, model)
    return Loaded(config, model.eval(), train, valid, test)


def settings_of(content: dict[str, Any]) -> dict[str, Any]:
    """The configuration that a checkpoint's run ended up with; what chose its layers has had its effect."""
    return {key: value for key, value in content["config"].items() if key not in ("paper", "resume")}


def configure(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
) -> tuple[Config, Path | None]:
    """The configuration that `run` would use, and the checkpoint it would go on from (with a `resume` key)."""
    given = merge_layers(read_user_layers(config_file_list, config_dict, argv))
    folder = given.get("resume")
    if not folder:
        return Config(model, dataset, config_file_list, config_dict, argv), None
    if folder is True:
        raise UserError("--resume needs the folder of the run that is to go on")
    folder = str(folder)
    path = Path(folder) / "last.pth" if Path(folder).is_dir() else Path(folder)
    if not path.exists():
        raise UserError(f"--resume={folder}: there is no checkpoint {path}; a run has one after its first epoch")
    content = checkpoint.load(path)
    stored = content["config"]
    for key, value in (("model", model), ("dataset", dataset), ("protocol", None)):
        wanted = model_path(value) if isinstance(value, type) else value or given.get(key)
        if wanted and wanted != stored[key]:
            raise checkpoint.CheckpointError(f"{path} is a checkpoint of {key} {stored[key]}, not of {wanted}")
    return Config(model, dataset, config_file_list, config_dict, argv, settings_of(content)), path.resolve()


def free_cores() -> int:
    """Cores that this process may use and nobody else is using: more threads than that make small models slower."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(allowed, round(allowed - busy)))


def _forget_peak_memory() -> None:
    """Let `peak_memory` count from here on: a comparison makes one run after the other in one process."""
    with contextlib.suppress(OSError):  # Linux alone can
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Largest memory of this process since the run began, in MiB: of the process, and on the GPU if there is one."""
    out = {}
    with contextlib.suppress(ImportError):  # there is no such module on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        out["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.max_memory_allocated() >> 20
    return out


def git_commit() -> str | None:
    """Commit of the source tree that runs, with `-dirty` if it has changes; None outside of a git checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def report(result: dict[str, Any]) -> str:
    """Test result and diagnostics as a table for people."""
    test, diagnostics = result["test_result"], result["diagnostics"]
    if not test:
        return "no test result"
    model = result["model"]
    rows: list[list[Any]] = []
    for task, values in _by_task(test).items():
        rows.append([f"{model}, test" + (f", {TASKS[task]}" if task else ""), None, values])
    names = list(dict.fromkeys(name for _, _, values in rows for name in values))
    rows.append([f"{model}, best valid", None, result["best_valid_result"]])
    notes = []
    if diagnostics:
        rows[0][1] = diagnostics["rows"]
        rows.append(["Pop, test", diagnostics["rows"], diagnostics["pop"]])
        trained, lists = diagnostics["trained_items_only"], diagnostics["lists"]
        rows.append([f"{model}, trained items only", trained["rows"], trained["model"]])
        rows.append(["Pop, trained items only", trained["rows"], trained["pop"]])
        groups = [key for key in ("with_history", "without_history") if key in diagnostics]
        if "without_history" in groups:  # else the one row would repeat the first
            for key in groups:
                rows.append([f"{model}, rows {key.replace('_', ' ')}", diagnostics[key]["rows"], diagnostics[key]])
        for name, values in diagnostics.get("groups", {}).items():
            least, most = values["history"]
            rows.append([f"{model}, {name} ({least} to {most} before)", values["rows"], values])
        overlap = "-" if lists["mean_overlap"] is None else f"{lists['mean_overlap']:.2f}"
        hits = "none" if lists["untrained_hit_share"] is None else f"{lists['untrained_hit_share']:.1%}"
        notes.append(
            f"top-{lists['length']} lists: {lists['distinct_items']} distinct items; two lists share {overlap} of "
            f"{lists['length']} on average; {lists['untrained_share']:.1%} of the places go to the "
            f"{lists['untrained_items']} items that never occur in training, and {hits} of the hits"
        )
        if "scene" in diagnostics:
            scene = diagnostics["scene"]
            notes.append(
                f"next scene: {scene['last_again']:.1%} of {scene['rows']} are the last scene again, "
                f"{scene['most_common']:.1%} the most common one"
            )
        if "latent" in diagnostics:
            notes.append("latent: " + ", ".join(f"{k} {v:.3g}" for k, v in diagnostics["latent"].items()))
        if "item_table" in diagnostics:
            notes.append("item table: " + ", ".join(f"{k} {v:.3g}" for k, v in diagnostics["item_table"].items()))
    body = [[title, n, *((values or {}).get(name) for name in names)] for title, n, values in rows]
    table = tabulate(body, headers=["", "rows", *names], floatfmt=".4f", missingval="-")
    seconds = result["seconds"]
    memory = ", ".join(f"{size} MiB ({where})" for where, size in result["peak_memory_mib"].items())
    notes.append(
        f"best epoch {result['best_epoch'] + 1} of {result['epochs']}; load {seconds['load']} s, "
        f"train {seconds['train']} s, test {seconds['test']} s; peak memory {memory}"
    )
    notes.append(f"everything is in {result['run_dir']}")
    return "\n".join([table, *notes])


def _by_task(result: dict[str, float]) -> dict[str, dict[str, float]]:
    """Metrics by the prefix of their names, such as `scene` of scene_recall@5; the run's own have none."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in result.items():
        task, _, metric = name.rpartition("_")
        tasks.setdefault(task, {})[metric] = value
    return tasks


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error}") from None
    return folder


def _new_run_dir(config: Config) -> Path:
    """<checkpoint_dir>/<model>-<dataset>-<time>, made; a number is added if there is one of this second already."""
    name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    base = Path(config["checkpoint_dir"]).absolute()
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                break
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made ({error}): choose another --checkpoint_dir") from None
    raise UserError(f"no folder for the run can be made in {base}")


@contextlib.contextmanager
def _log_to(path: Path, state: str | None, quiet: bool):
    """Send the log of the root logger, which RecBole uses, to the terminal and to the run's file for the duration."""
    root = logging.getLogger()
    level = getattr(logging, str(state or "INFO").upper(), logging.INFO)
    terminal, file = logging.StreamHandler(), logging.FileHandler(path, encoding="utf-8")
    plain = _PlainFormatter("%(asctime)s %(levelname)s  %(message)s")
    colours = {"DEBUG": "cyan", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
    coloured = colorlog.ColoredFormatter(
        "%(log_color)s%(asctime)s %(levelname)s  %(message)s", "%d %b %H:%M", log_colors=colours
    )
    terminal.setFormatter(coloured if sys.stderr.isatty() else plain)
    file.setFormatter(plain)
    if quiet:
        terminal.setLevel(max(level, logging.WARNING))
    before = root.level
    root.setLevel(level)
    for handler in (terminal, file):
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in (terminal, file):
            root.removeHandler(handler)
            handler.close()


class _PlainFormatter(logging.Formatter):
    """Without the colour codes that RecBole puts into its messages."""

    def format(self, record):
        return re.sub(r"\x1B\[[0-?]*[ -/]*[@-~]", "", super().format(record))
