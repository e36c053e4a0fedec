"""`prepare NAME --text_encoder=...`: vectors of items from their texts, by encoders that are made here, untrained."""

import json
import shutil
import socket
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recbole_gen import cli
from recbole_gen.errors import UserError
from recbole_gen.reading.item_vectors import read_item_vectors
from recbole_gen.text_vectors import making
from recbole_gen.text_vectors.encoder_files import find_encoder
from recbole_gen.text_vectors.vector_cache import TextVector, VectorCache

pytestmark = pytest.mark.xdist_group("sentence_transformers")  # which takes seconds to import

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *("red", "green", "lamp", "chair", "desk", "oak", "small"),
    ",",
    ".",
]
LONGEST = 8
ITEMS = ["i1", "i2", "i3", "i 4", "ä", "i6"]
TITLES = ["red lamp", "green chair", "", "red lamp", "small oak desk", "  "]
KINDS = ["lamp", "", "", "lamp", "desk", ""]
TEXTS = {"i1": "red lamp, lamp", "i2": "green chair", "i 4": "red lamp, lamp", "ä": "small oak desk, desk"}


def save_encoder(folder: Path, seed: int) -> None:
    """A sentence encoder of one small layer, as sentence-transformers saves it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    parts = folder.with_name(f"{folder.name}-parts")
    parts.mkdir(parents=True)
    (parts / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    BertTokenizerFast(str(parts / "vocab.txt")).save_pretrained(parts)
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)).save_pretrained(parts)
    transformer = Transformer(str(parts), max_seq_length=LONGEST)
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory):
    """Two folders of encoders that differ in their weights."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed, name in enumerate(("first", "second")):
        save_encoder(folder / name, seed)
    return folder


@pytest.fixture
def encoder(encoders, tmp_path):
    """A copy of the first one, to be damaged."""
    return Path(shutil.copytree(encoders / "first", tmp_path / "encoder"))


@pytest.fixture
def shop(tmp_path, write_atomic):
    """The data set `shop` under tmp_path, with an .item file."""
    events = {"user_id:token": ["u", "u"], "item_id:token": ["i1", "i2"], "timestamp:float": [1, 2]}
    write_atomic(events, name="shop")
    write_items(tmp_path)
    return tmp_path


def write_items(folder: Path, titles=TITLES, more: str = "") -> None:
    rows = [f"{item}\t{title}\t{kind}\t7\n" for item, title, kind in zip(ITEMS, titles, KINDS)]
    head = "item_id:token\ttitle:token_seq\tkind:token_seq\tprice:float\n"
    (folder / "shop/shop.item").write_text(head + "".join(rows) + more, encoding="utf-8")


@pytest.fixture
def encode(shop, encoders, capsys):
    """encode(*options): the exit code, the output's folder, what is said, and the error."""

    def run(*options: str, encoder: Path = encoders / "first"):
        output = shop / "vectors"
        shutil.rmtree(output, ignore_errors=True)
        line = [f"--text_encoder={encoder}", f"--output={output}", f"--data_path={shop}", *options]
        code = cli.main(["prepare", "shop", *line])
        out, error = capsys.readouterr()
        return code, output, out, error

    return run


def vector_of(output: Path) -> dict[str, np.ndarray]:
    found = read_item_vectors(output)
    return dict(zip(found.names, found.vectors))


def test_each_item_with_a_text_has_the_encoders_vector_of_it(encode, encoders):
    from sentence_transformers import SentenceTransformer

    code, output, out, _ = encode()
    vectors = vector_of(output)
    assert code == 0 and list(vectors) == list(TEXTS)
    model = SentenceTransformer(str(encoders / "first"), device="cpu")
    expected = model.encode(list(TEXTS.values()), show_progress_bar=False)
    np.testing.assert_allclose(np.stack(list(vectors.values())), expected, atol=1e-6)
    assert "2 items have no text, and no vector: i3, i6" in out and "3 texts to encode, on cpu" in out
    note = json.loads((output / "text-vectors.json").read_text())
    assert (note["items"], note["items_without_text"], note["texts"], note["d"]) == (4, 2, 3, 16)
    assert note["columns"] == ["title", "kind"]


def test_columns_in_the_order_that_is_asked_for(encode):
    _, output, out, _ = encode("--text_columns=kind, price,title")
    assert "that of i1: 'lamp, 7, red lamp'" in out
    assert list(vector_of(output)) == ITEMS  # all have a price
    for same in ("--text_columns=kind price title", "--text_columns=[kind, price, title]"):
        assert "that of i1: 'lamp, 7, red lamp'" in encode(same)[2]
    _, output, _, _ = encode("--text_columns=kind")
    assert list(vector_of(output)) == ["i1", "i 4", "ä"]


