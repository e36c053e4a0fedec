"""What RecBole 1.2.1 needs to run on current NumPy, pandas, SciPy, torch and Ray, and what it gets wrong by itself.

A shim is a function for one fact; its text says the place in RecBole, what breaks, and when the function can be
deleted. It is given a module of RecBole and changes it. `apply` has every shim run right after its module has been
executed, by whoever imports it and before anybody else sees it; RecBole is imported by none of this, so that importing
`recbole_gen` costs next to nothing. Issue numbers are those of RUCAIBox/RecBole.

    stack           what current NumPy, pandas, SciPy, torch and Ray have taken away
    atomic_files    reading them
    filters         what files of features and filters take away or add, told
    bugs            what RecBole gets wrong on any stack
    kernels         layers that torch computes in one step
    alike_lengths   models that need not compute on padding
    checkpoints     files of RecBole's trainers as plain data
    late_imports    what few need of what is imported for all
    malloc          what malloc keeps, for our own runs
"""

from __future__ import annotations

import importlib
import sys
from types import FrameType, ModuleType
from typing import Any

from recbole_gen.compat.malloc import keep_freed_memory, return_freed_memory
from recbole_gen.errors import UserError

__all__ = ["RecBoleMissing", "apply", "keep_freed_memory", "return_freed_memory"]

RECBOLE_VERSION = "1.2.1"
SHIMS: dict[str, list[str]] = {
    "recbole": ["stack.restore_numpy_aliases"],
    "recbole.config.configurator": ["bugs.leave_the_device_to_the_launcher"],
    "recbole.data.interaction": ["stack.sort_tensors_as_arrays"],
    "recbole.data.dataset.dataset": [
        "stack.count_elements_of_sequence_columns",
        "stack.fill_missing_values_by_assignment",
        "atomic_files.find_extremes_of_columns_at_once",
        "atomic_files.read_atomic_files_by_our_rules",
        "bugs.keep_times_exact",
        "bugs.drop_rows_without_user_or_item",
        "bugs.drop_duplicates_stably",
        "bugs.keep_preloaded_weights_in_float32",
        "filters.tell_what_filters_leave_out",
        "filters.tell_what_files_of_features_add",
    ],
    "recbole.data.dataset.kg_dataset": [
        "stack.count_elements_of_sequence_columns",
        "filters.tell_what_the_graph_leaves_out",
    ],
    "recbole.data.dataset.sequential_dataset": [
        "stack.count_elements_of_sequence_columns",
        "filters.name_the_history_of_other_items",
    ],
    "recbole.data.transform": ["bert4rec.give_every_masked_item_a_target"],
    "recbole.evaluator.collector": ["bugs.collect_counts_beside_tensors"],
    "recbole.evaluator.metrics": [
        "late_imports.import_sklearn_when_it_is_called",
        "bugs.sum_the_entropy",
        "bugs.leave_padding_out_of_coverage",
        "bugs.leave_padding_out_of_gini_index",
        "bugs.average_popularity_of_what_is_listed",
        "bugs.take_the_tail_in_the_order_given",
    ],
    "recbole.model.abstract_recommender": ["stack.restore_dok_update"],
    "recbole.model.layers": ["kernels.use_fused_kernels"],
    "recbole.model.general_recommender.pop": ["bugs.count_every_interaction_in_pop"],
    "recbole.model.sequential_recommender.bert4rec": [
        "bert4rec.learn_every_target",
        "bert4rec.read_the_first_item",
        "alike_lengths.encode_positions_by_length",
    ],
    "recbole.model.sequential_recommender.core": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.fdsa": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.gcsan": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.gru4rec": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.gru4recf": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.gru4reckg": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.ksr": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.narm": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.s3rec": ["alike_lengths.encode_positions_by_length"],
    "recbole.model.sequential_recommender.sasrec": [
        "kernels.let_sasrec_finish_the_last_position_only",
        "alike_lengths.encode_by_length",
    ],
    "recbole.model.sequential_recommender.sasrecf": ["alike_lengths.encode_by_length"],
    "recbole.model.sequential_recommender.sine": ["bugs.restore_anomaly_mode"],
    "recbole.model.sequential_recommender.srgnn": ["alike_lengths.encode_by_length"],
    "recbole.model.general_recommender.neumf": ["checkpoints.dump_neumf_plainly"],
    "recbole.quick_start.quick_start": [
        "checkpoints.load_plain_data_and_model",
        "stack.report_to_ray_by_position",
    ],
    "recbole.trainer.trainer": [
        "stack.use_current_mixed_precision",
        "bugs.compare_lists_of_regularisation",
        "checkpoints.save_plain_checkpoints",
        "checkpoints.save_pretrained_models_plainly",
        "checkpoints.resume_from_plain_checkpoints",
        "checkpoints.evaluate_from_plain_checkpoints",
    ],
}
"""Module of RecBole -> its shims, as file.function of this folder, in the order in which they run. A shim that is a
generator runs up to its `yield` before the module does."""
_MARK = "__shimmed_by_recbole_gen__"


