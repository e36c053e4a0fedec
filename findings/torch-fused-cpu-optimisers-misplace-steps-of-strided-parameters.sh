#!/usr/bin/env bash
# torch 2.13.0: the fused optimisers of the CPU update the wrong elements of a strided parameter, without a word
#
# Expected: Adam, AdamW, SGD and Adagrad make the same step with fused=True as with fused=False, up to rounding, for
# every dense parameter; or they refuse those that their kernel does not know, as they refuse whole numbers.
#
# Seen: for a parameter that is a transposed view, such as an item table kept [d, n] and used [n, d], or an output layer
# tied to one, whose gradient has another order in memory, the kernel pairs elements by their place in memory. Each
# element takes a step by the gradient of another one: at learning rate 0.1 a first step of Adam is off by 0.2, its
# whole size twice. No error, no warning; the loss merely falls more slowly, or not.
#
# A copy that is contiguous, in parameter and gradient, agrees to 1e-6.

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.3.3

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

torch.manual_seed(0)
weights, gradient = torch.randn(4, 3), torch.randn(3, 4)
print("torch", torch.__version__)
as_written = True
for kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad):
    off = {}
    for layout in ("contiguous", "strided"):
        after = []
        for fused in (False, True):
            start = weights.clone().T
            parameter = torch.nn.Parameter(start.contiguous() if layout == "contiguous" else start)
            optimizer = kind([parameter], lr=0.1, fused=fused)
            parameter.grad = gradient.clone()
            optimizer.step()
            after.append(parameter.detach().clone())
        off[layout] = (after[0] - after[1]).abs().max().item()
    print(f"{kind.__name__}: fused and plain step differ by", {name: round(value, 6) for name, value in off.items()})
    as_written &= off["contiguous"] < 1e-6 and off["strided"] > 0.1
sys.exit(0 if as_written else 1)
PYTHON
