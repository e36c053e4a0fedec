"""The section `published` of the papers' settings: the numbers that the papers print, and what is refused of it."""

import re

import pytest
import yaml

from recbole_gen.config import places
from recbole_gen.config.config import Config
from recbole_gen.config.early_checks import check_models
from recbole_gen.config.papers import measured_metrics, paper_names, read_paper
from recbole_gen.config.registry import MODELS
from recbole_gen.errors import UserError

# Copies of the tables as our notes on the papers have them; the YAML files were filled from the papers.
DREAMREC = """
YooChoose | KuaiRec | Zhihu
GRU4Rec 3.89±.11 / 1.62±.02 | 3.32±.11 / 1.23±.08 | 1.78±.12 / 0.67±.03
Caser 4.06±.12 / 1.88±.09 | 2.88±.19 / 1.07±.07 | 1.57±.05 / 0.59±.01
SASRec 3.68±.08 / 1.63±.02 | 3.92±.18 / 1.53±.11 | 1.62±.01 / 0.60±.03
IPS 3.81±.05 / 1.73±.03 | 3.73±.03 / 1.40±.05 | 1.66±.04 / 0.64±.02
AdaRanker 3.74±.06 / 1.67±.04 | 4.14±.09 / 1.89±.05 | 1.70±.04 / 0.61±.02
CL4SRec 4.45±.04 / 1.86±.02 | 4.25±.10 / 2.01±.09 | 2.03±.06 / 0.74±.03
DiffRec 4.33±.02 / 1.84±.01 | 3.74±.08 / 1.77±.05 | 1.82±.03 / 0.65±.09
DreamRec 4.78±.06 / 2.23±.02 | 5.16±.05 / 4.11±.02 | 2.26±.07 / 0.79±.01
"""
DIFFREC = """
Beauty .0629/.0847/.1125 .0447/.0518/.0588 · Toys .0647/.0834/.1088 .0474/.0534/.0598
· ML-1M .2022/.2900/.3923 .1374/.1657/.1916
"""
DIFFREC_BASELINES = """
GRU4Rec .0332/.0175 · .0184/.0097 · .1344/.0649; SASRec .0592/.0284 · .0652/.0320 · .1810/.0918;
BERT4Rec .0598/.0306 · .0524/.0309 · .2219/.1097; STOSA .0659/.0382 · .0769/.0460 · .1889/.1021;
ACVAE .0690/.0354 · .0663/.0364 · .2033/.1145; VSAN .0759/.0389 · .0719/.0363 · .2015/.1007;
MFGAN .0605/.0310 · .0641/.0328 · .2086/.1040; CL4SRec .0630/.0307 · .0736/.0339 · .1815/.0920;
DuoRec .0825/.0447 · .0744/.0406 · .2540/.1370
"""
PASREC_MODELS = [
    "SASRec", "GRU4Rec", "BERT4Rec", "TiSASRec", "MEANTIME", "DiffuRec", "DreamRec", "PreferDiff", "PASRec",
]  # fmt: skip
PASREC = {
    "beauty-leave_one_out": ".80 1.47 .43 .65 | 1.73 2.81 1.14 1.49 | 1.21 2.22 .77 1.09 | 2.24 3.52 1.39 1.81 | "
    "1.94 3.15 1.21 1.61 | 1.61 2.37 .99 1.23 | 2.28 3.25 1.55 1.86 | 3.00 3.81 2.23 2.49 | 3.43 4.31 2.48 2.77",
    "toys-leave_one_out": ".64 1.27 .37 .57 | .81 1.31 .52 .68 | .71 1.10 .43 .56 | 1.69 2.65 1.03 1.34 | "
    ".69 1.34 .45 .66 | .09 .21 .05 .09 | 2.66 3.46 1.88 2.14 | 3.21 3.66 2.49 2.63 | 3.39 3.88 2.65 2.81",
    "sports-leave_one_out": ".63 1.29 .41 .62 | .58 1.14 .41 .59 | .82 1.56 .50 .73 | 1.14 1.73 .74 .92 | "
    ".97 1.51 .60 .77 | .65 1.15 .44 .60 | 1.05 1.49 .69 .84 | 1.50 1.93 1.06 1.20 | 1.66 2.14 1.21 1.36",
    "ml-10m": "2.86 5.30 1.68 2.46 | 6.62 10.66 4.25 5.55 | 1.17 2.32 .67 1.04 | 4.45 7.94 2.69 3.81 | "
    "5.23 9.15 3.27 4.52 | 6.65 10.83 4.21 5.55 | 3.82 5.48 2.75 3.28 | 6.48 8.98 4.48 5.28 | 8.89 11.67 6.43 7.33",
    "ml-20m": "2.28 4.52 1.33 2.05 | 7.38 11.50 4.76 6.08 | 1.26 2.46 .75 1.13 | 4.51 7.96 2.71 3.81 | "
    "5.67 9.55 3.56 4.80 | 7.49 11.93 4.82 6.25 | 3.58 4.99 2.55 3.01 | 6.32 8.83 4.33 5.14 | 8.96 11.95 6.39 7.35",
    "sports-benchmark": ".84 1.63 .50 .75 | 1.12 1.71 .67 .87 | 1.35 2.50 .93 1.30 | 1.29 1.71 .79 .92 | "
    ".95 1.74 .55 .80 | 1.01 1.60 .56 .74 | 1.54 1.97 1.23 1.36 | 1.85 2.19 1.47 1.58 | 2.11 2.50 1.65 1.78",
    "beauty-benchmark": ".89 1.70 .55 .82 | 1.88 2.59 1.15 1.38 | 2.15 3.53 1.31 1.75 | 2.06 4.16 1.41 2.08 | "
    "2.32 3.67 1.50 1.92 | 2.32 3.49 1.50 1.89 | 3.80 4.69 2.84 3.13 | 4.07 4.74 3.10 3.32 | 4.74 5.63 3.58 3.87",
    "toys-benchmark": ".72 .98 .58 .66 | 1.60 2.32 1.14 1.37 | .77 1.60 .55 .83 | 1.39 2.52 1.08 1.44 | "
    "1.70 2.06 1.12 1.24 | 2.01 2.73 1.47 1.70 | 4.43 5.51 3.37 3.73 | 4.27 5.05 3.31 3.56 | 4.94 5.61 3.84 4.06",
}
ACVAE = """
latest .052 .081 .155 .091 .092 .170 .145 .107 .179
1m .095 .188 .320 .158 .192 .339 .244 .212 .348
10m .112 .177 .302 .180 .190 .321 .270 .215 .330
yelp .023 .016 .018 .039 .021 .022 .066 .028 .025
"""
ACVAE_MODELS = ["ACVAE", "SVAE", "BERT4Rec", "GRU4Rec+", "Caser", "FPMC", "Mult-VAE", "CFGAN", "POP"]
ACVAE_AT_10 = """
latest .091 .092 .170 | .075 .074 .139 | .059 .057 .122 | .065 .075 .151 | .058 .060 .116 | .077 .077 .151 | .060 .066 .145 | .060 .070 .139 | .045 .055 .123
1m .158 .192 .339 | .129 .157 .289 | .092 .110 .218 | .104 .127 .247 | .114 .146 .271 | .113 .141 .267 | .063 .069 .139 | .062 .079 .160 | .043 .076 .155
10m .180 .190 .321 | .172 .184 .316 | .143 .144 .244 | .130 .132 .232 | .067 .072 .142 | .100 .101 .183 | .092 .094 .173 | .067 .074 .143 | .055 .060 .114
yelp .039 .021 .022 | .035 .020 .021 | .034 .019 .020 | .020 .011 .011 | .014 .008 .008 | .019 .010 .011 | .034 .019 .019 | .007 .004 .004 | .009 .005 .005
"""  # noqa: E501
DSPNET = """
DSPnet .6248 .5368 .6717 .5520
CARCA .5126 .4373 .5430 .4472
BERT4Rec .0943 .0676 .1384 .0819
"""
TIGER_MODELS = ["P5", "Caser", "HGN", "GRU4Rec", "BERT4Rec", "FDSA", "SASRec", "S3-Rec", "TIGER"]
TIGER = {
    "sports": " | .0116 .0072 .0194 .0097 | .0189 .0120 .0313 .0159 | .0129 .0086 .0204 .0110 "
    "| .0115 .0075 .0191 .0099 | .0182 .0122 .0288 .0156 | .0233 .0154 .0350 .0192 | .0251 .0161 .0385 .0204 "
    "| .0264 .0181 .0400 .0225",
    "beauty": ".0163 .0107 .0254 .0136 | .0205 .0131 .0347 .0176 | .0325 .0206 .0512 .0266 "
    "| .0164 .0099 .0283 .0137 | .0203 .0124 .0347 .0170 | .0267 .0163 .0407 .0208 | .0387 .0249 .0605 .0318 "
    "| .0387 .0244 .0647 .0327 | .0454 .0321 .0648 .0384",
    "toys": ".0070 .0050 .0121 .0066 | .0166 .0107 .0270 .0141 | .0321 .0221 .0497 .0277 "
    "| .0097 .0059 .0176 .0084 | .0116 .0071 .0203 .0099 | .0228 .0140 .0381 .0189 | .0463 .0306 .0675 .0374 "
    "| .0443 .0294 .0700 .0376 | .0521 .0371 .0712 .0432",
}


