"""`run` carries a configuration to a result; the command line, sweeps, comparisons and tests all call it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from recbole.utils import EvaluatorType, ModelType, init_seed, set_color

from recbole_gen import checkpoint, compat, distributed
from recbole_gen.config.blame import blaming_settings
from recbole_gen.config.config import Config
from recbole_gen.config.resume import changed_settings, configure, finished_config
from recbole_gen.data import cache
from recbole_gen.data.cold_items import drawn_items
from recbole_gen.data.given_vectors import use_item_vectors
from recbole_gen.data.loaders import create_loaders, history_lengths
from recbole_gen.data.rows import training_item_counts, training_pairs_of_items
from recbole_gen.data.semantic_ids import attach_semantic_ids
from recbole_gen.errors import SharedMistake, UserError, counted, quoted_option
from recbole_gen.evaluation import calibration
from recbole_gen.evaluation.diagnostics import Diagnostics
from recbole_gen.files import CANNOT_WRITE_ERRORS, lock_folder, package_versions, replaced_file, write_json, write_text
from recbole_gen.model.alike_lengths import encode_class_by_length
from recbole_gen.model.dropout import use_fast_dropout
from recbole_gen.model.given_vectors import item_bias, item_table_name, output_layer
from recbole_gen.model.kept_items import OWN_SOFTMAX, leave_out_of_losses
from recbole_gen.model.transitions import TransitionCounts
from recbole_gen.prepare.missing_dataset import with_dataset_fetched
from recbole_gen.training import environment
from recbole_gen.training.processes import run_in_processes
from recbole_gen.training.result_text import describe_result
from recbole_gen.training.run_folder import log_to, make_run_folder, new_run_folder, removed_unless_begun
from recbole_gen.training.state import token_vocabulary
from recbole_gen.training.trainer import EpochResult, Trainer, create_trainer


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a run, a sweep or a comparison; the message says what is kept and how to go on."""


