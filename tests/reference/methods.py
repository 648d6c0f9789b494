"""Every method of the registry, on networks it fits and made quick enough to be asked a thousand times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid.call import Call
from pellucid.explanation import Attribution
from pellucid.methods import METHODS
from pellucid.targets import ClassTarget, Target
from reference.nets import GapNet, SelfExplaining

# Fewer passes than by default, for tests that do not ask about the number.
QUICK: dict[str, dict[str, Any]] = {
    "smooth_grad_cam_plus_plus": {"samples": 3},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 3},
    "occlusion": {"window": 6},
    "rise": {"masks": 12},
}
CLASSES = torch.tensor([0, 2, 1])


def network(name: str, rank: int, **changes: Any) -> nn.Module:
    """A small network that the method can explain."""
    return fitting(name, GapNet(rank, **changes).eval())


def fitting(name: str, net: nn.Module) -> nn.Module:
    """The network itself, or with evidence for a method that needs it."""
    return SelfExplaining(net).eval() if "evidence" in METHODS[name].needs else net  # type: ignore[arg-type]


def ask(name: str, model: nn.Module, x: Tensor, target: Target | None = None, **given: Any) -> Attribution:
    """What the method gives, by default for the classes 0, 2 and 1 of three inputs."""
    found: Attribution = METHODS[name](
        Call(model, batch=len(x)), x, target or ClassTarget(CLASSES), **QUICK.get(name, {}), **given
    )
    return found
