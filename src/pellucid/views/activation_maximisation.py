"""What excites a class or a channel most: gradient ascent on the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid import hooks, inputs, spatial, targets
from pellucid.call import Call, weights_device
from pellucid.errors import LayerError, OptionError
from pellucid.feature_map import full_precision
from pellucid.view import Maximised

Bound: TypeAlias = "float | Sequence[float] | Tensor"
Bounds: TypeAlias = "tuple[Bound, Bound]"
Score: TypeAlias = Callable[[Float[Tensor, "1 channels *spatial"]], Float[Tensor, "1"]]

_START = 0.01  # standard deviation of the spectrum at the start: nearly nothing
_STEEPNESS = 4.0  # how soon the bounds are felt
_NOISES = 8  # inputs of noise to compare with

# Red, green and blue along Ohta's axes (Ohta, Kanade and Sakai 1980, doi:10.1016/0146-664X(80)90047-7), which hardly
# correlate in photographs: brightness, red against blue, green against both; with falling spreads.
_AXES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-0.5, 1.0, -0.5))
_SPREADS = (1.0, 0.35, 0.15)


def activation_maximisation(
    model: nn.Module | Call,
    like: Float[Tensor, "batch channels *spatial"],
    wanted: int | str | Sequence[int | str],
    *,
    layer: str | nn.Module | None = None,
    steps: int = 256,
    rate: float = 0.02,
    smooth: float = 1.25,
    shift: float = 0.1,
    turn: float = 30.0,
    zoom: float = 0.4,
    variation: float = 0.0,
    decay: float = 0.0,
    bounds: Bounds | None = (-2.5, 2.5),
    colour: bool = False,
    task: targets.Task | None = None,
    classes: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Maximised:
    """Inputs that raise a score as far as gradient ascent gets, one for each of `wanted`.

    (Erhan et al. 2009, section 4; Simonyan et al. 2013, equation 1; regularised as in Olah et al. 2017.)
    They show what excites, not what the network uses on real inputs: they are unlike anything that it was trained on, one
    of many that would do, and leave out what speaks against. Read them as hints.

    like: something of the input's shape; its values are not looked at. wanted: classes (numbers or names) of the output,
    whose score before any softmax is raised; with `layer`, channels of that layer, whose mean over all places is. Choose
    a layer before its ReLU: a channel that is silent everywhere has no slope to climb. All are served the same draws, so
    that what is found for one does not depend on its company.

    What Adam moves, at `rate`, is the input's spectrum in units of 1 / frequency^smooth, so that what is large comes
    before what is fine; smooth=0 treats all frequencies alike. In each step the input is moved at random, for what
    survives that is less noise: by up to `shift` of each side, `turn` degrees (signals are not turned) and `zoom` of its
    size. variation, decay: weights of the mean absolute difference between neighbours and of the mean square, taken off
    the score. bounds: the lowest and highest input value, numbers or one per channel; the default suits normalised
    inputs; None sets none, which needs some `decay`. colour: the channels are red, green and blue, and move along axes
    that hardly correlate in photographs. task, classes: as for `explain`. generator: by default a new one with seed 0.
    progress: called with (steps done, steps in all).

    A step costs one forward and one backward pass. The network is left as it was.
    Raises `LayerError`, `TargetError` or `OptionError` for what does not fit.
    """
    inputs.check_counts(steps=steps)
    asked = [wanted] if isinstance(wanted, int | str) else list(wanted)
    if not asked:
        raise OptionError("There is nothing to maximise.", hint="Give at least one class or channel.")
    call = Call.of(model).rows(torch.zeros(1, dtype=torch.long))
    task = task or getattr(call.model, "task", None)
    classes = classes if classes is not None else getattr(call.model, "classes", None)
    with torch.inference_mode(False), torch.enable_grad(), hooks.untouched(call.model):
        blank = torch.zeros_like(like[:1], device=weights_device(call.model))
        canvas = _Canvas.like(blank, smooth, bounds, colour)
        named = [_score(call, blank, one, layer, task, classes) for one in asked]
        rules = _Rules(steps, rate, shift, turn * pi / 180, zoom, variation, decay)
        found = []
        for k, (_, score) in enumerate(named):
            source = generator.clone_state() if generator is not None else torch.Generator().manual_seed(0)
            tick = _ticking(progress, k * steps, len(asked) * steps)
            found.append(_climbed(canvas, score, rules, source, tick))
    made, reached, start, noise = (torch.cat(part) for part in zip(*found, strict=True))
    name = "" if layer is None else hooks.layer_name(call.model, hooks.find_layer(call.model, layer))
    return Maximised(name, tuple(name for name, _ in named), made, reached, start, noise, canvas.bounds)


@dataclass(frozen=True)
class _Rules:
    """How the ascent goes; angles in radians."""

    steps: int
    rate: float
    shift: float
    turn: float
    zoom: float
    variation: float
    decay: float

    def moved(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The input as one step sees it."""
        size = torch.tensor(x.shape[2:])
        turn, zoom, *shift = (torch.rand(2 + len(size), generator=generator, device=generator.device) * 2 - 1).cpu()
        offset = (torch.stack(shift) * self.shift * size).round()  # between samples, interpolation would blur
        return spatial.moved(x, turn=turn[None] * self.turn, zoom=1 + zoom[None] * self.zoom, shift=offset[None])

    def penalty(self, x: Tensor) -> Tensor:
        """What is taken off the score."""
        total = x.new_zeros(())
        if self.variation:
            steps = torch.stack([x.diff(dim=axis).abs().sum() for axis in range(2, x.ndim)])
            total = total + self.variation * steps.sum() / x.numel()
        if self.decay:
            total = total + self.decay * x.square().mean()
        return total


