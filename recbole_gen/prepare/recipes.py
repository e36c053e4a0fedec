"""The data sets of the papers: where each comes from, how its files are read, and what every paper makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.prepare.fields import ITEM, RATING, SCENE, SESSION, TIME, USER
from recbole_gen.prepare.sources import ISO, DelimitedFile, JoinedFiles, JsonLinesFile, Source, UserLinesFile

if TYPE_CHECKING:
    from recbole_gen.prepare.log import Log


@dataclass(frozen=True)
class Step:
    """One step of a paper's filtering, in words, and as the name of a function of `filters` with its arguments."""

    words: str
    filter: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, log: Log) -> Log:
        """The log after the step."""
        from recbole_gen.prepare import filters  # not above: recipes are listed without numpy and pyarrow

        return getattr(filters, self.filter)(log, *self.arguments, **self.options)


@dataclass(frozen=True)
class Version:
    """What a paper makes of a data set.

    Attributes:
        paper: its name in the table of statistics.
        published: statistic -> number as the paper prints it.
        sequences: the users are sequences, `session_id` in the file, which are written one after the other in time.
        counted_last: the paper counts the latest interactions of each user, so many at most; the file has all.
        name: of the data set; None for that of the recipe and the option, `ml-1m-acvae`.
    """

    paper: str
    steps: tuple[Step, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    sequences: bool = False
    counted_last: int | None = None
    name: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A data set of a publisher.

    Attributes:
        sources: the forms in which its files are known, the current one first.
        page: where a person finds it.
        url: where it is fetched from; None where the publisher has it behind a form.
        file_name: of what is fetched, where the address does not end in it.
        needs_agreement: the publisher wants its terms agreed to before the data is fetched.
        steps: of every version, the plain one too.
        renamed_fields: field -> its name in the atomic file, where it is another one.
        versions: option of `--as` -> what that paper makes of it.
        remark: what to know about it.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    page: str
    licence: str
    citation: str
    url: str | None = None
    file_name: str | None = None
    md5: str | None = None
    needs_agreement: bool = False
    steps: tuple[Step, ...] = ()
    renamed_fields: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Version] = field(default_factory=dict)
    remark: str = ""

    def dataset_name(self, paper: str | None) -> str:
        """Name of the data set that a version is written as."""
        if paper is None:
            return self.name
        return self.versions[paper].name or f"{self.name}-{paper}"


def _keep_above(name: str, least: float) -> Step:
    return Step(f"{name} above {least:g}", "keep_above", (name, least))


def _users_with(least: int, what: str = "users") -> Step:
    return Step(f"{what} with {least} interactions or more", "keep_frequent", (USER, least))


def _items_with(least: int) -> Step:
    return Step(f"items with {least} interactions or more", "keep_frequent", (ITEM, least))


def _k_core(number: int) -> Step:
    return Step(f"{number}-core, counted until it holds", "k_core", (number, number))


def _keep_last(number: int) -> Step:
    return Step(f"the last {number} interactions of each user", "keep_last", (number,))


_UNSEEN = "The publisher's files were not at hand when this was written: the rule is the paper's text alone."
_PASREC_HISTORY = (
    "PASRec does not say how long its sequences are here; 51 is a history of 50 and a target, as for its other data "
    "a history of 10."
)


def _pasrec(users: str, items: str, interactions: str, last: int = 11, note: str = "") -> Version:
    published = {"users": users, "items": items, "interactions": interactions}
    return Version("PASRec", (_k_core(5), _keep_last(last)), published, note)


def _diffrec(users: str, items: str, interactions: str, note: str = "") -> Version:
    return Version("DiffRec", (), {"users": users, "items": items, "interactions": interactions}, note)


def _acvae(
    users: str, items: str, interactions: str, length: str, counted_last: int | None = None, more=(), note=""
) -> Version:
    published = {"users": users, "items": items, "interactions": interactions, "mean length": length}
    return Version("ACVAE", (*more, _keep_above(RATING, 3), _users_with(5)), published, note, counted_last=counted_last)