def numbers(text: str, scale: float = 1.0) -> list[float]:
    return [float(number) * scale for number in re.findall(r"\d*\.\d+", text)]


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


def rows(paper: str) -> dict[str, dict[str, float]]:
    return read_paper(paper).published.rows


def test_dreamrec_numbers_are_those_of_table_1():
    places_of = [name.strip() for name in lines(DREAMREC)[0].split("|")]
    for number, place in enumerate(places_of):
        published = read_paper(f"dreamrec-{place.lower()}").published
        assert published.metrics == ("Hit@20", "NDCG@20") and place in published.table
        assert published.rows.keys() == {line.split()[0] for line in lines(DREAMREC)[1:]}
        for line in lines(DREAMREC)[1:]:
            hit, hit_sd, ndcg, ndcg_sd = numbers(line.split("|")[number].replace(line.split()[0], ""), 0.01)
            row = line.split()[0]
            assert list(published.rows[row].values()) == pytest.approx([hit, ndcg])
            assert list(published.sd[row].values()) == pytest.approx([hit_sd, ndcg_sd])


def test_diffrec_numbers_are_those_of_table_2():
    names = ("beauty", "toys", "ml-1m")
    for name, part in zip(names, DIFFREC.split("·")):
        found = read_paper(f"diffrec-{name}").published
        assert found.metrics == ("Hit@5", "Hit@10", "Hit@20", "NDCG@5", "NDCG@10", "NDCG@20")
        assert list(found.rows["DiffRec"].values()) == pytest.approx(numbers(part))
    for line in DIFFREC_BASELINES.split(";"):
        model, text = line.split(maxsplit=1)
        for name, part in zip(names, text.split("·")):
            row = rows(f"diffrec-{name}")[model]
            assert [row["Hit@10"], row["NDCG@10"]] == pytest.approx(numbers(part))


