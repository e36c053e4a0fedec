"""What RecBole 1.2.1 needs to run on current NumPy, pandas, SciPy, torch and Ray, and what it gets wrong by itself.

One fact a function, with the place in RecBole, what breaks, and when the function can be deleted. `apply()` runs once,
on import of `recbole_gen`. Issue numbers are those of RUCAIBox/RecBole.
"""

from __future__ import annotations

import builtins
import codecs
import contextlib
import ctypes
import importlib
import importlib.metadata
import os
import sys
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import torch
import torch.nn.functional as F
from pyarrow import compute, csv

from recbole_gen.errors import UserError

RECBOLE_VERSION = "1.2.1"
MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
"""Words that pandas takes for a missing value."""
_applied = False


class RecBoleMissing(ImportError):
    """RecBole is not installed, or not in the version that these shims are for."""


def apply() -> None:
    """Apply every shim, once a process. Raises RecBoleMissing."""
    global _applied
    if _applied:
        return
    _require_recbole()
    _restore_numpy_aliases()
    _import_recbole_without_anomaly_detection()
    _restore_dok_update()
    _count_elements_of_sequence_columns()
    _find_extremes_of_columns_at_once()
    _read_atomic_files_with_the_c_parser()
    _fill_missing_values_by_assignment()
    _keep_times_exact()
    _drop_duplicates_stably()
    _keep_preloaded_weights_in_float32()
    _leave_the_device_to_the_launcher()
    _keep_pretrained_checkpoints_plain()
    _use_fused_kernels()
    _let_sasrec_finish_the_last_position_only()
    _count_every_interaction_in_pop()
    _applied = True


