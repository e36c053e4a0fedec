"""The service: answers of the recommender, each client's own however many there are, and refusals that tell nothing."""

import asyncio
import contextlib
import json
import logging
import random
import re
import socket
import sys
import threading
import time
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
import torch
from conftest import SMALL
from served import serve_process

from recbole_gen import quick_start
from recbole_gen.errors import UserError
from recbole_gen.recommending.recommender import Recommender
from recbole_gen.serving import app as service
from recbole_gen.serving import serve
from recbole_gen.serving.app import create_app
from recbole_gen.serving.connections import header_timeout
from recbole_gen.serving.limits import Limits
from recbole_gen.serving.server import bind_socket, create_server

DAY = 86400
SECRET = "hidden-name-of-somebody"
SCENES = {"SCENE_FIELD": "scene"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(model): the folder of a run of one epoch on 30 users and 20 items, which is made once."""
    folder, made, draw = tmp_path_factory.mktemp("serve"), {}, random.Random(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tscene:token"]
    for user in range(30):
        for step in range(8):
            lines.append(f"u{user}\ti{draw.randrange(20)}\t{(20_000 + user + 2 * step) * DAY}\t{'ab'[step % 2]}")
    (folder / "shop").mkdir()
    (folder / "shop/shop.inter").write_text("\n".join(lines) + "\n")

    def get(model: str) -> Path:
        if model not in made:
            values = {
                "data_path": str(folder), "checkpoint_dir": str(folder / model), "use_gpu": False, "num_threads": 1,
                "epochs": 1, "show_progress": False, "state": "ERROR", "load_col": None, "MAX_ITEM_LIST_LENGTH": 5,
                **SMALL.get(model, {}), **(SCENES if model == "DSPnet" else {}),
            }  # fmt: skip
            made[model] = Path(quick_start.run(model, "shop", config_dict=values, quiet=True)["run_dir"])
        return made[model]

    return get


@pytest.fixture(scope="module")
def recommender(trained):
    """The deterministic one, SASRec, which no test changes."""
    return Recommender.load(trained("SASRec"), "cpu")


@contextlib.asynccontextmanager
async def client_of(app):
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


def asked(app, *requests):
    """The responses to requests that are made at once; a request is a dict, or what httpx's `post` takes."""

    async def ask():
        async with client_of(app) as client:
            return await asyncio.gather(*(
                client.post("/recommend", **(each if "headers" in each else {"json": each})) for each in requests
            ))  # fmt: skip

    return asyncio.run(ask())


def asked_in_turn(app, *queries):
    """The responses to requests that are made one after the other."""

    async def ask():
        async with client_of(app) as client:
            return [await client.post("/recommend", json=query) for query in queries]

    return asyncio.run(ask())


def measured(app, *requests):
    """The same, and the metrics after them."""

    async def ask():
        async with client_of(app) as client:
            responses = await asyncio.gather(*(client.post("/recommend", json=each) for each in requests))
            return responses, values_of((await client.get("/metrics")).text)

    return asyncio.run(ask())


def values_of(text):
    """Prometheus' text format, read strictly: a sample of a series that has a type."""
    values, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            types[name] = kind
        elif not line.startswith("# HELP "):
            match = re.fullmatch(r'([a-z_]+)(\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})? ([-+0-9.e]+)', line)
            assert match, line
            assert match[1] in types or re.sub("_(bucket|sum|count)$", "", match[1]) in types
            values[match[1] + (match[2] or "")] = float(match[3])
    return values


def history(draw, user, length=None):
    """A history with everything that a model may read."""
    n = length or draw.randrange(1, 9)
    return {
        "user": user,
        "items": [f"i{draw.randrange(20)}" for _ in range(n)],
        "times": [(20_000 + step) * DAY for step in range(n)],
        "scenes": [draw.choice("ab") for _ in range(n)],
    }


def require_same(got, wanted):
    """The same answers, up to the last digits of scores, in which batches of different sizes may differ."""
    for one, other in zip(map(httpx.Response.json, got), map(httpx.Response.json, wanted), strict=True):
        scores = [[item.pop("score") for each in answer["recommendations"] for item in each["items"]]
                  for answer in (one, other)]  # fmt: skip
        assert one == other and scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-5)


