"""What share of a training step of DreamRec is its data: gathering a batch, and taking it to the device.

    python benchmarks/throughput.py [--rows=10000000] [--steps=200] [--threads=1] [--rounds=3]

The synthetic log of data.py, DreamRec as published (d = 64, history 10) and with history 50, batches of 256 and 2048
rows, on the GPU if there is one. The loader, the model and the optimiser are those of a run, and the steps those of the
trainer. "data_ms" is the median time that a step waits for its batch, "step_ms" that of a whole step, "share" the
former of the latter in percent, of all steps together. The order of all rows, drawn once an epoch, is apart, in
"order_ms". The best of the rounds counts, each in a process of its own. Appends to results/throughput.tsv.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import torch

SHAPES = ((256, 10), (2048, 10), (256, 50), (2048, 50))
WARM = 10  # first steps, which are not counted


def measure(folder, threads, steps):
    """In the child: all shapes on one data set; prints JSON."""
    from data import SETTINGS

    from recbole_gen import compat
    from recbole_gen.config.config import Config
    from recbole_gen.data.loaders import create_dataset, create_loaders
    from recbole_gen.training.optimizers import with_fused_step

    torch.set_num_threads(threads)
    use_gpu = torch.cuda.is_available()
    found = []
    compat.keep_freed_memory()
    for batch_size, length in SHAPES:
        shape = {"train_batch_size": batch_size, "MAX_ITEM_LIST_LENGTH": length, "hidden_size": 64}
        settings = SETTINGS | shape | {"data_path": folder, "use_gpu": use_gpu}
        config = Config(model="DreamRec", dataset="synthetic", config_dict=settings)
        train = create_loaders(config, create_dataset(config))[0]
        device = config["device"]
        model = config.model_class(config, train._dataset).to(device)
        optimizer = with_fused_step(torch.optim.Adam(model.parameters(), lr=1e-3))
        model.train()

        def wait(device=device):
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        started = time.perf_counter()
        batches = iter(train)
        first = next(batches).to(device)
        wait()
        order = time.perf_counter() - started
        times: dict[str, list[float]] = {"data": [], "step": []}
        for step in range(WARM + steps):
            started = time.perf_counter()
            batch = next(batches).to(device) if step else first
            wait()
            gathered = time.perf_counter()
            optimizer.zero_grad()
            loss = model.calculate_loss(batch)
            sum(loss if isinstance(loss, tuple) else (loss,)).backward()
            optimizer.step()
            wait()
            if step >= WARM:
                times["data"].append(gathered - started)
                times["step"].append(time.perf_counter() - started)
        medians = {f"{name}_ms": round(1000 * statistics.median(each), 3) for name, each in times.items()}
        share = round(100 * sum(times["data"]) / sum(times["step"]), 1)
        shape = {"batch": batch_size, "history": length, "device": str(device), "threads": threads}
        found.append({**shape, **medians, "share": share, "order_ms": round(1000 * order)})
    print(json.dumps(found))


def main():
    from common import record
    from data import write_log

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_log(folder, args.rows)
        command = [sys.executable, __file__, "--measure", folder, str(args.threads), str(args.steps)]
        rounds = []
        for _ in range(args.rounds):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            rounds.append(json.loads(done.stdout.splitlines()[-1]))
    for of_shape in zip(*rounds, strict=True):
        record("throughput", {"rows": args.rows, **min(of_shape, key=lambda each: each["step_ms"])})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2], *map(int, sys.argv[3:5]))
    else:
        main()
