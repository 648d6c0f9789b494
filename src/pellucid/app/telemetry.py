"""What the service did, in numbers, as Prometheus reads them. No names, no contents."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from pellucid.app.service import Service

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # seconds


class Telemetry:
    """Counts of answers and of how long they took."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._within: Counter[float] = Counter()
        self._seconds = 0.0
        self._lock = threading.Lock()

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        with self._lock:
            self._answers[method, route, status] += 1
            self._within.update(edge for edge in BUCKETS if seconds <= edge)
            self._seconds += seconds

    def text(self, service: Service) -> str:
        with self._lock:
            return "\n".join([*self._requests(), *_now(service)]) + "\n"

    def _requests(self) -> Iterator[str]:
        yield "# TYPE pellucid_requests_total counter"
        for (method, route, status), count in sorted(self._answers.items()):
            yield f'pellucid_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
        total = self._answers.total()
        yield "# TYPE pellucid_request_seconds histogram"
        for edge in BUCKETS:
            yield f'pellucid_request_seconds_bucket{{le="{edge:g}"}} {self._within[edge]}'
        yield f'pellucid_request_seconds_bucket{{le="+Inf"}} {total}'
        yield f"pellucid_request_seconds_sum {self._seconds:.6f}"
        yield f"pellucid_request_seconds_count {total}"


def _now(service: Service) -> Iterator[str]:
    """What is the case at this moment, and how much work the networks did in how many turns."""
    worker = service.worker
    gauges = {
        "slots_taken": service.slots.taken,
        "work_waiting": worker.waiting,
        "inputs_kept": len(service.files),
        "inputs_kept_bytes": service.files.bytes,
    }
    counters = {"work_total": worker.done, "turns_total": worker.turns}
    for kind, values in (("gauge", gauges), ("counter", counters)):
        for name, value in values.items():
            yield f"# TYPE pellucid_{name} {kind}"
            yield f"pellucid_{name} {value}"
