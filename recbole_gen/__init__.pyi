# What __init__.py hands out when it is asked for, for editors and mypy.
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole.utils import init_seed as init_seed

from recbole_gen.config.config import Config as Config
from recbole_gen.quick_start import load as load
from recbole_gen.quick_start import run as run
from recbole_gen.recommending.recommender import Recommender as Recommender

__version__: str

def run_recbole(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Sequence[str | Path] | None = None,
    config_dict: dict[str, Any] | None = None,
    saved: bool = True,
    queue: Any = None,
) -> dict[str, Any]: ...
def load_data_and_model(model_file: str | Path) -> tuple[Config, Any, Any, Any, Any, Any]: ...