def _require_recbole() -> None:
    """RecBole pins `ray<=2.6.3`, which no current Python can install (#2215): it is installed beside us, unpinned."""
    command = f"pip install --no-deps recbole=={RECBOLE_VERSION}"
    try:
        version = importlib.metadata.version("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise RecBoleMissing(f"recbole_gen needs RecBole, which is not installed: {command}") from None
    if version != RECBOLE_VERSION:
        raise RecBoleMissing(f"recbole_gen needs RecBole {RECBOLE_VERSION}, found {version}: {command}")


def _restore_numpy_aliases() -> None:
    """config/configurator.py:626-635, data/interaction.py:31, evaluator/metrics.py: names that NumPy 1.24 and 2.0
    removed (#2174). Deletable when RecBole stops reading them (pull request 2203)."""
    aliases = {
        "bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_,
        "str": np.str_, "long": np.int_, "unicode": np.str_, "float_": np.float64, "complex_": np.complex128,
        "unicode_": np.str_,
    }  # fmt: skip
    for name, value in aliases.items():
        if name not in np.__dict__:
            setattr(np, name, value)


def _import_recbole_without_anomaly_detection() -> None:
    """model/sequential_recommender/sine.py:25 switches autograd's anomaly detection on for the whole process when any
    sequential model is imported: 1.6 times the time of a SASRec step. Deletable when that line is."""
    before = torch.is_anomaly_enabled()
    import recbole.model.sequential_recommender  # noqa: F401

    torch.autograd.set_detect_anomaly(before)


def _restore_dok_update() -> None:
    """lightgcn.py:111, ngcf.py:110, gcmc.py:174 and others build their graph by `dok_matrix._update`, which SciPy 1.13
    removed (#2055). Deletable when they use a public call."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):

        def _update(self, entries):
            for index, value in entries.items():
                self[index] = value

        dok_matrix._update = _update


def _count_elements_of_sequence_columns() -> None:
    """dataset.py:722, 1217, kg_dataset.py:316 and sequential_dataset.py:165 call `series.agg(len)` for the length of
    each element; pandas 3 hands the function the whole series and returns one number. These modules get a `len` that
    answers a series element by element (none of them asks for the length of a series otherwise)."""

    def element_len(value):
        return value.map(builtins.len) if isinstance(value, pd.Series) else builtins.len(value)

    for name in ("dataset", "kg_dataset", "sequential_dataset"):
        vars(importlib.import_module(f"recbole.data.dataset.{name}"))["len"] = element_len


def _find_extremes_of_columns_at_once() -> None:
    """dataset.py:698, 763 and 782 ask Python's `max` and `min` for those of a column, which look at one number at a
    time: seconds for a log of millions. That module gets a `max` and a `min` that leave arrays to NumPy."""

    def of_arrays(builtin, of_array):
        def extreme(*values):
            is_column = len(values) == 1 and isinstance(values[0], np.ndarray) and values[0].dtype.kind == "f"
            return of_array(values[0]) if is_column and values[0].size else builtin(*values)

        return extreme

    module = importlib.import_module("recbole.data.dataset.dataset")
    vars(module).update(max=of_arrays(builtins.max, np.max), min=of_arrays(builtins.min, np.min))


def _read_atomic_files_with_the_c_parser() -> None:
    """dataset.py:486 reads with pandas' Python engine (7 times slower), and dataset.py:501 fills missing sequences in
    place, which pandas 3 does not do. A data set class with `tokens_as_categories = True` gets single tokens as
    categories, a few bytes a row, from `_read_plainly` where it can. Deletable when upstream uses the C engine and
    assigns."""
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureSource, FeatureType

    def _load_feat(self, filepath, source):
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        with open(filepath, encoding=encoding) as file:
            header = file.readline().rstrip("\r\n").split(separator)
        token_type = "category" if getattr(self, "tokens_as_categories", False) else str
        columns: dict[str, str] = {}
        dtypes: dict[str, Any] = {}
        for title in header:
            field, colon, type_name = title.partition(":")
            if not colon or type_name not in {member.value for member in FeatureType}:
                raise UserError(
                    f"{filepath}: the column title '{title}' is not of the form name:type with type one of "
                    f"{', '.join(member.value for member in FeatureType)}"
                )
            if (load_col is not None and field not in load_col) or (unload_col and field in unload_col):
                continue
            ftype = FeatureType(type_name)
            columns[title] = field
            dtypes[title] = np.float64 if ftype == FeatureType.FLOAT else str
            if ftype == FeatureType.TOKEN:
                dtypes[title] = token_type
            if isinstance(source, FeatureSource) or source != "link":
                self.field2source[field], self.field2type[field] = source, ftype
                if not type_name.endswith("seq"):
                    self.field2seqlen[field] = 1
                if "float" in type_name:
                    self.field2bucketnum[field] = 2
        if not columns:
            self.logger.warning(f"No columns has been loaded from [{source}]")
            return None

        df = _read_plainly(filepath, separator, encoding, header, dtypes)
        if df is None:
            # A separator of several characters is a regular expression, which only the Python engine splits by.
            engine = "c" if len(separator) == 1 else "python"
            # Not as categories at once: where all tokens look like numbers, pandas would make them numbers, 007 as 7.
            as_text = {title: str if dtype == "category" else dtype for title, dtype in dtypes.items()}
            quoting = {"sep": separator, "usecols": list(columns), "dtype": as_text, "encoding": encoding}
            try:
                df = pd.read_csv(filepath, engine=engine, **quoting).astype(dtypes)
            except ValueError as error:
                raise UserError(f"{filepath} cannot be read as an atomic file: {error}") from error
        df = df.rename(columns=columns)

        for field in df:
            ftype = self.field2type[field]
            if not ftype.value.endswith("seq"):
                continue
            convert = float if ftype == FeatureType.FLOAT_SEQ else str
            dtype = np.float64 if ftype == FeatureType.FLOAT_SEQ else None
            gap = self.config["seq_separator"]
            lists = [
                np.array([convert(part) for part in text.split(gap) if part], dtype=dtype)
                for text in df[field].fillna("")
            ]
            longest = max(map(len, lists), default=0)
            limit = (self.config["seq_len"] or {}).get(field)
            if limit:
                lists = [values[:limit] for values in lists]
                longest = min(longest, limit)
            df[field] = pd.Series(lists, index=df.index, dtype=object)
            self.field2seqlen[field] = longest
        return df

    Dataset._load_feat = _load_feat


def _read_plainly(
    path, separator: str, encoding: str, header: list[str], dtypes: dict[str, Any]
) -> pd.DataFrame | None:
    """The columns of ``dtypes`` as pandas' C engine would read them, in a quarter of its time and half of its memory
    (benchmarks/readers.py); None for a file that is to be left to pandas.

    Left to it are what pyarrow reads in another way (quotes, zero bytes, lines that end in CR alone, other encodings
    than UTF-8, and numbers such as nan(1)), columns that are neither "category" nor float64, and every file that
    pyarrow refuses, so that it is pandas that says what is wrong.
    """
    plain = (
        len(separator) == 1
        and len(header) == len(set(header)) > 1
        and codecs.lookup(encoding or "utf-8").name == "utf-8"
    )
    if not plain or not set(dtypes.values()) <= {"category", np.float64} or _has_odd_bytes(path):
        return None
    tokens, numbers = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.float64()
    kinds = {title: numbers if dtype == np.float64 else tokens for title, dtype in dtypes.items()}
    options = csv.ConvertOptions(
        column_types=kinds, include_columns=list(kinds), null_values=MISSING, strings_can_be_null=True
    )
    try:
        table = csv.read_csv(
            path,
            # Each block has a dictionary of its own: large ones have fewer tokens in several of them.
            csv.ReadOptions(block_size=1 << 24),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            options,
        )
    except (pyarrow.ArrowException, ValueError):
        return None
    columns = {}
    for title in dtypes:
        column, table = table[title], table.drop_columns([title])  # one column at a time is in memory twice
        if kinds[title] == tokens:
            columns[title] = _categories(column)
        elif compute.any(compute.is_nan(column)).as_py():
            return None
        else:
            columns[title] = column.to_numpy()  # what is missing becomes NaN
    return pd.DataFrame(columns, copy=False)


def _has_odd_bytes(path) -> bool:
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            part += file.read(1) if part.endswith(b"\r") else b""
            if b'"' in part or b"\0" in part or part.count(b"\r") != part.count(b"\r\n"):
                return True
    return False


def _categories(column: pyarrow.ChunkedArray) -> pd.Categorical:
    """A column of dictionary arrays as one Categorical; what is missing has code -1."""
    wide = pyarrow.large_string()  # words of all chunks may have more than 2^31 bytes
    words = pyarrow.chunked_array([chunk.dictionary.cast(wide) for chunk in column.chunks], wide)
    every = words.combine_chunks().dictionary_encode()
    # Code of each word of each chunk's dictionary, and at the end of each what is missing.
    ends = np.cumsum([len(chunk.dictionary) for chunk in column.chunks])
    of_chunks = np.split(every.indices.to_numpy(), ends[:-1])
    codes = np.empty(len(column), np.int32)
    start = 0
    for chunk, of_words in zip(column.chunks, of_chunks, strict=True):
        local = chunk.indices.fill_null(len(of_words)).to_numpy()
        np.take(np.append(of_words, np.int32(-1)), local, out=codes[start : start + len(local)])
        start += len(local)
    return pd.Categorical.from_codes(codes, pd.Index(every.dictionary.to_pandas(), dtype=str))


def _fill_missing_values_by_assignment() -> None:
    """dataset.py:648, 650: `feat[field].fillna(..., inplace=True)` changes a copy under pandas 3. Symptom: the padding
    row of an item feature becomes -9223372036854775808. Deletable when upstream assigns."""
    from recbole.data.dataset import Dataset
    from recbole.utils import FeatureType

    def _fill_nan(self):
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                ftype = self.field2type[field]
                if ftype == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif ftype == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if ftype == FeatureType.TOKEN_SEQ else np.float64)
                    feat[field] = feat[field].map(lambda value, empty=empty: empty if np.ndim(value) == 0 else value)

    Dataset._fill_nan = _fill_nan


def _keep_times_exact() -> None:
    """dataset.py:2207 turns times into float32 before it sorts by them: seconds since 1970 are then exact to a minute
    or two, and the leave-one-out target of 15.8 % of ml-100k's users changes (#2204, #1653). The time field stays
    float64; models that want float32 convert what they have normalised."""
    from recbole.data.dataset import Dataset

    convert = Dataset._dataframe_to_interaction

    def _dataframe_to_interaction(self, data):
        with warnings.catch_warnings():  # pandas 3 hands out its columns read-only; nothing writes into these tensors
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            interaction = convert(self, data)
        field = self.time_field
        if field in interaction and interaction[field].dim() == 1:
            interaction[field] = torch.from_numpy(data[field].to_numpy(dtype=np.float64, copy=True))
        return interaction

    Dataset._dataframe_to_interaction = _dataframe_to_interaction


def _drop_duplicates_stably() -> None:
    """dataset.py:866 sorts by time with an unstable algorithm before it drops repeated interactions, so which of two
    simultaneous ones stays is left to chance. Deletable when upstream passes kind="stable"."""
    from recbole.data.dataset import Dataset

    drop = Dataset._remove_duplication

    def _remove_duplication(self):
        if self.config["rm_dup_inter"] is not None and self.time_field in self.inter_feat:
            pair = [self.uid_field, self.iid_field]
            events = self.inter_feat.sort_values(by=self.time_field, kind="stable")
            self.inter_feat = events.drop_duplicates(subset=pair, keep=self.config["rm_dup_inter"])
        else:
            drop(self)

    Dataset._remove_duplication = _remove_duplication


def _keep_preloaded_weights_in_float32() -> None:
    """dataset.py:609, 611 hold preloaded weights in float64, which KSR and GRU4RecKG multiply with float32."""
    from recbole.data.dataset import Dataset

    get = Dataset.get_preload_weight
    Dataset.get_preload_weight = lambda self, field: get(self, field).astype(np.float32)


def _leave_the_device_to_the_launcher() -> None:
    """configurator.py:484 overwrites CUDA_VISIBLE_DEVICES with `gpu_id`, so that all trials of a Ray sweep land on
    GPU 0 (#1955), and line 490 ignores `use_gpu`. `gpu_id` counts among the devices that the launcher left visible."""
    from recbole.config import Config

    def _init_device(self):
        values = self.final_config_dict
        if "local_rank" in values:
            raise ValueError("local_rank is the launcher's: run with --nproc=N, or under torchrun")
        gpu_id = values["gpu_id"]
        text = ",".join(map(str, gpu_id)) if isinstance(gpu_id, (tuple, list)) else str(gpu_id)
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))  # set by torchrun, and by --nproc
        values.update(gpu_id=text, single_spec=True, local_rank=local_rank, device=torch.device("cpu"))
        if not (values["use_gpu"] and text and torch.cuda.is_available()):
            return
        listed, count = [int(each) for each in text.split(",")], torch.cuda.device_count()
        # One process a GPU: those that gpu_id lists, or the first ones if it names just one.
        index = listed[local_rank] if local_rank < len(listed) else listed[0] + local_rank
        if index >= count:
            raise ValueError(f"gpu_id: {index} does not exist, {count} GPU(s) are visible (0 to {count - 1})")
        values["device"] = torch.device("cuda", index)
        torch.cuda.set_device(index)

    Config._init_device = _init_device