@pytest.mark.parametrize("name", PASREC)
def test_pasrec_numbers_are_those_of_tables_3_and_4(name):
    table = dict(zip(PASREC_MODELS, PASREC[name].split("|")))
    also = [f"preferdiff-{name}", f"preferdiff-{name}-cosine"] if name.endswith("benchmark") else []
    for paper in [f"pasrec-{name}", *also]:
        found = read_paper(paper).published
        assert found.metrics == ("Hit@5", "Hit@10", "NDCG@5", "NDCG@10")
        assert found.rows.keys() == table.keys()
        for model, text in table.items():
            assert list(found.rows[model].values()) == pytest.approx(numbers(text, 0.01)), model


# lambda, w; gamma and eta of leave one out; of the fixed split; length of the history: appendix B
PASREC_SETTINGS = {
    "beauty": (0.4, 8, 0.8, 0.2, 0.3, 0.1, 10),
    "sports": (0.4, 2, 0.4, 0.8, 1.0, 0.8, 10),
    "toys": (0.6, 6, 0.3, 0.5, 0.1, 0.9, 10),
    "ml-10m": (0.8, 4, 0.6, 0.2, None, None, 50),
    "ml-20m": (0.7, 5, 0.3, 0.5, None, None, 50),
}
PASREC_ENCODINGS = {
    "beauty-leave_one_out": "rff", "sports-leave_one_out": "rff", "toys-leave_one_out": "gaussian",
}  # fmt: skip