_GROUPLENS = (
    "research use with acknowledgement, no redistribution without permission, no commercial use (README in the archive)"
)
_HARPER = (
    "F. Maxwell Harper and Joseph A. Konstan. The MovieLens Datasets: History and Context. ACM TiiS 5(4), 2015. "
    "https://doi.org/10.1145/2827872"
)
_RATINGS = {USER: "userId", ITEM: "movieId", RATING: "rating", TIME: "timestamp"}
_PLAIN = {USER: "user", ITEM: "item", RATING: "rating", TIME: "time"}
_LATE = "The paper's mean length is the ratio of its rounded numbers, 46K / 604."


def _movielens(name: str, title: str, source: Source, md5: str | None = None, versions=None) -> Recipe:
    return Recipe(
        name, title, (source,), "https://grouplens.org/datasets/movielens/", _GROUPLENS, _HARPER,
        url=f"https://files.grouplens.org/datasets/movielens/{name}.zip", md5=md5, versions=versions or {},
    )  # fmt: skip


_MOVIELENS = (
    _movielens(
        "ml-100k", "MovieLens 100K",
        DelimitedFile("u.data", _PLAIN, "\t", tuple(_PLAIN.values())), "0e33842e24a9c977be4e0107933c0723",
    ),
    _movielens(
        "ml-latest-small", "MovieLens latest, small", DelimitedFile("ratings.csv", _RATINGS),
        versions={"acvae": _acvae("604", "7.4K", "46K", "76.2", counted_last=200, note=_LATE)},
    ),
    _movielens(
        "ml-1m", "MovieLens 1M", DelimitedFile("ratings.dat", _PLAIN, "::", tuple(_PLAIN.values())),
        "c4d9eecfca2ab87c1945afe126590906",
        {
            "diffrec": _diffrec("6,040", "3,953", "1,000,209",
                                "The paper's 3,953 is one more than the largest id of an item; 3,706 items occur."),
            "acvae": _acvae("6K", "3.5K", "580K", "95.3"),
        },
    ),
    _movielens(
        "ml-10m", "MovieLens 10M", DelimitedFile("ratings.dat", _PLAIN, "::", tuple(_PLAIN.values())),
        "ce571fd55effeba0271552578f2648bd",
        {
            "pasrec": _pasrec("69,878", "10,027", "3,054,340", 51, _PASREC_HISTORY),
            "acvae": _acvae("69,414", "10,472", "4.7M", "67.8", counted_last=200),
        },
    ),
    _movielens(
        "ml-20m", "MovieLens 20M", DelimitedFile("ratings.csv", _RATINGS), "cd245b17a1ae2cc31bb14903e1204af3",
        {"pasrec": _pasrec("138,493", "17,177", "6,013,602", 51, _PASREC_HISTORY)},
    ),
)  # fmt: skip

_REVIEWS = {USER: "reviewerID", ITEM: "asin", RATING: "overall", TIME: "unixReviewTime"}
_AMAZON = (
    "Books", "Electronics", "Movies_and_TV", "CDs_and_Vinyl", "Clothing_Shoes_and_Jewelry", "Home_and_Kitchen",
    "Kindle_Store", "Sports_and_Outdoors", "Cell_Phones_and_Accessories", "Health_and_Personal_Care", "Toys_and_Games",
    "Video_Games", "Tools_and_Home_Improvement", "Beauty", "Apps_for_Android", "Office_Products", "Pet_Supplies",
    "Automotive", "Grocery_and_Gourmet_Food", "Patio_Lawn_and_Garden", "Baby", "Digital_Music", "Musical_Instruments",
    "Amazon_Instant_Video",
)  # fmt: skip
_AMAZON_VERSIONS = {
    "Beauty": {
        "diffrec": _diffrec("22,363", "12,101", "198,502"), "pasrec": _pasrec("22,363", "12,101", "162,150"),
    },
    "Toys_and_Games": {
        "diffrec": _diffrec("19,412", "11,924", "167,597"), "pasrec": _pasrec("19,412", "11,921", "138,444"),
    },
    "Sports_and_Outdoors": {"pasrec": _pasrec("35,598", "18,357", "256,598")},
}  # fmt: skip
_SHORT = {"Toys_and_Games": "toys", "Sports_and_Outdoors": "sports", "Amazon_Instant_Video": "instant-video"}