# Answers


@pytest.mark.parametrize("model", ["SASRec", "DreamRec", "PASRec", "DSPnet", "FPMC"])
def test_answers_are_those_of_the_recommender(trained, model):
    recommender = Recommender.load(trained(model), "cpu")
    draw = random.Random(1)
    histories = [history(draw, f"u{n}") for n in range(6)]
    lists = {name: [each[key] for each in histories] for name, key in (
        ("histories", "items"), ("times", "times"), ("scenes", "scenes"), ("users", "user"))}  # fmt: skip
    for exclude, candidates in ((True, None), (False, ["i1", "i2", "i3", "i4"])):
        query = {"histories": histories, "k": 4, "exclude_seen": exclude, "candidates": candidates}
        [response] = asked(create_app(recommender), query)
        assert response.status_code == 200, response.text
        answer = response.json()
        table = recommender.recommend(**lists, k=4, exclude_seen=exclude, candidates=candidates)
        assert answer["model"] == model and answer["unknown_items"] == 0
        got = answer["recommendations"]
        assert [each["user"] for each in got] == lists["users"]
        flat = [(each["user"], item["item"], item["score"], each["by"]) for each in got for item in each["items"]]
        assert flat == list(table[["user", "item", "score", "by"]].itertuples(index=False, name=None))
        for name in ("when", "from", "until"):
            assert (name in got[0]) == (name in table) == (model == "PASRec")
            if name in table:
                days = table.groupby("user", sort=False)[name].first().dt.strftime("%Y-%m-%d").to_dict()
                assert {each["user"]: each[name] for each in got} == days
        assert ("next_scene" in got[0]) == (model == "DSPnet")


@pytest.mark.parametrize(("model", "merges"), [("SASRec", True), ("DreamRec", True), ("PASRec", True), ("FPMC", False)])
def test_64_clients_at_once_get_the_answers_that_they_get_alone(trained, model, merges):
    app, draw = create_app(Recommender.load(trained(model), "cpu")), random.Random(2)
    queries = [
        {"histories": [history(draw, "u7")], "k": draw.choice([3, 5]), "exclude_seen": draw.random() < 0.7}
        for _ in range(64)
    ]
    alone = asked_in_turn(app, *queries)
    together, values = measured(app, *queries)
    assert {each.status_code for each in alone + together} == {200}
    assert len({each.content for each in alone}) > 32  # of their own
    if merges:
        require_same(together, alone)
        assert values["recbole_gen_batch_requests_sum"] == 128
        assert values["recbole_gen_batch_requests_count"] <= 64 + 8  # 64 alone, then 64 of four kinds
    else:
        assert [each.content for each in together] == [each.content for each in alone]
        assert values["recbole_gen_batch_requests_count"] == 128


def test_unknown_items_are_counted_and_an_empty_history_is_answered_by_popularity(recommender):
    known, unknown = {"user": 7, "items": ["i1", SECRET, "i2"]}, {"items": [SECRET, 12345]}
    responses, values = measured(
        create_app(recommender), {"histories": [known, unknown]}, {"histories": [{"items": []}], "k": 1},
        {"histories": [{"items": ["i1"]}], "candidates": ["i3", "what"]},
    )  # fmt: skip
    first, second, third = (each.json() for each in responses)
    assert first["unknown_items"] == 3
    assert [(each["user"], each["by"]) for each in first["recommendations"]] == [(7, "model"), (1, "popularity")]
    assert second["recommendations"][0]["by"] == "popularity" and second["unknown_items"] == 0
    assert third["unknown_candidates"] == 1 and len(third["recommendations"][0]["items"]) == 1
    assert values["recbole_gen_unknown_items_total"] == 3
    assert values['recbole_gen_users_total{by="model"}'] == values['recbole_gen_users_total{by="popularity"}'] == 2