def _interruption_of(run_dir: Path) -> Interrupted:
    last = run_dir / "last.pth"
    if last.exists():
        epochs = checkpoint.load(last)["next_epoch"]
        how = quoted_option("resume", run_dir)
        return Interrupted(f"stopped by Ctrl-C; {counted(epochs, 'finished epoch', 'are')} kept: go on with {how}")
    return Interrupted("stopped by Ctrl-C; no epoch was finished yet, so there is nothing to go on with")


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    argv: Sequence[str] = (),
    run_dir: str | Path | None = None,
    test: bool = True,
    on_epoch: Callable[[EpochResult], None] | None = None,
    quiet: bool | Literal["errors"] = False,
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
        quiet: whether the log goes to run.log alone, and only warnings to the terminal; with "errors" not these either.
        data_cache: a folder of this machine in which runs share the data set that they read, see `data.cache`; wins
            over the key of that name.

    Raises UserError for bad input, before any long work where it can be known by then.
    """
    config, resume_from = with_dataset_fetched(partial(configure, model, dataset, config_file_list, config_dict, argv))
    if config["nproc"] > 1 and not distributed.is_launched():
        if on_epoch:
            raise UserError("a run that a sweep watches has one process: use nproc: 1")
        if resume_from:  # what is known here is named for the other processes
            model, metrics = config.settings()["model"], config.settings()["metrics"]
            config_dict = {"metrics": metrics, **(config_dict or {})}
        arguments = (model, dataset, config_file_list, config_dict, list(argv), run_dir, test, None, quiet, data_cache)
        return run_in_processes(run, config["nproc"], arguments)
    distributed.init_process_group(config["device"])
    try:
        is_new = not (run_dir or resume_from)
        if run_dir:
            run_dir = make_run_folder(Path(run_dir).absolute())
        else:
            run_dir = resume_from.parent if resume_from else _shared_run_folder(config)
        config["checkpoint_dir"] = str(run_dir)
        log = log_to(run_dir / "run.log", config["state"], quiet)
        with contextlib.ExitStack() as stack:
            if distributed.is_main_process():
                if is_new:
                    stack.enter_context(removed_unless_begun(run_dir))
                stack.enter_context(lock_folder(run_dir, "run"))
                stack.enter_context(log)
            try:
                return _train_and_test(config, run_dir, resume_from, test, on_epoch, data_cache)
            except KeyboardInterrupt:
                raise _interruption_of(run_dir) from None
            except OSError as error:
                if error.errno not in CANNOT_WRITE_ERRORS:
                    raise
                begun = (run_dir / "last.pth").exists()
                kept = f"What the run has finished is kept in {run_dir}" if begun else "No epoch was finished"
                cure = f"go on with {quoted_option('resume', run_dir)}" if begun else "run it again"
                raise UserError(
                    f"{error.filename or run_dir} cannot be written ({error.strerror}). {kept}: free some space, and "
                    f"{cure}"
                ) from None
            except Exception as error:
                logging.getLogger().debug("the run failed", exc_info=error)
                raise
    finally:
        distributed.destroy_process_group()


def _shared_run_folder(config: Config) -> Path:
    """A new one, made by the main process; the same in all of them."""
    made = str(new_run_folder(config)) if distributed.is_main_process() else None
    return Path(distributed.broadcast_object(made, config["device"]))


def _train_and_test(
    config: Config, run_dir: Path, resume_from: Path | None, test: bool, on_epoch, data_cache: str | Path | None
) -> dict[str, Any]:
    log = logging.getLogger().info
    whose = "RecBole" if config.is_recbole_model else config.model_class.__module__
    name = set_color(config["model"], "pink")
    log(f"{name} (of {whose}) on {config['dataset']}, protocol {config['protocol']}; all of it in {run_dir}")
    if distributed.is_main_process():
        for line in config.ignored:
            logging.getLogger().warning(line)
        if config.missing_settings:
            log(config.missing_settings_note())
    _set_threads(config, checkpoint.load(resume_from).get("threads") if resume_from else None)
    if config["device"].type == "cpu":
        compat.keep_freed_memory()
    environment.reset_peak_memory()
    started = time.time()

    init_seed(config["seed"], config["reproducibility"])
    with blaming_settings(config, "data"):
        try:
            data, parts = cache.load_dataset(config, data_cache)
        except NotImplementedError as error:  # RecBole's answer to an option that it does not know
            raise UserError(str(error)) from error
    require_enough_items(config, data.item_num)
    tell_certain_hits(config, data.item_num)
    tell_short_lists(config)
    with blaming_settings(config, "data"):
        train_data, valid_data, test_data = create_loaders(config, data, parts)
    init_seed(config["seed"], config["reproducibility"])
    with config.recording_reads() as read:
        model = create_model(config, train_data._dataset).to(config["device"])
    _keep_cold_items_unknown(config, model, data)
    log(model)
    trainer = create_trainer(config, model)
    trainer.on_epoch = on_epoch
    if resume_from:
        try:
            resumed = trainer.resume(resume_from, token_vocabulary(data))
        except checkpoint.WeightsDoNotFit as error:
            raise _naming_what_changed(error, resume_from, config, train_data._dataset) from None
        _tell_what_changed(resumed, config, read)
    if distributed.is_main_process():
        write_text(run_dir / "config.yaml", config.describe() + "\n")
    loaded, cpu_loaded = time.time(), time.process_time()

    test_result, diagnostics = None, None
    with blaming_settings(config, "model"):
        _, best_result = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
        trained, cpu_trained = time.time(), time.process_time()
        if test:
            test_result, diagnostics = _test_best_epoch(config, trainer, data, train_data, test_data, run_dir)
    result = {
        "model": config["model"],
        "dataset": config["dataset"],
        "protocol": config["protocol"],
        "run_dir": str(run_dir),
        "best_valid_score": best_result[config["valid_metric"].lower()] if best_result else None,
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
            "train_cpu": round(trainer.train_cpu_seconds or cpu_trained - cpu_loaded, 2),
            "test": round(time.time() - trained, 2),
        },
        "peak_memory_mib": environment.peak_memory(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "device": str(config["device"]),
        "seed": config["seed"],
        "versions": package_versions(environment.PACKAGES),
        "git_commit": environment.git_commit(),
        "config": config.settings(),
    }
    trainer.tensorboard.close()
    if distributed.is_main_process():
        write_json(run_dir / "result.json", result)
        log("\n" + describe_result(result))
        if test and getattr(model, "uses_time", False) and len(valid_data) and len(test_data):
            _measure_windows(model.eval(), train_data, valid_data, test_data, run_dir / calibration.WINDOWS_FILE)
    return result


def _keep_cold_items_unknown(config: Config, model: torch.nn.Module, dataset) -> None:
    """Leave the items that the key cold_items holds out of a model's loss; told where its code does not allow that, and
    where it has no vectors to rank them by."""
    cold = drawn_items(dataset)
    if cold is None:
        return
    leave_out_of_losses(model, cold.to(config["device"]))
    if distributed.is_main_process():
        for line in _what_cold_items_lack(config, model, cold):
            logging.getLogger().warning(f"cold_items: {line}")


def _what_cold_items_lack(config: Config, model: torch.nn.Module, cold: torch.Tensor) -> Iterator[str]:
    name, number = config["model"], int(cold.sum())
    if config.is_recbole_model and name in OWN_SOFTMAX:
        yield (
            f"the loss of {name} is over all items, by code of its own: it learns that nobody takes the cold ones, "
            f"which a model that never saw them could not know"
        )
    if getattr(model, "has_own_ids", False):
        yield (
            f"the {counted(number, 'cold item', 'have')} semantic IDs that say nothing, since the training rows make "
            f"them: --semantic_ids=FILE has IDs of their vectors, as `tokenize` makes them"
        )
    try:
        item_table_name(model)
    except UserError:
        return  # counts, several tables, or none
    if not config["item_vectors"] or config["item_vectors_use"] == "init":
        yield (
            f"the {counted(number, 'cold item', 'keep')} vectors that nothing has trained: --item_vectors=FILE with "
            f"--item_vectors_use=frozen or adaptor ranks them by given ones"
        )
    elif layer := output_layer(model, len(cold)):
        yield (
            f"{name} scores items by weights of its own, {layer}, which are not the given vectors: those of the "
            f"{counted(number, 'cold item', 'are')} what was drawn"
        )
    elif bias := item_bias(model, len(cold)):
        yield (
            f"{name} learns a number for each item beside its vector, {bias}: those of the "
            f"{counted(number, 'cold item', 'stay')} what they began as"
        )


def require_enough_items(config: Config, item_num: int) -> None:
    """Raise SharedMistake if a metric's cut-off is beyond the items, of which padding is one in ``item_num``."""
    if config["eval_type"] == EvaluatorType.RANKING and max(config["topk"]) >= item_num:
        raise SharedMistake(f"topk {config['topk']} needs more than the {item_num - 1} items there are")