def _amazon(category: str) -> Recipe:
    return Recipe(
        f"amazon-{_SHORT.get(category) or _slug(category)}",
        f"Amazon reviews of 2014, {category.replace('_', ' ')}, 5-core",
        (JsonLinesFile(f"reviews_{category}_5.json", _REVIEWS),), "https://jmcauley.ucsd.edu/data/amazon/",
        "no formal licence; offered for research",
        "R. He and J. McAuley. Ups and Downs: Modeling the Visual Evolution of Fashion Trends with One-Class "
        "Collaborative Filtering. WWW 2016. J. McAuley, C. Targett, Q. Shi and A. van den Hengel. Image-based "
        "Recommendations on Styles and Substitutes. SIGIR 2015.",
        url=f"http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_{category}_5.json.gz",
        versions=_AMAZON_VERSIONS.get(category, {}),
        remark="RecBole's mirror has all ratings under this name; this is the 5-core, as the papers use it.",
    )  # fmt: skip


def _slug(category: str) -> str:
    return category.lower().replace("_", "-")


_YELP = Recipe(
    "yelp", "Yelp Open Dataset, reviews",
    (JsonLinesFile("yelp_academic_dataset_review.json",
                   {USER: "user_id", ITEM: "business_id", RATING: "stars", TIME: "date"}, ISO),),
    "https://business.yelp.com/data/resources/open-dataset/",
    "Yelp Dataset User Agreement: academic use, no redistribution",
    "Yelp Open Dataset.", needs_agreement=True,
    renamed_fields={ITEM: "business_id", RATING: "stars", TIME: "date"},
    versions={"acvae": _acvae(
        "50,635", "31,637", "557K", "11.0",
        more=(Step("reviews since 2018", "keep_from", (1514764800,)),),
        note="Yelp adds and removes reviews with every release, and the paper does not say which one it has.")},
)  # fmt: skip

_SEQUENCES = (_items_with(5), _users_with(3, "sequences"))
_BUYS = DelimitedFile(
    "yoochoose-buys.dat", {USER: "session", ITEM: "item", TIME: "time"},
    titles=("session", "time", "item", "price", "quantity"), unit=ISO,
)  # fmt: skip
_SESSION_CLICKS = DelimitedFile(
    "yoochoose-clicks.dat", {USER: "session", ITEM: "item", TIME: "time"},
    titles=("session", "time", "item", "category"), unit=ISO,
)  # fmt: skip


def _yoochoose(name: str, what: str, source: DelimitedFile, versions: Mapping[str, Version]) -> Recipe:
    return Recipe(
        name, f"YOOCHOOSE of the RecSys Challenge 2015, {what}", (source,),
        "https://www.kaggle.com/datasets/chadgostopp/recsys-challenge-2015", "CC BY-NC-ND 4.0",
        "D. Ben-Shimon et al. RecSys Challenge 2015 and the YOOCHOOSE Dataset. RecSys 2015. "
        "https://doi.org/10.1145/2792838.2798723",
        url="https://s3-eu-west-1.amazonaws.com/yc-rdata/yoochoose-data.7z",
        renamed_fields={USER: SESSION}, versions=versions,
    )  # fmt: skip


_YOOCHOOSE_DREAMREC = Version(
    "DreamRec",
    (
        _items_with(5),
        Step("the first purchase of an item in a session", "drop_duplicates", (USER, ITEM)),
        _users_with(3, "sequences"),
    ),
    {"sequences": "128,468", "items": "9,514", "interactions": "539,436"},
    "Items are counted before repeats are dropped; in the authors' data 3,133 items occur less than 5 times "
    "afterwards, and no item twice in a sequence.",
    sequences=True,
)