def test_who_has_seen_everything_gets_nothing_and_not_the_next_ones_items(recommender):
    everything = {"user": "same", "items": recommender.items.to_pylist()[1:]}
    few = {"user": "same", "items": ["i1"]}
    for response in asked(create_app(recommender), *[{"histories": [everything, few, everything]}] * 3):
        first, second, third = response.json()["recommendations"]
        assert first == third == {"user": "same", "by": None, "items": []}
        assert len(second["items"]) == 10


def test_a_model_that_knows_users_by_name_is_told_each_once(trained):
    app = create_app(Recommender.load(trained("FPMC"), "cpu"))
    one = {"user": "u1", "items": ["i1"]}
    good, stranger, twice, nameless = asked(
        app, {"histories": [one]}, {"histories": [{**one, "user": SECRET}]}, {"histories": [one, one]},
        {"histories": [{"items": ["i1"]}]},
    )  # fmt: skip
    assert good.json()["recommendations"][0]["by"] == "model"
    assert stranger.json()["recommendations"][0]["by"] == "popularity"
    assert twice.status_code == nameless.status_code == 422
    assert "each of them once" in twice.text and "give the user of each history" in nameless.text


def test_times_are_seconds_or_dates_and_histories_are_sorted_by_them(trained):
    app = create_app(Recommender.load(trained("PASRec"), "cpu"))
    items, days = ["i1", "i2", "i3"], [20_000, 20_003, 20_009]
    seconds, dates, shuffled = asked(
        app, {"histories": [{"items": items, "times": [day * DAY for day in days]}]},
        {"histories": [{"items": items, "times": ["2024-10-04", "2024-10-07", "2024-10-13T00:00:00Z"]}]},
        {"histories": [{"items": items[::-1], "times": [day * DAY for day in days[::-1]]}]},
    )  # fmt: skip
    assert seconds.status_code == 200 and seconds.content == dates.content == shuffled.content
    unknown, missing = asked(app, {"histories": [{"items": [SECRET], "times": [0]}]}, {"histories": [{"items": items}]})
    assert unknown.json()["recommendations"][0]["when"] is None
    assert missing.status_code == 422 and "PASRec reads the times of histories" in missing.text


# Refusals


def body_of(*items, **more):
    return {"histories": [{"items": list(items), **more}]}


