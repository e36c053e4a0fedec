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
from recbole_gen.config.papers import read_paper
from recbole_gen.config.places import PROPERTIES
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.data.semantic_ids import attach_semantic_ids
from recbole_gen.options import read_yaml

PACKAGE = Path(recbole_gen.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))


def read_floors(text: str) -> dict[str, int]:
    """Room -> its floor, from 0, of the list in CONTRIBUTING.md: a line a floor, the top one first."""
    section = text.partition("\n## Which room may import which\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^ {4}(\w.*)", section, re.MULTILINE)
    return {room: len(lines) - 1 - number for number, line in enumerate(lines) for room in line.split(", ")}


FLOORS = read_floors((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))


def module_of(file: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imported_modules(file: Path) -> dict[str, int]:
    """Modules of the package that a file imports, at its top, in functions or for types alone -> the line."""
    found = {}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file.name}:{node.lineno}: imports name the package"
            both = [(f"{node.module}.{alias.name}", node.module) for alias in node.names]
            names = [inner if inner in MODULES else outer for inner, outer in both]
        else:
            continue
        found |= {name: node.lineno for name in names if name in MODULES and name != "recbole_gen"}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_a_floor_and_there_are_few():
    rooms = {room_of(module) for module in MODULES if module != "recbole_gen"}
    assert rooms == FLOORS.keys()
    assert len(rooms) <= 26


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_downwards(file):
    module = module_of(file)
    if module == "recbole_gen":
        return
    for name, line in imported_modules(file).items():
        own, other = room_of(module), room_of(name)
        assert own == other or FLOORS[other] < FLOORS[own], f"{file.name}:{line} imports {name}, which is not below"
        if own == "model":
            assert other in ("errors", "model"), f"{file.name}:{line}: a model imports {name}"


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """Files that import each other in a circle, the first of them again at the end; empty if there are none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(imports[module]):
            if circle := visit(other, [*path, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(imports) if (circle := visit(module, []))), [])


def test_no_files_import_each_other_in_a_circle():
    # The package's face hands out names of rooms when they are asked for; no room imports them from there.
    imports = {name: imported_modules(file).keys() - {name} for name, file in MODULES.items() if name != "recbole_gen"}
    assert find_circle(imports) == []


@pytest.mark.parametrize(
    ("imports", "circle"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b"}, "b": {"a"}}, ["a", "b", "a"]),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}, ["b", "c", "d", "b"]),
    ],
)
def test_a_circle_is_found(imports, circle):
    assert find_circle(imports) == circle


def test_files_and_classes_are_short():
    # One paper a file: DSPnet, PASRec.
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 500, f"{file.name} has more than 500 lines: divide it at a seam"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                assert node.end_lineno - node.lineno < 300, f"{file.name}: class {node.name} has more than 300 lines"


def test_tests_lie_in_the_folders_of_what_they_test():
    folders = {file.parent.name for file in (ROOT / "tests").rglob("test_*.py")} - {"tests"}
    assert folders <= FLOORS.keys()


@pytest.mark.parametrize("name", registry.MODELS)
def test_keys_read_are_keys_declared(name):
    few = {"train_batch_size": 8, "eval_batch_size": 8}  # TIGER scores all items for 26 rows a second
    config = Config(model=name, dataset="ml-100k", config_dict=few | ON_ML_100K.get(name, {}))
    data = create_dataset(config)
    train, _, test = create_loaders(config, data)
    read = set()

    class Recorder:
        model_class = config.model_class

        def __getitem__(self, key):
            read.add(key)
            return config[key]

    attach_semantic_ids(Recorder(), train._dataset)
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
            assert re.search(r"# \((str|word|path|name|int|float|bool|list|dict)( or \w+| or ~)*\) \S", line), line


@pytest.mark.parametrize("file", sorted(PROPERTIES.rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_yaml_files_are_mappings_without_duplicate_keys(file):
    text = file.read_text(encoding="utf-8")
    keys = re.findall(r"^(\w+):", text, flags=re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize("paper", sorted(file.stem for file in (PROPERTIES / "paper").glob("*.yaml")))
def test_paper_settings_name_known_keys_only(paper, tmp_path):
    setting = read_paper(paper).settings
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
        compat.require_recbole()