_KUAIREC = Recipe(
    "kuairec", "KuaiRec, big matrix",
    (DelimitedFile("big_matrix.csv",
                   {USER: "user_id", ITEM: "video_id", TIME: "timestamp", "watch_ratio": "watch_ratio"}),),
    "https://kuairec.com", "CC BY-SA 4.0",
    "C. Gao et al. KuaiRec: A Fully-observed Dataset and Insights for Evaluating Recommender Systems. CIKM 2022. "
    "https://doi.org/10.1145/3511808.3557220",
    url="https://zenodo.org/records/18164998/files/KuaiRec.zip", md5="261550d472c48eff4990fb13c0e5bcf7",
    versions={"dreamrec": Version(
        "DreamRec",
        (Step("sequences: what a user watches without an hour's pause", "split_into_sessions", options={"gap": 3600}),
         _keep_above("watch_ratio", 2), *_SEQUENCES),
        {"sequences": "92,090", "items": "7,261", "interactions": "737,163"}, sequences=True,
        note="The paper does not say how it cuts sequences; an hour's pause is our reading. " + _UNSEEN)},
)  # fmt: skip

_ZHIHU = Recipe(
    "zhihu", "ZhihuRec-1M, answers that were opened",
    (DelimitedFile("inter_impression.csv", {USER: "user", ITEM: "answer", TIME: "read"}, ",",
                   ("user", "answer", "shown", "read"), max_rows=999_970),
     UserLinesFile("zhihu1M.txt")),
    "https://github.com/THUIR/ZhihuRec-Dataset", "research only, no redistribution",
    "B. Hao, M. Zhang, W. Ma et al. A Large-Scale Rich Context Query and Recommendation Dataset in Online "
    "Knowledge-Sharing. arXiv:2106.06467, 2021.",
    url="https://cloud.tsinghua.edu.cn/d/d6c045c55aa14bb39ebc/files/?p=%2Finter_impression.csv.gz&dl=1",
    file_name="inter_impression.csv.gz", needs_agreement=True,
    steps=(Step("answers that were opened, at that time", "keep_above", (TIME, 0)),),
    versions={"dreamrec": Version(
        "DreamRec",
        (Step("sequences: what a user opens in a day of China", "split_into_sessions",
              options={"day_offset": 8 * 3600}),
         *_SEQUENCES),
        {"sequences": "11,714", "items": "4,838", "interactions": "77,712"}, sequences=True,
        note="The paper does not say how it cuts sequences; days are our reading. " + _UNSEEN)},
)  # fmt: skip

_KAGGLE = "To be fetched with a Kaggle account"
_OUTBRAIN_ORIGIN = 1465876799.998
_OUTBRAIN = Recipe(
    "outbrain", "Outbrain Click Prediction, page views of the sample",
    (JoinedFiles(
        DelimitedFile("page_views_sample.csv", {USER: "uuid", ITEM: "document_id", TIME: "timestamp"}, unit="ms",
                      time_origin=_OUTBRAIN_ORIGIN),
        "documents_meta.csv", "document_id", ITEM, {SCENE: "source_id"}),),
    "https://www.kaggle.com/c/outbrain-click-prediction/data", "rules of the Kaggle competition: no redistribution",
    "Outbrain Click Prediction. Kaggle, 2016.",
    remark=f"{_KAGGLE}: page_views_sample.csv.zip and documents_meta.csv.zip, into one folder.",
    versions={"dspnet": Version(
        "DSPnet",
        (Step("users with a page view on each side of 1975-10-01 as the paper reads the times",
              "keep_users_on_both_sides", (_OUTBRAIN_ORIGIN + 181353600 / 1000,)),),
        {"users": "46,676", "items": "238,653", "scenes": "3,508", "mean length": "2.36"},
        note="The paper's cut at 1975-10-01 is that of raw offsets, which are milliseconds, read as seconds. "
        + _UNSEEN)},
)  # fmt: skip