REFUSED = {
    "malformed": (b'{"histories": [{"items": ["%s"' % SECRET.encode(), 400, "Invalid JSON"),
    "empty": (b"", 400, "Invalid JSON"),
    "not UTF-8": (b'{"histories": "\xff\xfe%s"}' % SECRET.encode(), 400, "Invalid JSON"),
    "deep": (b'{"histories": ' + b"[" * 100_000, 400, "recursion"),
    "lone surrogate": (rb'{"histories": [{"items": ["\ud800"]}]}', 400, "Invalid JSON"),
    "endless number": (b'{"k": ' + b"9" * 100_000 + b"}", 400, "out of range"),
    "a list": ([SECRET], 422, "object"),
    "no histories": ({"histories": []}, 422, "at least 1"),
    "no items": ({"histories": [{"user": SECRET}]}, 422, r"histories\[0\]\.items: Field required"),
    "items of text": ({"histories": [{"items": SECRET}]}, 422, "array"),
    "a switch for an item": (body_of(True), 422, r"histories\[0\]\.items\[0\]: .*string; or: .*integer"),
    "half an item": (body_of(SECRET, 1.5), 422, r"items\[1\]"),
    "nested items": (body_of([SECRET]), 422, r"items\[0\]"),
    "a huge number": (body_of(10**30), 422, r"items\[0\]"),
    "a long name": (body_of(SECRET * 100), 422, "at most 256"),
    "a field too many": (body_of("i1", **{SECRET: 1}), 422, "field that there is none of"),
    "another field too many": ({**body_of("i1"), SECRET: 1}, 422, "the request: .*field that there is none of"),
    "many users": ({"histories": [{"items": [SECRET]}] * 6}, 422, "at most 5"),
    "a long history": (body_of(*[SECRET] * 21), 422, r"at most 20 events; .* reads the last 5,"),
    "a history of a million": (body_of(*["i1"] * 10**6), 413, "their last 5 events"),
    "two times for one item": (body_of("i1", times=[1, 2]), 422, "1 items and 2 times"),
    "no number for a time": (b'{"histories": [{"items": ["i1"], "times": [NaN]}]}', 422, "finite"),
    "a word for a time": (body_of("i1", times=[SECRET]), 422, "no Unix seconds and no dates"),
    "a time in milliseconds": (body_of("i1", times=[1e15]), 422, "less than or equal"),
    "k of nothing": ({**body_of("i1"), "k": 0}, 422, "k: .*greater than or equal to 1"),
    "k of text": ({**body_of("i1"), "k": "10"}, 422, "k: .*integer"),
    "k too large": ({**body_of("i1"), "k": 101}, 422, "k: .*less than or equal to 100"),
    "many answers": ({"histories": [{"items": ["i1"]}] * 5, "k": 41}, 422, "more than 200 answers"),
    "unknown candidates": ({**body_of("i1"), "candidates": [SECRET]}, 422, "none of the candidates"),
    "a word for a switch": ({**body_of("i1"), "exclude_seen": "yes"}, 422, "exclude_seen: .*boolean"),
}
LIMITS = Limits(max_users=5, max_events=20, max_k=100, max_answers=200)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_is_wrong_and_repeat_nothing(recommender, caplog, name):
    content, status, pattern = REFUSED[name]
    request = {"headers": JSON, "content": content if isinstance(content, bytes) else json.dumps(content).encode()}
    with caplog.at_level(logging.DEBUG):
        refused, good = asked(create_app(recommender, LIMITS), request, body_of("i1"))
    assert refused.status_code == status, refused.text
    assert re.search(pattern, refused.json()["detail"]), refused.text
    assert len(refused.text) < 250 and SECRET not in refused.text and SECRET not in caplog.text
    assert good.status_code == 200


def test_kinds_of_content_and_bodies_that_are_too_large(recommender):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 100 << 20:
            sent += 1 << 16
            yield b" " * (1 << 16)

    good = json.dumps(body_of("i1")).encode()
    responses = asked(
        create_app(recommender, LIMITS),
        {"headers": {"content-type": "text/plain"}, "content": good},
        {"headers": {}, "content": good},
        {"headers": {**JSON, "content-encoding": "gzip"}, "content": good},
        {"headers": {**JSON, "content-length": "999999999"}, "content": good},
        {"headers": JSON, "content": endless()},
        {"headers": {"content-type": "Application/JSON; charset=utf-8"}, "content": good},
    )
    assert [each.status_code for each in responses] == [415, 415, 415, 413, 413, 200]
    assert sent <= (1 << 20) + (1 << 16)  # it was not read to its end


def test_a_body_that_comes_too_slowly_is_given_up(recommender, monkeypatch):
    monkeypatch.setattr(service, "BODY_SECONDS", 0.05)

    async def stuck():
        yield b"{"
        await asyncio.Event().wait()

    slow, good = asked(create_app(recommender), {"headers": JSON, "content": stuck()}, body_of("i1"))
    assert slow.status_code == 408 and slow.headers["connection"] == "close" and good.status_code == 200


class Held:
    """A recommender whose calls wait until it is let go."""

    def __init__(self, recommender):
        self.recommender, self.free, self.trouble, self.calls = recommender, threading.Event(), None, 0
        self.free.set()

    def __getattr__(self, name):
        return getattr(self.recommender, name)

    def recommend_batch(self, given, *arguments, **options):
        self.calls += 1
        assert self.free.wait(30)
        if self.trouble in given.items.to_pylist():
            raise KeyError(f"{self.trouble} of {SECRET}")
        return self.recommender.recommend_batch(given, *arguments, **options)