def test_a_text_is_encoded_once(encode, shop, monkeypatch):
    _, output, *_ = encode()
    first = {file.name: file.read_bytes() for file in output.iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(making, "SentenceEncoder", None)  # not even loaded
        code, output, out, _ = encode()
    assert code == 0 and "3 texts are in" in out
    assert {file.name: file.read_bytes() for file in output.iterdir()} == first
    write_items(shop, [*TITLES[:-1], "oak chair"])
    _, output, out, _ = encode()
    assert "3 texts are in" in out and "  1 text to encode" in out and "i6" in vector_of(output)


def test_another_encoder_has_other_vectors(encode, encoders):
    first = vector_of(encode()[1])
    _, output, out, _ = encode(encoder=encoders / "second")
    assert "encoded before" not in out
    assert all(np.abs(vector - first[name]).max() > 1e-3 for name, vector in vector_of(output).items())


def test_without_a_cache_nothing_is_kept(encode, shop):
    assert encode("--text_cache=False")[0] == 0
    assert not (shop / ".cache").exists()
    assert encode(f"--text_cache={shop / 'mine.sqlite'}")[0] == 0
    assert (shop / "mine.sqlite").exists() and not (shop / ".cache").exists()


def test_what_was_encoded_before_an_interruption_is_kept(encode, monkeypatch, shop):
    monkeypatch.setattr(making, "AT_ONCE", 2)
    encode_part, parts = making.SentenceEncoder.encode, []

    def stop_at_the_second(self, texts):
        parts.append(texts)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return encode_part(self, texts)

    with monkeypatch.context() as patched:
        patched.setattr(making.SentenceEncoder, "encode", stop_at_the_second)
        code, output, *_ = encode()
    assert code == 130 and not output.exists()
    code, _, out, _ = encode()
    assert code == 0 and "2 texts are in" in out and "1 text to encode" in out


def test_texts_that_are_longer_than_what_is_read_are_told(encode, shop):
    write_items(shop, [*TITLES[:-1], "red " * 20])
    told = "1 text is longer than what the encoder reads"
    assert told in encode()[2]
    _, output, out, _ = encode()
    assert told in out and "4 texts are in" in out  # from the cache, too
    assert json.loads((output / "text-vectors.json").read_text())["texts_cut"] == 1


def test_the_first_line_of_an_item_counts(encode, shop):
    write_items(shop, more="i1\tgreen desk\t\t7\ni3\toak\t\t7\n\tno name\t\t7\n")
    _, output, out, _ = encode("--text_columns=title")
    assert "2 lines are of items that have another one: the first with a text counts" in out
    assert "that of i1: 'red lamp'" in out and "i3" in vector_of(output)
    assert "without a value in 'item_id'" in out


def test_tokenize_reads_them(encode, shop):
    _, output, *_ = encode()
    where = [f"--item_vectors={output}", f"--output={shop / 'ids'}", f"--data_path={shop}"]
    assert cli.main(["tokenize", "--codes=2", "--dataset=shop", *where]) == 0
    assert len((shop / "ids/semantic-ids.tsv").read_text().splitlines()) == 5


def test_a_package_is_looked_at_and_not_imported(encode, encoders, tmp_path, monkeypatch):
    package = tmp_path / "site/an_encoder"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    shutil.copytree(encoders / "first", package / "model")
    monkeypatch.syspath_prepend(str(package.parent))
    by_folder = vector_of(encode("--text_cache=False")[1])
    code, output, *_ = encode("--text_cache=False", encoder="an-encoder")
    assert code == 0 and "an_encoder" not in sys.modules
    assert all((vector == by_folder[name]).all() for name, vector in vector_of(output).items())
    shutil.copytree(encoders / "second", package / "other")
    assert "has 2 folders with a sentence encoder" in encode(encoder="an-encoder")[3]


# What is refused


def refused(encoder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_encoder(str(encoder))


def test_weights_as_a_pickle_are_refused(encoder):
    (encoder / "model.safetensors").rename(encoder / "pytorch_model.bin")
    refused(encoder, r"pytorch_model\.bin holds weights as a pickle")
    (encoder / "other.safetensors").write_bytes(b"")
    refused(encoder, r"pytorch_model\.bin holds weights as a pickle")
    (encoder / "pytorch_model.bin").rename(encoder / "model.safetensors")
    (encoder / "1_Pooling/weights.bin").write_bytes(b"")
    refused(encoder, r"weights\.bin holds weights as a pickle")
    (encoder / "1_Pooling/weights.bin").unlink()
    index = encoder / "model.safetensors.index.json"
    for shard in ("../first/model.safetensors", "/tmp/model.safetensors", "shard.dat", 3):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        refused(encoder, "must name files .safetensors beside it")
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    find_encoder(str(encoder))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 8, "tokenizer_name_or_path": "owner/name"}),
        ("config.json", {"base_model_name_or_path": "owner/name"}),
        ("1_Pooling/config.json", {"deep": [{"tokenizer_name_or_path": "../elsewhere"}]}),
        ("sentence_bert_config.json", {"model_kwargs": {"attn_implementation": "owner/name"}}),
        ("adapter_config.json", {}),
    ],
)
def test_what_is_not_in_the_folder_is_not_read(file, content, encoder):
    (encoder / file).write_text(json.dumps(content))
    refused(encoder, "what is not in the encoder's folder is not read|belongs to an adapter of another model")