_RAND = {
    USER: "user_id", ITEM: "video_id", TIME: "time_ms", SCENE: "tab", "is_click": "is_click", "long_view": "long_view",
}  # fmt: skip
_KUAIRAND = Recipe(
    "kuairand", "KuaiRand-Pure, the standard policy; scene: the tab of the app",
    (DelimitedFile("log_standard_*_pure.csv", _RAND, unit="ms"),),
    "https://kuairand.com", "CC BY-SA 4.0",
    "C. Gao et al. KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos. CIKM 2022. "
    "https://doi.org/10.1145/3511808.3557624",
    url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
    remark="Every video that was shown is a row; is_click and long_view say what came of it.",
    versions={"dspnet": Version(
        "DSPnet", (_keep_above("is_click", 0), _k_core(5)),
        note="No paper reports DSPnet on it; clicks and the 5-core are our choice.")},
)  # fmt: skip

_CLICKS = {
    USER: "user_id", ITEM: "click_article_id", TIME: "click_timestamp", SCENE: "click_referrer_type",
    "device": "click_deviceGroup",
}  # fmt: skip
_GLOBO = Recipe(
    "globo", "Globo.com news portal, clicks; scene: the type of referrer",
    (DelimitedFile("clicks_hour_*.csv", _CLICKS, unit="ms"),),
    "https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom",
    "academic use, not commercial",
    "G. de Souza P. Moreira, F. Ferreira and A. M. da Cunha. News Session-Based Recommendations using Deep Neural "
    "Networks. DLRS 2018. arXiv:1904.10367.",
    remark=f"{_KAGGLE}: clicks.zip, with 385 files in it. The last click of every session is 30 s after the one "
    "before.",
    versions={"dspnet": Version(
        "our sample",
        (_k_core(5), Step("one user of 16, by MD5", "sample_users", (16,)), _k_core(5)),
        {"users": "9,392", "items": "2,865", "interactions": "140,799", "scenes": "7"}, name="globo-scene",
        note="DSPnet's paper has no public data with scenes of this kind; this sample is our own.")},
)  # fmt: skip

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *_MOVIELENS, *map(_amazon, _AMAZON), _YELP,
        _yoochoose("yoochoose", "purchases", _BUYS, {"dreamrec": _YOOCHOOSE_DREAMREC}),
        _yoochoose("yoochoose-clicks", "clicks", _SESSION_CLICKS, {}), _KUAIREC, _ZHIHU, _OUTBRAIN, _KUAIRAND, _GLOBO,
    )
}  # fmt: skip
ALIASES = {f"amazon-{_slug(category)}": f"amazon-{short}" for category, short in _SHORT.items()}
"""Longer names of some recipes."""


def recipe_names() -> list[str]:
    """Names of the data sets that there is a recipe for, those of papers too."""
    return [recipe.dataset_name(paper) for recipe in RECIPES.values() for paper in (None, *recipe.versions)]


def find_recipe(name: str) -> tuple[Recipe, str | None] | None:
    """Recipe and version (an option of `--as`, or None for the plain one) that make the data set of this name."""
    for recipe in RECIPES.values():
        for paper in (None, *recipe.versions):
            if recipe.dataset_name(paper) == name:
                return recipe, paper
    return (RECIPES[ALIASES[name]], None) if name in ALIASES else None


def resolve_recipe(name: str, paper: str | None) -> tuple[Recipe, str | None]:
    """The recipe of this name, or of this name of a version, and the version. Raises UserError."""
    found = find_recipe(name)
    if found is None:
        raise UserError(
            f"there is no recipe '{name}'.{did_you_mean(name, recipe_names())} `recbole-gen prepare` lists them; "
            f"for a log of your own: --from=FILE --user=COLUMN --item=COLUMN --time=COLUMN"
        )
    recipe, version = found
    paper = paper or version
    if paper is not None and paper not in recipe.versions:
        there = f"there are: {', '.join(recipe.versions)}" if recipe.versions else "there is none but the plain one"
        raise UserError(f"no paper '{paper}' has a version of {recipe.name}; {there} (leave --as out for all of it)")
    return recipe, paper