def tell_certain_hits(config: Config, item_num: int) -> None:
    """Warn of cut-offs that take in whole rankings, in which every target is hit; padding is one of ``item_num``."""
    if config["eval_type"] != EvaluatorType.RANKING:
        return
    for mode in dict.fromkeys(config["eval_args"]["mode"].values()):
        ranked = item_num - 1 if mode == "full" else min(item_num - 1, 1 + int(mode[3:]))
        if certain := [k for k in config["topk"] if k >= ranked]:
            logging.getLogger().warning(
                f"topk {certain}: rankings of {ranked} items (eval_args: mode {mode}) have every target among the "
                f"first {ranked}, whatever the model: Hit and Recall say nothing there"
            )


def tell_short_lists(config: Config) -> None:
    """Warn of cut-offs that a model which comes to some items only, TIGER, may have no items for."""
    key = "beam_size" if config["beam_size"] else "exact_top"
    size, modes = config[key], config["eval_args"]["mode"].values()
    if size and "full" in modes and (beyond := [k for k in config["topk"] if k > size]):
        most = "at most" if key == "beam_size" else "for sure"
        logging.getLogger().warning(
            f"topk {beyond}: with {key}: {size} a list has {counted(size, 'item')} {most}, and the metrics there "
            f"are of no more: a larger {key}, or ~ for all items, fills it"
        )
    elif size and "full" in modes and size < (enough := max(config["topk"]) + config["MAX_ITEM_LIST_LENGTH"]):
        masked = next((name for name in ("mask_history", "mask_seen") if config[name]), None)
        what = f"the metrics (with {masked})" if masked else "its lines 'history not ranked' and 'trained items only'"
        logging.getLogger().warning(
            f"{key}: {size} ends a list before items are left out of it, so that {what} may be of shorter lists, "
            f"and too low: --{key}={enough}, or ~ for all items, is enough where no more than a history is left out"
        )