def test_no_look_up_leaves_this_machine(encode, monkeypatch):
    def fail(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    monkeypatch.setattr(socket.socket, "connect", fail)
    assert encode()[0] == 0


def test_an_encoder_that_lacks_weights_is_refused_and_keeps_nothing(encoder, encode):
    weights = load_file(encoder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "attention" not in name}, encoder / "model.safetensors"
    )
    code, output, _, error = encode(encoder=encoder)
    assert code == 2 and "lacks weights" in error and not output.exists() and not (output.parent / ".cache").exists()


def test_an_encoder_without_its_tokenizer_is_refused(encoder, encode):
    (encoder / "tokenizer.json").unlink()
    code, output, _, error = encode(encoder=encoder)
    assert code == 2 and "has no tokenizer" in error and not output.exists()


def test_encoders_of_other_kinds(encode, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = StaticEmbedding(tokenizer, embedding_dim=6)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    code, output, _, error = encode(encoder=tmp_path / "static")
    assert code == 0, error
    assert vector_of(output)["i1"].shape == (6,)


def test_a_prompt_is_told_and_counts_as_tokens(encoder, encode):
    settings = json.loads((encoder / "config_sentence_transformers.json").read_text())
    settings |= {"prompts": {"item": "small green oak "}, "default_prompt_name": "item"}
    (encoder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    out = encode(encoder=encoder)[2]
    assert "each behind 'small green oak '" in out and "2 texts are longer than what the encoder reads" in out


def test_the_digest_sees_all_files_those_behind_links_too(encoder, tmp_path):
    first = find_encoder(str(encoder)).digest()
    (encoder / "1_Pooling").rename(tmp_path / "pooling")
    (encoder / "1_Pooling").symlink_to(tmp_path / "pooling")
    assert find_encoder(str(encoder)).digest() == first
    (tmp_path / "pooling/config.json").write_text("{}")
    second = find_encoder(str(encoder)).digest()
    (encoder / "again").symlink_to(encoder)  # a circle
    assert first != second == find_encoder(str(encoder)).digest()


def test_other_forms_beside_safetensors_are_not_read(encoder, encode):
    (encoder / "pytorch_model.bin").write_bytes(b"no pickle")
    (encoder / "openvino").mkdir()
    (encoder / "openvino/openvino_model.bin").write_bytes(b"not read")
    assert encode(encoder=encoder)[0] == 0


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([{"type": "foreign.module.Class", "path": ""}], "names the class foreign.module.Class"),
        ([{"type": "sentence_transformers.models.Transformer", "path": "../first"}], "outside of the folder"),
        ([{"path": ""}], "is damaged"), ({"a": 1}, "is damaged"), ([], "names no parts"),
    ],
)  # fmt: skip
def test_parts_that_are_none_of_the_librarys_are_refused(modules, message, encoder):
    (encoder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=message):
        find_encoder(str(encoder))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_encoder_is_named(file, encoder, encode):
    (encoder / file).write_bytes(b"{" + (encoder / file).read_bytes()[:40])
    code, output, _, error = encode(encoder=encoder)
    assert code == 2 and f"{encoder}" in error and not output.exists() and not (output.parent / ".cache").exists()
    assert "is no encoder that sentence-transformers can load" in error or "is damaged" in error


@pytest.mark.parametrize("given", ["sentence-transformers/all-MiniLM-L6-v2", "no_such_package", "os.path", "json"])
def test_what_is_not_here_is_not_downloaded(given, encode):
    code, output, _, error = encode(encoder=given)
    assert code == 2 and ("nothing is downloaded here" in error or "has 0 folders" in error) and not output.exists()