@pytest.mark.parametrize("name", PASREC)
def test_pasrec_settings_are_those_of_appendix_b(name):
    lambda_, w, gamma, eta, gamma_fixed, eta_fixed, length = PASREC_SETTINGS[name.split("-leave")[0].split("-bench")[0]]
    if name.endswith("benchmark"):
        gamma, eta = gamma_fixed, eta_fixed
    settings = read_paper(f"pasrec-{name}").settings
    found = [settings[key] for key in ("lambda_", "guidance_scale", "gamma", "eta", "MAX_ITEM_LIST_LENGTH")]
    assert found == [lambda_, w, gamma, eta, length]
    assert settings["time_encoding"] == PASREC_ENCODINGS.get(name, "sinusoidal")
    assert settings.get("last_events") == (11 if name.endswith("-leave_one_out") else None)
    preferdiff = read_paper(f"pasrec-{name}").published.baselines["PreferDiff"]
    assert [preferdiff[key] for key in ("lambda_", "guidance_scale")] == [lambda_, w]


@pytest.mark.parametrize("data", ["beauty", "toys", "sports"])
def test_the_cosine_setting_of_preferdiff_differs_in_its_error_alone(data):
    mean, cosine = (read_paper(f"preferdiff-{data}-benchmark{end}") for end in ("", "-cosine"))
    assert cosine.settings == mean.settings | {"error": "cos_sq"} and mean.settings["error"] == "mse_mean"
    assert cosine.published.baselines == mean.published.baselines


@pytest.mark.parametrize("data", ["beauty", "toys", "ml-1m"])
def test_the_small_setting_of_diffrec_gives_sasrec_what_it_has(data):
    """Else a difference between the two would be one of size or training."""
    paper = read_paper(f"diffrec-{data}-small")
    same = (
        "train_pairs", "hidden_size", "inner_size", "n_layers", "n_heads", "loss", "loss_negatives", "learning_rate",
        "lr_scheduler", "epochs", "eval_step", "stopping_step",
    )  # fmt: skip
    sasrec = paper.published.baselines["SASRec"]
    assert {key: sasrec.get(key) for key in same} == {key: paper.settings.get(key) for key in same}
    assert sasrec["hidden_dropout_prob"] == sasrec["attn_dropout_prob"] == paper.settings["dropout_prob"]


def test_acvae_numbers_are_those_of_table_2():
    papers = {"latest": "acvae-ml-latest", "1m": "acvae-ml-1m", "10m": "acvae-ml-10m", "yelp": "acvae-yelp"}
    for line in lines(ACVAE):
        name, text = line.split(maxsplit=1)
        assert list(rows(papers[name])["ACVAE"].values()) == pytest.approx(numbers(text))
    for line in lines(ACVAE_AT_10):
        name, text = line.split(maxsplit=1)
        found = rows(papers[name])
        assert found.keys() == set(ACVAE_MODELS)
        for model, part in zip(ACVAE_MODELS, text.split("|")):
            assert [found[model][f"{metric}@10"] for metric in ("Recall", "NDCG", "MRR")] == pytest.approx(
                numbers(part)
            )


def test_dspnet_numbers_are_those_of_table_1():
    assert read_paper("dspnet-outbrain").published.metrics == ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10")
    for line in lines(DSPNET):
        model, text = line.split(maxsplit=1)
        assert list(rows("dspnet-outbrain")[model].values()) == pytest.approx(numbers(text))


@pytest.mark.parametrize("name", TIGER)
def test_tiger_numbers_are_those_of_table_1(name):
    """As several others quote the table; P5's of Sports are not among them."""
    found = read_paper(f"tiger-{name}").published
    assert found.metrics == ("Recall@5", "NDCG@5", "Recall@10", "NDCG@10")
    table = {model: numbers(text) for model, text in zip(TIGER_MODELS, TIGER[name].split("|")) if text.strip()}
    assert {model: list(row.values()) for model, row in found.rows.items()} == table