def test_a_full_queue_and_too_much_in_memory_are_answered_503(recommender):
    held = Held(recommender)

    async def ask():
        limits = Limits(queue=2, batch_wait_ms=0, max_body=1000)
        async with client_of(create_app(held, limits)) as client:
            held.calls = 0  # the service has tried the model when it began
            held.free.clear()

            async def count(name):
                return values_of((await client.get("/metrics")).text)[f"recbole_gen_{name}_requests"]

            async def wait_for(name, n):
                end = time.monotonic() + 30
                while await count(name) != n or held.calls != 1:
                    assert time.monotonic() < end
                    await asyncio.sleep(0)  # without a network nothing else lets others run

            def post():
                return asyncio.ensure_future(client.post("/recommend", json=body_of("i1")))

            tasks = [post()]
            await wait_for("waiting", 0)  # the model has it
            tasks += [post(), post()]
            await wait_for("waiting", 2)
            full = await client.post("/recommend", json=body_of("i1"))
            health = await client.get("/health")

            async def stuck():
                yield b" " * 990
                await asyncio.Event().wait()

            readers = [asyncio.ensure_future(client.post("/recommend", headers=JSON, content=stuck()))
                       for _ in range(service.BODIES_HELD)]  # fmt: skip
            await wait_for("in_flight", 3 + len(readers))
            memory = await client.post("/recommend", headers=JSON, content=b" " * 990)
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            held.free.set()
            answers = await asyncio.gather(*tasks)
            after = await client.post("/recommend", json=body_of("i1"))
            assert await count("in_flight") == 0
            return full, memory, health, [*answers, after]

    full, memory, health, answers = asyncio.run(ask())
    assert full.status_code == memory.status_code == 503
    assert full.headers["retry-after"] == memory.headers["retry-after"] == "1"
    assert health.status_code == 200 and [each.status_code for each in answers] == [200] * 4


def test_a_fault_is_answered_500_alone_and_logged_without_values(recommender, caplog):
    held = Held(recommender)
    held.trouble = "i5"
    queries = [body_of("i1", user=SECRET), body_of("i5", user=SECRET), body_of("i2", user=SECRET)]
    with caplog.at_level(logging.DEBUG):
        good, bad, other = asked(create_app(held), *queries)
    assert good.status_code == other.status_code == 200 and bad.status_code == 500
    number = re.fullmatch("internal error ([0-9a-f]{12})", bad.json()["detail"])[1]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert number in record.getMessage() and "KeyError" in record.getMessage() and "in recommend" in record.getMessage()
    assert SECRET not in caplog.text and "i5" not in record.getMessage().replace("test_serve", "")


def test_a_model_that_has_diverged_is_a_fault_of_ours(trained):
    recommender = Recommender.load(trained("SASRec"), "cpu")
    app = create_app(recommender)
    with torch.no_grad():
        recommender.model.item_embedding.weight.fill_(torch.nan)
    assert [each.status_code for each in asked(app, body_of("i1"), body_of("i2"))] == [500, 500]