def test_numbers_that_are_none_are_refused(encode, monkeypatch):
    monkeypatch.setattr(
        "sentence_transformers.SentenceTransformer.encode", lambda self, texts, **_: np.full((len(texts), 16), np.nan)
    )
    code, output, _, error = encode("--text_cache=False")
    assert code == 2 and "gives numbers that are none for 'small oak desk, desk'" in error and not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text_columns=titel"], "Did you mean title?"),
        (["--text_columns=,"], "names no column"),
        (["--text_columns=item_id"], "leave it out"),
        (["--item=sku"], "has no column 'sku'"),
        (["--as=pasrec"], "--as does not go with --text_encoder"),
        (["--from=x.csv"], "--from does not go with --text_encoder"),
        (["--text_cache=shop"], "is a folder"),
    ],
)
def test_options_that_cannot_be(options, message, encode, shop, monkeypatch):
    monkeypatch.chdir(shop)
    code, output, _, error = encode(*options)
    assert code == 2 and message in error and not output.exists()


def test_data_without_texts(encode, shop):
    (shop / "shop/shop.item").write_text("item_id:token\tprice:float\ni1\t3\n")
    assert "no column of type token_seq" in encode()[3]
    (shop / "shop/shop.item").write_text("item_id:token\ttitle:token_seq\ni1\t\n")
    assert "has no text in title" in encode()[3]
    (shop / "shop/shop.item").unlink()
    assert "shop has no file of its items" in encode()[3]


def test_a_file_of_something_else_is_no_cache_and_stays(encode, shop):
    other = shop / "other.sqlite"
    other.write_text("a text" * 100)
    code, _, _, error = encode(f"--text_cache={other}")
    assert code == 2 and "is no cache of text vectors" in error and other.read_text() == "a text" * 100
    other.unlink()
    with sqlite3.connect(other) as file:
        file.execute("CREATE TABLE mine (a)")
    assert "is a data base of something else" in encode(f"--text_cache={other}")[3]


@pytest.mark.parametrize("value", [b"", b"123", None, "text", np.full(16, np.nan, np.float32).tobytes(), b"1234" * 3])
def test_a_damaged_row_of_the_cache_is_no_vector(value, encode, shop):
    assert encode()[0] == 0
    with sqlite3.connect(shop / ".cache/text-vectors.sqlite") as file:
        file.execute("UPDATE vectors SET vector = ? WHERE text = (SELECT min(text) FROM vectors)", (value,))
    code, output, _, error = encode()
    assert code == 2 and "is damaged" in error and "remove it" in error and not output.exists()


def test_an_output_that_something_else_would_lie_in(shop, encoder, monkeypatch, capsys):
    monkeypatch.chdir(shop)
    line = ["prepare", "shop", f"--text_encoder={encoder}", f"--data_path={shop}"]
    for output, told in (
        (shop / ".cache", "would hold"), (shop / "new", "would hold"), (encoder / "x", "the encoder's folder")
    ):  # fmt: skip
        options = [f"--text_cache={shop / 'new/c.sqlite'}"] if output.name == "new" else []
        assert cli.main([*line, f"--output={output}", *options]) == 2
        assert told in capsys.readouterr().err
    assert not (shop / "new").exists() and not (shop / ".cache").exists()


def test_items_alone_and_other_separators(encode, shop, encoders, capsys):
    (shop / "new").mkdir()
    head = "sku:token,movie title:token_seq,kind:token_seq\n"
    (shop / "new/new.item").write_text(head + "a,red lamp,x\nb,grüner chair,y\n", encoding="latin-1")
    line = [
        "prepare",
        "new",
        f"--text_encoder={encoders / 'first'}",
        f"--data_path={shop}",
        "--text_columns=movie title",
    ]
    keys = ["--item=sku", "--field_separator=,", "--encoding=latin-1"]
    assert cli.main([*line, *keys, f"--output={shop / 'out'}"]) == 0
    assert list(vector_of(shop / "out")) == ["a", "b"] and "that of a: 'red lamp'" in capsys.readouterr().out


def test_the_items_names_are_no_text_by_default(encode):
    assert "from kind (" in encode("--item=title")[2]


def test_the_cache_keeps_the_encoders_apart(tmp_path):
    vector = TextVector(np.arange(3, dtype=np.float32), True)
    path = tmp_path / "cache.sqlite"
    cache = VectorCache(path, "one")
    assert cache.find(["another"]) == {} and not path.exists()
    cache.add({"a text": vector})
    many = ["a text", *map(str, range(2000))]
    found = VectorCache(path, "one").find(many)
    assert list(found) == ["a text"] and found["a text"].is_cut
    np.testing.assert_array_equal(found["a text"].vector, vector.vector)
    assert VectorCache(path, "two").find(many) == {}