@dataclass(frozen=True)
class _Canvas:
    """From a spectrum to an input. gains: of each frequency, (*frequencies). mixing (channels, axes): of the colours."""

    shape: torch.Size
    gains: Float[Tensor, "*frequencies"]
    mixing: Float[Tensor, "channels channels"] | None
    bounds: tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]] | None
    dtype: torch.dtype

    @classmethod
    def like(cls, x: Tensor, smooth: float, bounds: Bounds | None, colour: bool) -> _Canvas:
        if colour and x.shape[1] != 3:
            raise OptionError(
                f"The input has {x.shape[1]} channels.", why="Colours have three.", hint="Leave out colour."
            )
        work = full_precision(x)
        *others, last = x.shape[2:]
        axes = [torch.fft.fftfreq(n) for n in others] + [torch.fft.rfftfreq(last)]
        frequency = torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0)
        gains = frequency.clamp_min(1 / max(x.shape[2:])) ** -smooth
        directions = torch.nn.functional.normalize(torch.tensor(_AXES), dim=1) * torch.tensor(_SPREADS)[:, None]
        limits = None if bounds is None else (_per_channel(work, bounds[0]), _per_channel(work, bounds[1]))
        return cls(
            x.shape, (gains / gains.square().mean().sqrt()).to(work), directions.T.to(work) if colour else None, limits, x.dtype
        )  # fmt: skip

    def start(self, generator: torch.Generator) -> Float[Tensor, "1 channels *frequencies 2"]:
        """Real and imaginary parts of a spectrum of faint noise, ready to be moved."""
        shape = (*self.shape[:2], *self.gains.shape, 2)
        drawn = torch.randn(shape, generator=generator, device=generator.device) * _START
        return drawn.to(self.gains).requires_grad_()

    def paint(self, spectrum: Tensor) -> Float[Tensor, "1 channels *spatial"]:
        waves = torch.view_as_complex(spectrum) * self.gains
        size = self.shape[2:]
        x: Tensor = torch.fft.irfftn(waves, s=size, dim=tuple(range(2, 2 + len(size))), norm="ortho")
        if self.mixing is not None:
            x = torch.einsum("ij,bj...->bi...", self.mixing, x)
        if self.bounds is not None:
            low, high = (_spread(bound, x) for bound in self.bounds)
            x = low + (high - low) * torch.sigmoid(_STEEPNESS * x)
        return x

    def noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Independent values with the input's mean and spread per channel, inside the bounds."""
        values = x.flatten(2)
        drawn = torch.randn(values.shape, generator=generator, device=generator.device).to(values)
        noise = (values.mean(2, keepdim=True) + values.std(2, keepdim=True) * drawn).view_as(x)
        return noise if self.bounds is None else noise.clamp(*(_spread(bound, x) for bound in self.bounds))


