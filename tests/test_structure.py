"""The shape of the package: imports point downwards, YAML files are the one home of defaults, names are consistent."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from conftest import ON_ML_100K

import recbole_gen
from recbole_gen import compat
from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.config.places import PROPERTIES
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.options import read_yaml

PACKAGE = Path(recbole_gen.__file__).parent
LEVELS = {
    "errors": 0, "compat": 1, "files": 1, "figures": 1, "checkpoint": 1, "distributed": 1,
    "model": 2, "evaluation": 3, "data": 4, "training": 5, "config": 5, "prepare": 5, "options": 1,
    "quick_start": 6, "recommending": 7, "sweep": 7, "plot": 7, "compare": 8, "serving": 8, "catalogue": 8, "cli": 9,
}  # fmt: skip


def imported_parts(file):
    """Parts of the package that a file imports, as (part, line)."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("recbole_gen"):
            tail = node.module.split(".")[1:]
            names = [tail[0]] if tail else [alias.name for alias in node.names if not alias.name.startswith("_")]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("recbole_gen.")]
        for name in names:
            yield name, node.lineno


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    parts = file.relative_to(PACKAGE).parts
    own = parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for name, line in imported_parts(file):
        assert LEVELS[name] <= LEVELS[own], f"{file.name}:{line} imports {name} from above"
        if own == "model":
            assert name in ("errors", "model"), f"{file.name}:{line}: a model imports {name}"


@pytest.mark.parametrize("name", registry.MODELS)
def test_keys_read_are_keys_declared(name):
    config = Config(model=name, dataset="ml-100k", config_dict=ON_ML_100K.get(name))
    data = create_dataset(config)
    train, _, test = create_loaders(config, data)
    read = set()

    class Recorder:
        def __getitem__(self, key):
            read.add(key)
            return config[key]

    model = config.model_class(Recorder(), train._dataset)
    model.calculate_loss(next(iter(train)))
    model.eval().full_sort_predict(next(iter(test))[0])
    declared = set(read_yaml(PROPERTIES / f"model/{name}.yaml"))
    shared = {key for keys in config.parameters.values() for key in keys} | {"device"}
    shared |= read_yaml(PROPERTIES / "overall.yaml").keys()
    assert read - declared - shared == set(), "read without a default in the YAML"
    assert declared - read - shared == set(), "declared but never read"


@pytest.mark.parametrize("file", sorted((PROPERTIES / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_hyper_parameter_is_explained(file):
    for line in file.read_text(encoding="utf-8").splitlines():
        if re.match(r"\w", line):
            assert re.search(r"# \((str|int|float|bool|list|dict)\) \S", line), line


@pytest.mark.parametrize("file", sorted(PROPERTIES.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_yaml_files_are_mappings_without_duplicate_keys(file):
    text = file.read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", text, flags=re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("paper", sorted(file.stem for file in (PROPERTIES / "paper").glob("*.yaml")))
def test_paper_settings_name_known_keys_only(paper, tmp_path):
    setting = read_yaml(PROPERTIES / f"paper/{paper}.yaml")
    folder = tmp_path / setting["dataset"]
    folder.mkdir()
    (folder / f"{setting['dataset']}.inter").write_text("")
    config = Config(config_dict={"paper": paper, "data_path": str(tmp_path)})
    for key in setting.keys() - {"model", "dataset", "protocol", "eval_args", "topk"}:
        assert config[key] == setting[key], key
    assert config["protocol"] == setting["protocol"]


@pytest.mark.parametrize("version", [None, "1.1.1"])
def test_without_recbole_the_message_is_the_command_to_install_it(version, monkeypatch):
    def installed(name):
        if version is None:
            raise compat.importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(compat.importlib.metadata, "version", installed)
    with pytest.raises(compat.RecBoleMissing, match=r"pip install --no-deps recbole==1\.2\.1"):
        compat._require_recbole()
