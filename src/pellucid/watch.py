"""Seeing every function that a network calls, so that a method can give it another way back.

Hooks on modules miss what a network calls by itself (`F.relu`, `x + y`); a torch function mode sees both.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from pellucid.call import Call
from pellucid.errors import LayerError


@contextmanager
def watched(call: Call, mode: TorchFunctionMode) -> Iterator[Call]:
    """Run the call that is given inside, and `mode` meets every torch function on the way.

    Compiled parts run uncompiled, and a network behind DataParallel runs by itself, in this thread.
    Raises `LayerError` for TorchScript, whose functions cannot be seen.
    """
    model = call.model
    while isinstance(model, nn.DataParallel | DistributedDataParallel):
        model = model.module
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise LayerError(
                f"Layer '{name}' is TorchScript." if name else "The network is TorchScript.",
                why="What it computes cannot be seen from outside, and its ReLUs would keep their own gradient.",
                hint="Explain the network it was made from, or use a method that needs no such look, as grad_cam.",
            )
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # else nothing can be compiled, and loading it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(mode)
        yield replace(call, model=model)