def _keep_pretrained_checkpoints_plain() -> None:
    """trainer.py:755 saves S3Rec's pre-trained model with the pickled Config in it, which torch.load refuses since
    torch 2.6 (#2187, #2212): only what S3Rec reads back is saved."""
    from recbole.trainer.trainer import PretrainTrainer

    def save_pretrained_model(self, epoch, saved_model_file):
        torch.save({"epoch": epoch, "state_dict": self.model.state_dict()}, saved_model_file)

    PretrainTrainer.save_pretrained_model = save_pretrained_model


def _use_fused_kernels() -> None:
    """model/layers.py computes GELU and attention in five and six steps that each keep a temporary for the backward
    pass. torch has both in one, with the same result (the random stream of attention dropout differs)."""
    from recbole.model.layers import FeedForward, MultiHeadAttention

    def gelu(self, x):
        return F.gelu(x)

    def forward(self, input_tensor, attention_mask, queries=None):
        """Of ``queries`` [B, Q, d] only the output is wanted; None for all of ``input_tensor`` [B, L, d]."""
        queries = input_tensor if queries is None else queries

        def split(tensor):
            return tensor.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)

        context = F.scaled_dot_product_attention(
            split(self.query(queries)),
            split(self.key(input_tensor)),
            split(self.value(input_tensor)),
            attn_mask=attention_mask,
            dropout_p=self.attn_dropout.p if self.training else 0.0,
        )
        out = self.out_dropout(self.dense(context.transpose(1, 2).flatten(2)))
        return self.LayerNorm(out + queries)

    FeedForward.gelu = gelu
    MultiHeadAttention.forward = forward


