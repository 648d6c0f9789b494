"""Seeing every function that a network calls, so that a method can give it another way back.

Hooks on modules miss what a network calls by itself (`F.relu`, `x + y`); a torch function mode sees both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch.overrides import TorchFunctionMode

from pellucid import hooks
from pellucid.call import Call, unwrapped
from pellucid.errors import LayerError


@contextmanager
def watched(call: Call, mode: TorchFunctionMode) -> Iterator[Call]:
    """Run the call that is given inside, and `mode` meets every torch function on the way.

    Compiled parts run uncompiled, and a network behind DataParallel runs by itself, in this thread.
    Raises `LayerError` for TorchScript, whose functions cannot be seen.
    """
    model = unwrapped(call.model)
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise LayerError(
                f"Layer '{name}' is TorchScript." if name else "The network is TorchScript.",
                why="What it computes cannot be seen from outside, and its ReLUs would keep their own gradient.",
                hint="Explain the network it was made from, or use a method that needs no such look, as grad_cam.",
            )
    with hooks.uncompiled(), mode:
        yield replace(call, model=model)