def test_other_pages(recommender):
    async def ask():
        app = create_app(recommender)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            early = [await client.get("/health"), await client.post("/recommend", json=body_of("i1"))]
        async with client_of(app) as client:
            paths = ("/health", "/openapi.json", f"/{SECRET}", "/docs", "/redoc", "/recommend")
            pages = [await client.get(path) for path in paths]
            return early, pages, await client.get("/metrics")

    early, (health, openapi, *others), metrics = asyncio.run(ask())
    assert [each.status_code for each in early] == [503, 503]
    assert health.json() == {"status": "ready", "model": "SASRec", "items": 20}
    content = openapi.json()["paths"]["/recommend"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert content["properties"]["histories"]["items"]["properties"]["items"]["maxItems"] == 1000
    assert "#/$defs" not in openapi.text
    assert [each.status_code for each in others] == [404, 404, 404, 405]
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values_of(metrics.text)['recbole_gen_requests_total{path="other",status="404"}'] == 3
    assert SECRET not in metrics.text


def test_each_app_counts_for_itself_and_nothing_else(recommender):
    (_, values), (_, others) = (measured(create_app(recommender), *[body_of("i1")] * n) for n in (1, 3))
    names = {name.partition("{")[0] for name in values}
    histograms = ("request_seconds", "batch_requests", "batch_users")
    assert names == {f"recbole_gen_{name}" for name in (
        "requests_total", "users_total", "unknown_items_total", "in_flight_requests", "waiting_requests",
        *(f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")),
    )}  # fmt: skip
    series = 'recbole_gen_requests_total{path="/recommend",status="200"}'
    assert values[series] == 1 and others[series] == 3
    assert values['recbole_gen_batch_users_bucket{le="1.0"}'] == 1


# The process


@pytest.fixture
def server(trained, tmp_path, forked):
    """A server of its own process: its address, its log, and it. Up to 64 users wait two seconds for each other."""
    log = tmp_path / "log"
    options = [f"--checkpoint={trained('SASRec')}", "--port=0", "--batch_wait_ms=2000", "--max_batch=64"]
    with serve_process(forked, log, *options) as (process, lines):
        line = lines.readline()
        match = re.fullmatch(r"SASRec on (http://127\.0\.0\.1:\d+)\n", line)
        assert match, f"{line}{log.read_text()}"
        with httpx.Client(base_url=match[1], transport=httpx.HTTPTransport(retries=10)) as client:
            assert client.get("/health", timeout=30).json()["status"] == "ready"
        yield match[1], log, process


def test_a_server_answers_64_clients_survives_bad_ones_and_ends_with_all_answered(server, recommender):
    address, log, process = server
    draw = random.Random(3)
    queries = [{"histories": [history(draw, f"{SECRET}-{n}")], "k": 5} for n in range(64)]
    queries[0]["histories"][0]["items"][0] = SECRET
    million = json.dumps(body_of(*["i1"] * 10**6)).encode()
    some = json.dumps(body_of(*[SECRET] * 10**4)).encode()
    bad = [b"{", b"[" * 10**6, some, million, json.dumps(body_of(True)).encode()]

    async def ask():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:

            async def count(name):
                return values_of((await client.get("/metrics")).text)[f"recbole_gen_{name}"]

            async def large():
                for _ in range(1000):
                    yield b" " * (1 << 16)

            refused = [client.post("/recommend", content=each, headers=JSON) for each in [*bad, large()]]
            answers = [client.post("/recommend", json=query) for query in queries]
            together = await asyncio.gather(*refused, *answers)
            batches = await count("batch_requests_count")
            last = [asyncio.ensure_future(client.post("/recommend", json=query)) for query in queries[:8]]
            while await count("waiting_requests") < 8:
                assert not any(each.done() for each in last)
            process.terminate()  # SIGTERM
            return together, batches, await asyncio.gather(*last)

    responses, batches, last = asyncio.run(ask())
    refused, answers = responses[: len(bad) + 1], responses[len(bad) + 1 :]
    assert [each.status_code for each in refused] == [400, 400, 422, 413, 422, 413]
    assert all(SECRET not in each.text and len(each.text) < 250 for each in refused)
    assert batches < 16  # one, unless this machine needs seconds to send them
    alone = asked(create_app(recommender), *queries)
    require_same(answers, alone)
    assert [each.status_code for each in last] == [200] * 8
    require_same(last, alone[:8])
    process.join(30)
    assert process.exitcode == 0
    text = log.read_text()
    assert text.count("POST /recommend 200") == 72 and text.count("POST /recommend 413") == 2
    assert SECRET not in text and '"i1"' not in text and "Traceback" not in text
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")


# The command line


def refused_by_main(*arguments):
    with pytest.raises(UserError) as raised:
        serve.main(arguments)
    return str(raised.value)


def test_the_verb_refuses_what_it_cannot_do(trained, tmp_path, monkeypatch):
    assert "--checkpoint=FOLDER" in refused_by_main("--port=8000")
    assert "no option --prot" in refused_by_main("--prot=8000")
    assert "no best.pth" in refused_by_main(f"--checkpoint={tmp_path}", "--port=0")
    run = f"--checkpoint={trained('SASRec')}"
    for option, pattern in (
        ("--items=nowhere", "no folder or file nowhere"),
        ("--port=70000", "below 65536"), ("--port=http", "below 65536"), ("--host=256.0.0.1", "another --host"),
        ("--device=tpu", "cpu or cuda"), ("--max_users=0", "max_users must be"), ("--max_body=8MB", "max_body must be"),
        ("--batch_wait_ms=-1", "batch_wait_ms must be"), ("--queue=1.5", "queue must be"), ("--max_k=yes", "max_k"),
    ):  # fmt: skip
        assert pattern in refused_by_main(run, option)
    with bind_socket("127.0.0.1", 0) as other:
        assert other.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY
        other.listen()
        assert "in use" in refused_by_main(run, f"--port={other.getsockname()[1]}")
    for module in ("fastapi", "uvicorn"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            assert "pip install 'recbole-gen[serve]'" in refused_by_main(run, "--port=0")
            assert not logging.getLogger().filters  # what other tests log is not held back


def test_the_verb_has_a_help(capsys):
    serve.main(["--help"])
    shown = capsys.readouterr().out
    assert shown == serve.USAGE
    for field in fields(Limits):
        assert f"--{field.name}=" in shown


def test_sizes_have_units():
    parsed = [serve._parse_size(each) for each in (5, "5", "5B", "2 KiB", "8MiB", "1GiB")]
    assert parsed == [5, 5, 5, 2048, 8 << 20, 1 << 30]
    assert serve._parse_size("8MB") == "8MB"


async def tiny_app(scope, receive, send):
    """Answers "ready"."""
    if scope["type"] == "lifespan":
        for name in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{name}.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"ready"})


def with_server(ask, limits: Limits, **changes):
    """What `ask(port)` returns while a server of `tiny_app` runs."""

    async def serve_and_ask():
        with bind_socket("127.0.0.1", 0) as listener:
            server = create_server(tiny_app, limits)
            if changes:
                server.config.http = header_timeout(limits.header_seconds, **changes)
            running = asyncio.ensure_future(server.serve(sockets=[listener]))
            try:
                return await asyncio.wait_for(ask(listener.getsockname()[1]), 30)
            finally:
                server.should_exit = True
                await running

    return asyncio.run(serve_and_ask())


async def connect(port: int, sent: bytes = b""):
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:  # it does not listen yet
            await asyncio.sleep(0)
            continue
        writer.write(sent)
        return reader, writer


HEALTH = b"GET /health HTTP/1.1\r\nhost: here\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET", HEALTH, HEALTH + b"\r\n" + HEALTH])
def test_connections_that_never_finish_their_headers_are_cut(sent):
    async def ask(port):
        reader, writer = await connect(port, sent)
        answer = await reader.read()
        writer.close()
        return answer

    answer = with_server(ask, Limits(header_seconds=0.05))
    assert answer.endswith(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    assert answer.count(b"ready") == sent.count(b"\r\n\r\n")


def test_health_answers_while_many_never_finish_their_headers():
    async def ask(port):
        silent = [await connect(port, HEALTH) for _ in range(200)]  # more than all that may be served together
        reader, writer = await connect(port, HEALTH + b"connection: close\r\n\r\n")
        answer = await reader.read()
        silent[7][1].write(b"connection: close\r\n\r\n")  # slow, and in time
        late = await silent[7][0].read()
        for _, each in silent:
            each.close()
        writer.close()
        return answer, late

    for answer in with_server(ask, Limits(header_seconds=1000, queue=1)):
        assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"ready")


def test_of_too_many_without_headers_the_oldest_is_cut():
    async def ask(port):
        (first, writer), *others = [await connect(port, b"GET") for _ in range(4)]
        answer = await first.read()
        reader, last = others[-1]
        last.write(b" /health HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        found = answer, await reader.read()
        for each in (writer, *(writer for _, writer in others)):
            each.close()
        return found

    cut, answered = with_server(ask, Limits(header_seconds=1000), max_waiting=3)
    assert cut.startswith(b"HTTP/1.1 408") and answered.endswith(b"ready")