def _let_sasrec_finish_the_last_position_only() -> None:
    """sasrec.py:124-127 runs the last layer on every position and then reads the last one: two fifths of the work."""
    from recbole.model.sequential_recommender import SASRec

    def forward(self, item_seq, item_seq_len):
        positions = self.position_embedding.weight[: item_seq.shape[1]]
        x = self.dropout(self.LayerNorm(self.item_embedding(item_seq) + positions))  # [B, L, d]
        mask = self.get_attention_mask(item_seq)  # [B, 1, L, L]
        *lower, top = self.trm_encoder.layer
        for layer in lower:
            x = layer(x, mask)
        rows, last = torch.arange(len(x), device=x.device), item_seq_len - 1
        attended = top.multi_head_attention(x, mask[rows, :, last].unsqueeze(2), queries=x[rows, last].unsqueeze(1))
        return top.feed_forward(attended).squeeze(1)  # [B, d]

    SASRec.forward = forward


def _count_every_interaction_in_pop() -> None:
    """pop.py:47 adds 1 to the items of a batch by assignment, which counts an item once a batch however often it is in
    it, so that the baseline depends on train_batch_size (#2198, #1844)."""
    from recbole.model.general_recommender.pop import Pop

    def calculate_loss(self, interaction):
        self.item_cnt += torch.bincount(interaction[self.ITEM_ID], minlength=self.n_items).unsqueeze(1)
        self.max_cnt = self.item_cnt.max(dim=0)[0]
        return torch.zeros(1, requires_grad=True, device=self.device)

    Pop.calculate_loss = calculate_loss


def keep_freed_memory() -> None:
    """Tell glibc's malloc to keep what is freed for the next step instead of returning it to the system: the large
    temporaries of a training step otherwise cost a page fault for every 4 KiB, each time. No effect elsewhere."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def return_freed_memory() -> None:
    """Give back to the system what malloc and Arrow have kept of freed memory, such as that in which a log was sorted.
    No effect but on Linux's malloc."""
    pyarrow.default_memory_pool().release_unused()
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
