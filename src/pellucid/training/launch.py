"""A function in several processes, on one machine or more, through torch's elastic launch.

When a process dies, all are ended and started again, up to a number of times: a training goes on from its last state.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, parent_process
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pellucid.errors import OptionError, PellucidError, ResourceError

LOOPBACK = "127.0.0.1"
PATIENCE = 600  # seconds in which all machines have to come
_STOP = "stop"  # a file in the scratch folder: whoever starts after it is there does not begin
_OF_OTHERS = ("gloo", "NCCL", "Connection", "TCPStore")  # errors of a process whose partner has gone


@dataclass(frozen=True)
class Processes:
    """devices: processes on each machine, one per accelerator. nodes: machines, each of which runs the same command.

    rdzv: HOST:PORT where several machines meet; the host is one of them. max_restarts: how often processes are started
    again after one died. device: "cpu", or "auto" and "cuda" for the accelerators.
    """

    devices: int = 1
    nodes: int = 1
    rdzv: str | None = None
    max_restarts: int = 3
    device: str = "auto"

    @property
    def several(self) -> bool:
        return self.devices * self.nodes > 1

    def check(self) -> None:
        """Raise `OptionError` for what does not go together, `ResourceError` for accelerators that are not there."""
        host, _, port = (self.rdzv or "").rpartition(":")
        if self.rdzv is not None and (not host or not port.isdigit()):
            raise OptionError(
                f"--rdzv cannot be '{self.rdzv}'.", why="HOST:PORT is needed.", hint="For example --rdzv node1:29500."
            )
        if self.nodes > 1 and self.rdzv is None:
            raise OptionError(
                f"{self.nodes} machines do not know where to meet.",
                why="--rdzv was not given.",
                hint="Give all the same, for example --rdzv node1:29500.",
            )
        if self.several and self.device not in ("auto", "cpu", "cuda"):
            raise OptionError(
                f"{self.devices} processes cannot share '{self.device}'.",
                why="Each takes an accelerator of its own.",
                hint="Use --device auto, cuda or cpu.",
            )
        if self.several and self.on_cuda and self.devices > torch.cuda.device_count():
            raise ResourceError(
                f"There are no {self.devices} accelerators.",
                why=f"{torch.cuda.device_count()} CUDA devices were found.",
                hint="Lower --devices, or use --device cpu.",
            )

    @property
    def on_cuda(self) -> bool:
        return self.device == "cuda" or (self.device == "auto" and torch.cuda.is_available())


def launch(processes: Processes, function: Callable[..., Any], *arguments: Any) -> bool:
    """Call the function in all processes, which are one process group; whether the first of them is on this machine.

    function, arguments: must be picklable, the function at the top of a module. Ctrl-C is passed on to the processes.
    An error of pellucid in a process is raised here, as is `KeyboardInterrupt`; where a process died more often than
    allowed, `ResourceError`.
    """
    processes.check()
    with tempfile.TemporaryDirectory(prefix="pellucid-") as name, _surroundings():
        scratch = Path(name)
        started = elastic_launch(_config(processes), _work)
        try:
            ranks = _in_a_thread(lambda: started(scratch, processes.on_cuda, function, arguments), scratch)
        except ChildFailedError as error:
            raise _noted(scratch) or _died(error, processes) from None
        except RendezvousError as error:
            raise ResourceError(
                "The machines did not meet.",
                why=f"{type(error).__name__}: {error}",
                hint="Start the same command on all machines, and check --rdzv and --nodes.",
            ) from error
        known = _noted(scratch)
        if known is not None:
            raise known
    return 0 in ranks


def _config(processes: Processes) -> LaunchConfig:
    endpoint = processes.rdzv or f"{LOOPBACK}:0"
    alone = endpoint.rpartition(":")[0] in (LOOPBACK, "localhost")
    return LaunchConfig(
        min_nodes=processes.nodes,
        max_nodes=processes.nodes,
        nproc_per_node=processes.devices,
        run_id="pellucid" if processes.rdzv else uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"join_timeout": PATIENCE},
        max_restarts=processes.max_restarts,
        local_addr=LOOPBACK if alone else None,
    )


def _work(scratch: Path, on_cuda: bool, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What each process does. An error is noted; one that we know ends it in peace, so that it is not started again."""
    os.setpgrp()  # Ctrl-C in a terminal is for the launcher, which passes it on
    note = scratch / f"{os.environ['LOCAL_RANK']}.error"
    note.unlink(missing_ok=True)
    try:
        if (scratch / _STOP).exists():
            raise KeyboardInterrupt
        with _begun(on_cuda):
            function(*arguments)
        return
    except BaseException as error:
        known = isinstance(error, PellucidError | KeyboardInterrupt)
        if not known:
            error.add_note("".join(traceback.format_exception(error)))  # a traceback is lost on the way
        if not any(word in str(error) for word in _OF_OTHERS):
            note.write_bytes(_pickled(error))
        if os.getppid() != getattr(parent_process(), "pid", None):
            os._exit(1)  # the launcher is gone: nobody would ever say that all are done
    gc.collect()  # as in `process_group`, where the error still held the training
    if not known:
        sys.exit(1)