def _measure_windows(model: Any, train_data, valid_data, test_data, path: Path) -> None:
    """Write how far predicted days are from the true ones. The result is there already: what this cannot do is told."""
    try:
        measured = calibration.measure_windows(model, train_data._dataset.inter_feat, valid_data, test_data)
        if measured:
            write_json(path, measured)
    except (UserError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        logging.getLogger().warning(f"how good the predicted times are was not measured, there is no {path}: {error}")


def _set_threads(config: Config, before: int | None) -> None:
    """Threads of torch: num_threads, or those that the run had ``before``, or the cores that are free."""
    threads = config["num_threads"] or before or environment.free_cores()
    torch.set_num_threads(threads)
    if before not in (None, threads) and config["device"].type == "cpu":
        logging.getLogger().warning(
            f"the run goes on with {threads} threads, and had {before}: sums are rounded in another order, and it will "
            f"not be bit for bit what it would have been. --num_threads={before} keeps them"
        )


def create_model(config: Config, dataset) -> torch.nn.Module:
    """The model of a configuration, new. Raises UserError if it does not accept that, lacks a package, or is too large
    for the memory that there is."""
    try:
        with config.recording_reads() as read, blaming_settings(config, "model"):
            encode_class_by_length(config.model_class)
            attach_semantic_ids(config, dataset)
            model = config.model_class(config, dataset)
            use_item_vectors(config, model, dataset)
            use_fast_dropout(model)
            return model
    except UserError:
        raise
    except ValueError as error:
        if not config.is_recbole_model:
            _note_unset_keys(error, config, read)
            raise  # of ours and the user's models only a UserError blames the configuration
        raise UserError(f"{config['model']} does not accept its configuration: {error}") from error
    except ImportError as error:
        if not config.is_recbole_model:
            raise
        raise UserError(f"RecBole's model {config['model']} needs a package that is not installed: {error}") from error
    except Exception as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
            raise UserError(f"there is not enough memory for {config['model']} of this size: {error}") from error
        _note_unset_keys(error, config, read)
        raise


def _naming_what_changed(
    error: checkpoint.WeightsDoNotFit, path: Path, config: Config, dataset
) -> checkpoint.CheckpointError:
    """The error with the settings of the model that are not those of the run that it was to go on with."""
    with config.recording_reads() as read:
        config.model_class(config, dataset)  # once more, to see what it reads
    changed = changed_settings(checkpoint.load(path), config, read)
    if not changed:
        return checkpoint.CheckpointError(f"{error}. Its settings are those of that run: its code has changed since")
    return checkpoint.CheckpointError(
        f"{error}, for of what {config['model']} reads, {'; '.join(changed)}. A run goes on with the sizes it began "
        f"with: leave out what changes them, or start a new run, without --resume"
    )


def _tell_what_changed(content: dict[str, Any], config: Config, read: Iterable[str]) -> None:
    """Warn of keys that the model reads, and that are not what they were in the run of this checkpoint."""
    if changed := changed_settings(content, config, read):
        logging.getLogger().warning(
            f"the run goes on with another {config['model']} than it began with: {'; '.join(changed)}. Its weights "
            f"were learned, and its best epoch so far was chosen, with what was: what is measured now is not comparable"
        )


def _note_unset_keys(error: Exception, config: Config, read: dict[str, list[Any]]) -> None:
    """Have a traceback end with the keys that nothing sets, where a class of the user's own lacks the file for them."""
    unset = [key for key, value in read.items() if not value]
    if unset and config.missing_settings and hasattr(error, "add_note"):  # from Python 3.11 on
        error.add_note(f"({', '.join(unset)}: read, and not set. {config.missing_settings_note()})")


def _test_best_epoch(config, trainer: Trainer, dataset, train_data, test_data, run_dir: Path):
    """Metrics of the best epoch on the test rows, with diagnostics where the model ranks all items."""
    if not len(test_data):
        return None, None
    has_best = Path(trainer.saved_model_file).exists()  # S3Rec's pre-training stage leaves none
    ranks_all = config["eval_type"] == EvaluatorType.RANKING and config["eval_args"]["mode"]["test"] == "full"
    by_length = config["group_metrics"] == "length"
    if not (ranks_all and (config["diagnostics"] or config["save_ranks"] or by_length)):
        return trainer.evaluate(test_data, load_best_model=has_best, show_progress=config["show_progress"]), None
    rows, items = train_data._dataset.inter_feat, dataset.iid_field
    counts = training_item_counts(train_data._dataset)
    transitions = None
    if config["diagnostics"] and config["MODEL_TYPE"] == ModelType.SEQUENTIAL and distributed.is_main_process():
        transitions = TransitionCounts(dataset.item_num).to(config["device"])
        fields = items, items + config["LIST_SUFFIX"], config["ITEM_LIST_LENGTH_FIELD"]
        transitions.count(*training_pairs_of_items(rows, *fields), counts)
    diagnostics = Diagnostics(config, counts, trainer.tie_order(dataset, items), transitions)
    result = trainer.evaluate(
        test_data, load_best_model=has_best, show_progress=config["show_progress"], diagnostics=diagnostics
    )
    if not distributed.is_main_process():
        return result, None
    if config["save_ranks"]:
        with replaced_file(run_dir / "ranks.test.tsv") as temporary:
            diagnostics.rank_table(dataset).to_csv(temporary, sep="\t", index=False)
    if not (config["diagnostics"] or by_length):
        return result, None
    return result, diagnostics.result(trainer.model, history_lengths(test_data, dataset) if by_length else None)


@dataclass(frozen=True)
class LoadedRun:
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


def load(folder: str | Path, model: str | type | None = None) -> LoadedRun:
    """The model of the run in ``folder``, with the weights of its best epoch, and its data, split as it was.

    Args:
        model: of a run whose model is a class of the user's own, that class or its name, my_package.my_module:MyModel:
            a checkpoint alone does not have code imported.

    Raises UserError if there is no such run, or its data set is not here or not the one that it was trained on.
    """
    path = best_checkpoint(folder)
    content = checkpoint.load(path)
    config = finished_config(path, content, model, needs_metrics=False)
    init_seed(config["seed"], config["reproducibility"])
    data, parts = cache.load_dataset(config)
    train, valid, test = create_loaders(config, data, parts)
    built = create_model(config, train._dataset).to(config["device"])
    checkpoint.require_match(path, content, config["model"], token_vocabulary(data))
    checkpoint.load_weights(path, content, built)
    return LoadedRun(config, built.eval(), train, valid, test)


def __getattr__(name: str) -> Any:
    """RecBole's functions of its own quick_start, where its users look for them."""
    if name in ("run_recbole", "load_data_and_model"):
        import recbole_gen

        return getattr(recbole_gen, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
