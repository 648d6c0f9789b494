"""`python -m benchmarks.serve`: how many explanations the service gives per second, beside what the bare network could do.

Sixteen clients send JPEG files and get JSON with the evidence in float16; every file is new to the server, so that each
is read and run. The bare network's rate is that of its forward pass on one input at a time, in eager PyTorch with as many
threads, before and after each round in the same run.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import Image

from pellucid import files
from pellucid.models import zoo

TARGET = 0.8  # of the bare network's rate
_BOUNDARY = "pellucid"


@dataclass(frozen=True)
class Round:
    """bare: forward passes per second, mean of before and after; served: answers per second; seconds: of each answer."""

    bare: float
    served: float
    seconds: tuple[float, ...]
    refused: int


def main(given: Sequence[str] | None = None) -> int:
    """Exit status 1 where the target is missed."""
    asked = _arguments().parse_args(given)
    torch.set_num_threads(asked.threads)
    network = zoo.build(asked.network)
    with serving(asked) as address:
        Clients(address, 1, asked.side).run(3)  # warm
        rounds = [_round(network, address, asked) for _ in range(asked.rounds)]
    told = summary(rounds, asked)
    print(as_text(told))
    if asked.json is not None:
        files.write_json(asked.json, told)
    return int(told["share"] < TARGET)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--network", default="torchvision:resnet50")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="of serving per round (default 20)")
    parser.add_argument("--side", type=int, default=500, help="longer side of the JPEG files (default 500)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch, in both (default: all)")
    parser.add_argument("--backend", help="of the service: onnxruntime or compile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    return parser


@contextmanager
def serving(asked: argparse.Namespace) -> Iterator[str]:
    """`pellucid serve` in a process of its own; gives its address."""
    command = [sys.executable, "-m", "pellucid", "serve", asked.network, "--port", "0", "--json", "--quiet"]
    command += ["--backend", asked.backend] if asked.backend else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit("The server did not start.")
            text += line
        yield json.loads(text)["address"]
    finally:
        process.terminate()
        process.wait()


def _round(network: torch.nn.Module, address: str, asked: argparse.Namespace) -> Round:
    before = bare_rate(network)
    clients = Clients(address, asked.clients, asked.side)
    taken = clients.run(asked.seconds)
    bare = (before + bare_rate(network)) / 2
    return Round(bare, len(clients.answered) / taken, tuple(clients.answered), clients.refused)


def bare_rate(network: torch.nn.Module, seconds: float = 5.0) -> float:
    """Forward passes of one input of 224 x 224 per second."""
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        network(x)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            network(x)
            count += 1
    return count / (time.perf_counter() - start)


class Clients:
    """Threads that ask one question after the other. answered: the seconds each took."""

    def __init__(self, address: str, count: int, side: int) -> None:
        self.place, self.count = urlsplit(address).netloc, count
        self.picture = _picture(side)
        self.answered: list[float] = []
        self.refused = 0

    def run(self, seconds: float) -> float:
        """Ask for so long; gives the time until the last answer."""
        start = time.perf_counter()
        threads = [threading.Thread(target=self._ask, args=(k, start + seconds)) for k in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def _ask(self, client: int, end: float) -> None:
        connection = http.client.HTTPConnection(self.place, timeout=60)
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        k = 0
        while (start := time.perf_counter()) < end:
            k += 1
            connection.request("POST", "/v1/explain", self._body(f"{client} {k} {start}"), headers)
            answer = connection.getresponse()
            told = answer.read()
            if answer.status != 200:
                self.refused += 1
                continue
            assert json.loads(told)["map"]["dtype"] == "float16"
            self.answered.append(time.perf_counter() - start)
        connection.close()

    def _body(self, mark: str) -> bytes:
        """The picture, with a mark behind its end that makes it another file."""
        fields = {"dtype": "float16", "with_input": "false"}
        parts = [
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
        ]
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
        return b"".join([*(p.encode() for p in parts), head.encode(), self.picture, mark.encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()])  # fmt: skip


def _picture(side: int) -> bytes:
    """A JPEG file with the detail of a photograph."""
    draws = np.random.default_rng(0).normal(size=(side * 3 // 4, side, 3))
    smooth = np.cumsum(np.cumsum(draws, 0), 1) / 5 + 12 * draws
    shown = 128 + 60 * smooth / np.abs(smooth).max()
    stream = io.BytesIO()
    Image.fromarray(shown.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def summary(rounds: Sequence[Round], asked: argparse.Namespace) -> dict[str, object]:
    """Median over rounds of the share; percentiles over all answers."""
    seconds = np.array([s for r in rounds for s in r.seconds])
    return {
        "network": asked.network, "clients": asked.clients, "threads": asked.threads, "backend": asked.backend, "rounds": len(rounds),
        "bare_per_second": median(r.bare for r in rounds), "served_per_second": median(r.served for r in rounds),
        "share": median(r.served / r.bare for r in rounds), "shares": [r.served / r.bare for r in rounds],
        "latency_ms": {f"p{p}": float(1000 * np.percentile(seconds, p)) for p in (50, 90, 99)},
        "answers": len(seconds), "refused": sum(r.refused for r in rounds), "machine": platform.machine(), "torch": torch.__version__,
    }  # fmt: skip


def as_text(told: dict[str, object]) -> str:
    """The figures for a person."""
    rows = [(k, json.dumps(v) if isinstance(v, dict | list) else f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in told.items()]  # fmt: skip
    return "\n".join(f"{k:<18} {v}" for k, v in [*rows, ("target", f"share of at least {TARGET:g}")])


if __name__ == "__main__":
    sys.exit(main())