def _climbed(
    canvas: _Canvas, score: Score, rules: _Rules, generator: torch.Generator, tick: Callable[[int], None]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The input that the ascent ends with, its score, that of the start, and that of noise."""
    spectrum = canvas.start(generator)
    begin = canvas.paint(spectrum).detach()
    optimiser = torch.optim.Adam([spectrum], lr=rules.rate, maximize=True)
    for step in range(rules.steps):
        x = canvas.paint(spectrum)
        height = score(rules.moved(x, generator).to(canvas.dtype)) - rules.penalty(x)
        spectrum.grad = hooks.gradient(height, spectrum, "the input")
        optimiser.step()
        tick(step + 1)
    with torch.no_grad():
        end = canvas.paint(spectrum)
        noises = [score(canvas.noise(end, generator).to(canvas.dtype)) for _ in range(_NOISES)]
        return end, score(end.to(canvas.dtype)), score(begin.to(canvas.dtype)), torch.stack(noises).mean(0)


def _score(
    call: Call,
    blank: Tensor,
    wanted: int | str,
    layer: str | nn.Module | None,
    task: targets.Task | None,
    classes: Sequence[str] | None,
) -> tuple[str, Score]:
    """What is raised, and its name."""
    if layer is not None:
        return _mean_response(call, blank, wanted, layer)
    with torch.no_grad():
        target = targets.parse(wanted, task=task, classes=classes).resolve(call(blank.clone()))
    return target.describe(classes), lambda x: full_precision(target(call(x)))


def _mean_response(call: Call, blank: Tensor, wanted: int | str, layer: str | nn.Module) -> tuple[str, Score]:
    module = hooks.spatial_layer(call.model, call, blank, layer)
    with torch.no_grad(), hooks.listen(call.model, module) as heard:
        call(blank.clone())
    shape = heard.activation.shape
    if len(shape) not in (2, blank.ndim):
        raise LayerError(
            f"Layer '{heard.name}' gives {tuple(shape)}.",
            why="(batch, channels) or (batch, channels, *spatial) is needed.",
            hint="Choose a layer whose second axis are its channels.",
        )
    if not str(wanted).isdecimal() or int(wanted) >= shape[1]:
        raise OptionError(
            f"There is no channel '{wanted}'.",
            why=f"Layer '{heard.name}' has {shape[1]}.",
            hint=f"Choose 0 to {shape[1] - 1}.",
        )

    def mean_response(x: Tensor) -> Tensor:
        with hooks.listen(call.model, module) as heard:
            call(x)
        return full_precision(heard.activation[:, int(wanted)].reshape(len(x), -1).mean(1))

    return f"channel {wanted}", mean_response


def _per_channel(x: Tensor, values: Bound) -> Float[Tensor, "channels"]:
    given = torch.as_tensor(values, dtype=x.dtype, device=x.device)
    if given.numel() not in (1, x.shape[1]):
        raise OptionError(
            f"There are {given.numel()} bounds for {x.shape[1]} channels.", hint="Give one number, or one per channel."
        )
    return given.reshape(-1).expand(x.shape[1]).clone()


def _spread(values: Float[Tensor, "channels"], x: Tensor) -> Tensor:
    """One number per channel, so shaped that it goes with the input."""
    return values.view(1, -1, *(1,) * (x.ndim - 2))


def _ticking(progress: Callable[[int, int], None] | None, before: int, total: int) -> Callable[[int], None]:
    return lambda done: None if progress is None else progress(before + done, total)