def _pickled(error: BaseException) -> bytes:
    """The error, or its words where it cannot be sent."""
    try:
        sent = pickle.dumps(error)
        pickle.loads(sent)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return sent


@contextmanager
def _begun(on_cuda: bool) -> Iterator[None]:
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would wait for the others before it listens
    with process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo"):
        signal.signal(signal.SIGINT, before)
        again, most = (int(os.environ[f"TORCHELASTIC_{name}"]) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
        if again and dist.get_rank() == 0:
            print(f"A process died; all are started again ({again} of {most}).", file=sys.stderr, flush=True)
        yield


@contextmanager
def process_group(backend: str, **where: Any) -> Iterator[None]:
    """A process group whose threads end with it; where: as `torch.distributed.init_process_group` takes it.

    A thread of a group that outlives it may drop the last reference to a tensor while Python ends, and then the
    process is aborted after its work was done ("terminate called without an active exception").
    """
    # Some modules that DistributedDataParallel imports take the group of that moment as a default argument, for ever.
    importlib.import_module("torch._dynamo")
    dist.init_process_group(backend, **where)
    try:
        yield
    finally:
        dist.destroy_process_group()  # whoever waits for this process learns that it has gone
        gc.collect()  # what is left of the trainings refers to the group


def _noted(scratch: Path) -> BaseException | None:
    """The error that a process left behind, one that we know before any other."""
    found = [pickle.loads(note.read_bytes()) for note in sorted(scratch.glob("*.error"))]
    return min(found, key=lambda error: not isinstance(error, PellucidError | KeyboardInterrupt), default=None)


def _died(error: ChildFailedError, processes: Processes) -> ResourceError:
    code = next(iter(error.failures.values())).exitcode
    how = f"It was ended by {signal.Signals(-code).name}" if code < 0 else f"Its exit code is {code}"
    return ResourceError(
        f"A process of the training died; it was started again {processes.max_restarts} times.",
        why=f"{how}; the memory of the machine may be used up, or another machine was stopped.",
        hint="The same command goes on from the last state. Lower batch_size or --devices, or raise --max-restarts.",
    )


def _in_a_thread(work: Callable[[], Any], scratch: Path) -> Any:
    """The result of the work, while this thread is free to pass on signals."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with _passed_on(scratch):
        thread.start()
        thread.join()
    if failed:
        raise failed[0]
    return found[0]


@contextmanager
def _passed_on(scratch: Path) -> Iterator[None]:
    """Pass Ctrl-C and SIGTERM on to the processes that are started meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    others = active_children()

    def tell(number: int, frame: FrameType | None) -> None:
        (scratch / _STOP).touch()
        started = [process for process in active_children() if process not in others]
        for process in started:
            os.kill(process.pid or 0, signal.SIGINT)
        if not started:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, tell) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _surroundings() -> Iterator[None]:
    """No words of torch's, since what there is to say is said by us; and addresses of their own for every start, since
    processes that are started again may otherwise find those of the dead ones and wait for them.
    """
    wanted = {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    disabled, before = logging.root.manager.disable, {name: os.environ.get(name) for name in wanted}
    logging.disable(logging.CRITICAL)
    os.environ.update(wanted)
    try:
        yield
    finally:
        logging.disable(disabled)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


__all__ = ["Processes", "launch", "process_group"]