class RecBoleMissing(ImportError, UserError):
    """RecBole is not installed, or not in the version that these shims are for."""


def apply() -> None:
    """Apply every shim: at once to what is imported of RecBole already, to all else when it is imported.

    Raises RecBoleMissing if RecBole is imported already and of another version; a later `import recbole` raises it if
    there is none.
    """
    if not any(isinstance(finder, _ShimFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ShimFinder())
    for name in SHIMS:
        if name in sys.modules:
            _run_with_shims(importlib.import_module(name))  # waits for another thread that is executing it


class _ShimFinder:
    """Finds modules of RecBole that have shims, through the other finders, and has the shims run behind them."""

    def find_spec(self, name: str, path=None, target=None):
        if name not in SHIMS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            if spec := find(name, path, target):
                if spec.loader is not None:
                    spec.loader = _ShimLoader(spec.loader)
                return spec
        if name == "recbole" and not _only_looks():
            require_recbole()
        return None


class _ShimLoader:
    """A module's own loader, which it gets back once it is executed, and the shims of the module."""

    def __init__(self, loader: Any):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        vars(module).pop(_MARK, None)  # executed again, by importlib.reload
        _run_with_shims(module, self._loader.exec_module)

    def __getattr__(self, name: str):
        if name == "_loader":  # not yet there in a copy
            raise AttributeError(name)
        return getattr(self._loader, name)


def _run_with_shims(module: ModuleType, execute=None) -> None:
    """Execute a module, unless it is, and apply its shims, unless they are. If one of them raises, so does the import,
    and Python drops the module: nobody gets it half changed."""
    if module.__name__ == "recbole":
        require_recbole()
    if _MARK in vars(module):
        return
    import inspect  # as late as RecBole, which needs it too

    shims = []
    for path in SHIMS[module.__name__]:
        file, function = path.split(".")
        shims.append(getattr(importlib.import_module(f"{__name__}.{file}"), function))
    begun = [shim(module) for shim in shims if inspect.isgeneratorfunction(shim)]
    for generator in begun:
        next(generator)
    if execute:
        execute(module)
    for shim in shims:
        if not inspect.isgeneratorfunction(shim):
            shim(module)
    for generator in begun:
        next(generator, None)
    vars(module)[_MARK] = True


def _only_looks() -> bool:
    """Whether importlib.util.find_spec asks, which answers None for what is not installed."""
    frame: FrameType | None = sys._getframe(2)
    while frame and "importlib" in frame.f_code.co_filename:
        if frame.f_globals.get("__name__") == "importlib.util":
            return True
        frame = frame.f_back
    return False


def require_recbole() -> None:
    """RecBole pins `ray<=2.6.3`, which no current Python can install (#2215): it is installed beside us, unpinned."""
    from importlib import metadata  # not to be paid by who imports recbole_gen

    command = f"pip install --no-deps recbole=={RECBOLE_VERSION}"
    try:
        version = metadata.version("recbole")
    except metadata.PackageNotFoundError:
        raise RecBoleMissing(f"recbole_gen needs RecBole, which is not installed: {command}") from None
    if version != RECBOLE_VERSION:
        raise RecBoleMissing(f"recbole_gen needs RecBole {RECBOLE_VERSION}, found {version}: {command}")
