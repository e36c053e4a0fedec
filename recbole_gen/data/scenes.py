"""Scenes: where in the app an interaction took place, from a column of the interactions or of the items.

DSPnet section 3.1: every interaction is a pair of item and scene; Outbrain's scene is a property of the document. A
scene column of the interactions becomes a sequence as every other column does; one of the items is looked up for each
event of the log. Either way memory is O(N).
"""

from __future__ import annotations

import torch
from recbole.utils import FeatureSource, FeatureType

from recbole_gen.data.columns import INTER, ITEM, Titles
from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError, did_you_mean, refuse_shared_columns

SCENE_RULES = ("first", "frequent")
SCENE_TYPES = (FeatureType.TOKEN, FeatureType.TOKEN_SEQ)


def require_scene_column(config) -> None:
    """See that the scene column exists and will be loaded; the interactions' wins over the items'.

    Raises UserError, naming data sets that have scenes, if there is none.
    """
    roles = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "SCENE_FIELD")
    refuse_shared_columns({key: config[key] for key in roles})
    field, titles = config["SCENE_FIELD"], Titles(config)
    of_items = field in titles.of.get(ITEM, ())
    source = INTER
    if field not in titles.of.get(INTER, ()):
        if not of_items:
            raise UserError(
                f"data set '{config['dataset']}': {config['model']} needs a categorical scene per interaction or per "
                f"item, and there is no column '{field}' among {[*titles.of.get(INTER, ())]} in "
                f"{titles.interaction_file} nor in {titles.path(ITEM).name}."
                f"{did_you_mean(field, [*titles.of.get(INTER, ()), *titles.of.get(ITEM, ())])} "
                f"Name the right one with --SCENE_FIELD=NAME, or add a column 'scene:token' (a log of your own brings "
                f"one along with `recbole-gen prepare NAME --from=FILE ... --scene=COLUMN`). Data "
                f"sets that have one: globo-scene (referrer type), KuaiRand (tab), Outbrain (source_id, per document); "
                f"to try things out on ml-100k, the genre of a film: --SCENE_FIELD=class --scene_rule=first."
            )
        source = ITEM
    if config["load_col"] is None and source == INTER and of_items:  # RecBole could not tell the two apart
        unloaded = config["unload_col"] or {}
        config["unload_col"] = {**unloaded, ITEM: [*(unloaded.get(ITEM) or []), field]}
    in_list = source == INTER and config["benchmark_filename"]
    titles.load(source, [field, *([_scene_list_field(config)] if in_list else [])])


def _scene_list_field(config) -> str:
    return config["SCENE_FIELD"] + config["LIST_SUFFIX"]


def add_scenes(dataset, rows: SequenceRows) -> None:
    """See that the rows have the scene of every event, as the target's column and as a list.

    Raises UserError for a column that holds no categories, and for an item column of several values without a rule.
    """
    config = dataset.config
    field, list_field = config["SCENE_FIELD"], _scene_list_field(config)
    where = f"data set '{config['dataset']}'"
    kind = dataset.field2type.get(field)
    if kind not in SCENE_TYPES:
        raise UserError(
            f"{where}: the scene '{field}' must be categories, '{field}:token' in the title line, got "
            f"'{field}:{getattr(kind, 'value', kind)}'"
        )
    if dataset.field2source[field] == FeatureSource.INTERACTION:
        if kind == FeatureType.TOKEN_SEQ:
            raise UserError(
                f"{where}: an interaction has one scene, and '{field}' holds several: make it '{field}:token'"
            )
        if list_field not in rows:
            raise UserError(
                f"{where}: with benchmark_filename the files hold the histories, and there is no column "
                f"'{list_field}:token_seq' among the loaded {rows.columns}"
            )
        return
    of_item = dataset.item_feat[field]
    if kind == FeatureType.TOKEN_SEQ:
        of_item = one_scene_per_item(of_item, config["scene_rule"], where, field)
    of_item = of_item.long().clone()
    of_item[0] = 0  # with pandas 3 RecBole leaves the padding item's row undefined
    items, histories = rows.targets[dataset.iid_field], rows.lists[dataset.iid_field + config["LIST_SUFFIX"]]
    scenes = of_item[items]
    rows.add_field(field, list_field, scenes, scenes if histories is items else of_item[histories])


def one_scene_per_item(values: torch.Tensor, rule: str | None, where: str, field: str) -> torch.Tensor:
    """One value an item of [n_items, k], padded with 0: the ``first``, or the one of most items (``frequent``)."""
    if rule is None:
        raise UserError(
            f"{where}: items have several values of '{field}', and a scene is one: say which with "
            f"--scene_rule={'|'.join(SCENE_RULES)}"
        )
    if rule == "first":
        return values[:, 0]
    counts = torch.bincount(values.flatten(), minlength=int(values.max()) + 1)
    counts[0] = -1
    return values.gather(1, counts[values].argmax(1, keepdim=True)).squeeze(1)
