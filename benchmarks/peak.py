"""`python -m benchmarks.peak`: how near to what the processor can multiply are a plain pass and ONNX Runtime's, on one thread?

Operations per second of process time, of a product of two matrices and of forward passes of ResNet-50 (224 px, batch 4), in
turns. What a fast backend can still win is the distance to the matrix product.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.study import Setting
from pellucid.backends import onnx_proto, session, traced

SIDE, ROUNDS, PRODUCTS = 1024, 12, 10


def main() -> int:
    torch.set_num_threads(1)
    setting = Setting()
    model, x = setting.network(), setting.inputs(4)
    left, right = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    graph = session(onnx_proto(traced(model, (x,))).SerializeToString())
    named = {graph.get_inputs()[0].name: x.numpy()}
    subjects: dict[str, Callable[[], object]] = {
        f"{PRODUCTS} products of {SIDE} x {SIDE}": lambda: [left @ right for _ in range(PRODUCTS)],
        "plain forward": lambda: model(x),
        "ONNX Runtime": lambda: graph.run(None, named),
    }
    with torch.inference_mode():
        counted = {name: FlopCounterMode(display=False) for name in list(subjects)[:2]}
        for name, counter in counted.items():
            with counter:
                subjects[name]()
        operations = {name: counter.get_total_flops() for name, counter in counted.items()}
        operations["ONNX Runtime"] = operations["plain forward"]
        rates: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(ROUNDS):
            for name, run in subjects.items():
                start = time.process_time()
                run()
                rates[name].append(operations[name] / (time.process_time() - start) / 1e9)
    for name, found in rates.items():
        print(f"{name}: {np.median(found[1:]):.1f} GFLOPS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
