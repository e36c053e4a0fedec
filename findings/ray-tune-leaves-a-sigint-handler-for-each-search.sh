#!/usr/bin/env bash
# Ray Tune 2.60.0: two searches of one trial each, one after the other, in a program with a handler of its own for SIGINT.
# Expected: when Tuner.fit() has returned, Ctrl-C does what it did before.
# Guess before the run: fit() installs a handler that stops the search, and does not put the old one back; the second fit()
# takes the first one's for the old one. A program needs one Ctrl-C for each search that it has made before it stops.
# Seen (2026-11-30, Python 3.11): after each fit() the handler is a function of Ray Tune, another one each time; the first
# Ctrl-C after two searches is taken by Ray, which says that it stops a search, and the program goes on; so is the second;
# the third reaches the program.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
python3 -m venv venv
venv/bin/pip install -q "ray[tune]==2.60.0" numpy==2.4.6 pandas==3.1.1 pyarrow==26.0.1
cat > try.py <<'PY'
import os
import signal

import ray
from ray import tune

reached = []
signal.signal(signal.SIGINT, lambda *_: reached.append(1))
ours = signal.getsignal(signal.SIGINT)
ray.init(num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
seen = []
for _ in range(2):
    config = tune.RunConfig(storage_path=os.getcwd() + "/results", verbose=0)
    tune.Tuner(lambda values: {"score": 1}, param_space={"x": 1}, run_config=config).fit()
    seen.append(signal.getsignal(signal.SIGINT))
print("handler after each search:", *("ours" if each is ours else each.__module__.split(".")[0] for each in seen))
print("two different ones:", seen[0] is not seen[1])
presses = 0
while not reached and presses < 10:
    presses += 1
    os.kill(os.getpid(), signal.SIGINT)
print("the program's own handler is reached by press number", presses)
PY
venv/bin/python -W ignore try.py 2>/dev/null > all.txt
grep -E "^(handler|two|the program)" all.txt | tee seen.txt
grep -qx "handler after each search: ray ray" seen.txt
grep -qx "two different ones: True" seen.txt
grep -qx "the program's own handler is reached by press number 3" seen.txt