@pytest.mark.parametrize("name", paper_names())
def test_published_sections_are_sound(name):
    paper = read_paper(name)
    assert "published" not in paper.settings
    if paper.published is None:
        return
    assert paper.settings["model"] in paper.published.rows
    assert set(paper.published.metrics) <= set(measured_metrics(paper.settings))
    files = {}
    for label, own in paper.published.baselines.items():
        if label != "Transitions" or label in MODELS:
            files[label] = [(f"baseline {label}", own)]
    shared = {key: paper.settings[key] for key in ("dataset", "protocol")}
    check_models(shared, files)  # the models exist
    for label, own in files.items():
        check_models(shared, {label: own})  # and have all of these keys


@pytest.fixture
def write_paper(tmp_path, monkeypatch):
    """write_paper(**changes) writes paper/mine.yaml with a changed section, in a copy of properties/."""
    for name in ("overall.yaml", "recbole.yaml", "recbole_models.yaml", "protocol", "model", "dataset", "paper"):
        (tmp_path / "properties").mkdir(exist_ok=True)
        (tmp_path / "properties" / name).symlink_to(places.PROPERTIES / name)
    (tmp_path / "properties/paper").unlink()
    (tmp_path / "properties/paper").mkdir()
    monkeypatch.setattr(places, "PROPERTIES", tmp_path / "properties")

    def write(name="mine", section=None, **changes):
        whole = {"paper": "Somebody", "table": "table 1", "unit": "percent", "metrics": ["Hit@5"]}
        whole |= {"rows": {"DreamRec": [4.1], "Caser": [3.95]}, **changes}
        whole = {key: value for key, value in whole.items() if value is not None} if section is None else section
        text = yaml.safe_dump({"model": "DreamRec", "dataset": "ml-100k", "published": whole})
        (tmp_path / f"properties/paper/{name}.yaml").write_text(text)

    return write


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"metrics": ["Hitt@5"]}, "does not measure 'Hitt@5'. Did you mean Hit@5"),
        ({"metrics": ["Hit@50"]}, "does not measure 'Hit@50'"),
        ({"metrics": ["Hit@5", "Hit@5"], "rows": {"DreamRec": [1.0, 1.0]}}, "more than once"),
        ({"unit": "points"}, "unit must be one of percent, fraction"),
        ({"rows": {"DreamRec": [1.0, 2.0]}}, "DreamRec must have a number, or ~, for each of the 1 metrics"),
        ({"rows": {"DreamRec": ["4.1 %"]}}, "DreamRec must have a number"),
        ({"rows": {"DreamRec": [410.0]}}, "DreamRec has a number that is no percent"),
        ({"rows": {}}, "rows is missing"),
        ({"table": None}, "table is missing"),
        ({"tabel": "1"}, "unknown key 'tabel'. Did you mean table"),
        ({"baselines": {"Caser": [1]}}, "baselines: Caser must have the keys"),
        ({"section": [1, 2]}, "it must hold paper, table"),
    ],
)
def test_a_wrong_section_is_refused_by_a_run_too(write_paper, changes, told):
    write_paper(**changes)
    with pytest.raises(UserError, match=re.escape(told)):
        read_paper("mine")
    with pytest.raises(UserError, match=re.escape(told)):
        Config(config_dict={"paper": "mine"})


def test_a_setting_can_have_the_numbers_of_another(write_paper):
    write_paper()
    write_paper("larger", section={"same_as": "mine", "baselines": {"Caser": {"epochs": 3}}})
    found = read_paper("larger").published
    assert found.rows == {"DreamRec": {"Hit@5": 0.041}, "Caser": {"Hit@5": 0.0395}} and found.decimals == 4
    assert found.baselines == {"Caser": {"epochs": 3}} and found.same_as == "mine"
    assert Config(config_dict={"paper": "larger"})["published"] is None
    write_paper("lost", section={"same_as": "larger"})  # which has none of its own
    with pytest.raises(UserError, match="no such section"):
        read_paper("lost")
