"""Requests per second and waiting times of the service, over loopback.

    python benchmarks/serve.py [--models=SASRec,DreamRec] [--clients=1,8,64] [--seconds=10] [--threads=1]

Each model is trained for an epoch on ml-100k and served by a process of its own; clients in this process, each with a
connection of its own, send the history of one user (its last 50 events) and wait for ten items before they send the
next. "together" is the service as it is; "one by one" the same without batches. "times_alone" is how many times more
requests it answers than one by one, measured just before. The client is plain asyncio on prepared bytes. Appends to
results/serve.tsv.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
from common import record

from recbole_gen.config.config import Config
from recbole_gen.quick_start import run

EVENTS = 50
WARM = 1.0  # first seconds, which are not counted
VARIANTS = {"one by one": ["--max_batch=1", "--batch_wait_ms=0"], "together": []}


def requests_of(path):
    """A request for each user of ml-100k, as bytes."""
    log = pd.read_csv(path, sep="\t").sort_values("timestamp:float", kind="stable")
    for user, items in log.groupby("user_id:token")["item_id:token"]:
        query = {"histories": [{"user": str(user), "items": [str(item) for item in items.tail(EVENTS)]}], "k": 10}
        body = json.dumps(query).encode()
        head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        yield head.encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def serving(folder, options, threads):
    """The port of a server."""
    code = "import sys; from recbole_gen.serving.serve import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"--checkpoint={folder}", "--port=0", *options],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    try:
        port = int(re.search(r":(\d+)$", process.stdout.readline())[1])
        end = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").read()
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def batches(port):
    """Requests and calls of the model so far."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    names = ("recbole_gen_batch_requests_sum", "recbole_gen_batch_requests_count")
    return np.array([float(re.search(rf"^{name} (.+)$", text, re.M)[1]) for name in names])


async def client(port, requests, first, stop, waited):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    place = first
    while (started := time.perf_counter()) < stop:
        writer.write(requests[place % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
        waited.append((started, time.perf_counter() - started))
        place += 1
    writer.close()


async def load(port, requests, clients, seconds):
    """Seconds that each request has waited, of those after the warm-up, and requests a call of the model."""
    begin = time.perf_counter() + WARM
    waited = []
    step = len(requests) // clients
    before = batches(port)
    await asyncio.gather(*(client(port, requests, n * step, begin + seconds, waited) for n in range(clients)))
    total, calls = batches(port) - before
    return np.array([wait for started, wait in waited if started >= begin]), float(total / calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="SASRec,DreamRec")
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    requests = list(requests_of(Path(Config(model="SASRec", dataset="ml-100k")["data_path"]) / "ml-100k.inter"))
    for model in args.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            values = {"epochs": 1, "checkpoint_dir": folder, "show_progress": False, "state": "ERROR",
                      "num_threads": args.threads, "use_gpu": False}  # fmt: skip
            run_dir = run(model, "ml-100k", config_dict=values, quiet=True)["run_dir"]
            with contextlib.ExitStack() as servers:
                ports = {variant: servers.enter_context(serving(run_dir, options, args.threads))
                         for variant, options in VARIANTS.items()}  # fmt: skip
                for clients in map(int, args.clients.split(",")):
                    alone = None
                    for variant, port in ports.items():
                        waits, batch = asyncio.run(load(port, requests, clients, args.seconds))
                        rate = len(waits) / args.seconds
                        alone = alone or rate
                        p50, p99 = (round(1000 * float(np.quantile(waits, q)), 2) for q in (0.5, 0.99))
                        record("serve", {
                            "model": model, "variant": variant, "clients": clients, "threads": args.threads,
                            "requests_per_s": round(rate), "p50_ms": p50, "p99_ms": p99, "mean_batch": round(batch, 1),
                            "times_alone": round(rate / alone, 2),
                        })  # fmt: skip


if __name__ == "__main__":
    main()
