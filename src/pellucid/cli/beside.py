"""What `explain` puts beside a map: chance, further views and networks, what erasing does, known places that look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli.output import progress
from pellucid.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from pellucid.explanation import Explanation
    from pellucid.hybrids.alike import Alike, Bank
    from pellucid.sample import Dataset, Sample

FURTHER = ("alike.png", "attention.png")  # pictures that may lie beside an explanation's numbers


def check_together(ensemble: Sequence[str] | None, *, null: bool, like: bool) -> None:
    """Raise `OptionError` for what is found out of one network only, where several are explained."""
    for option, given, what in (("--null", null, "What chance gives"), ("--like", like, "What looks alike")):
        if ensemble and given:
            raise OptionError(
                f"{option} and --ensemble cannot be had together.",
                why=f"{what} is found out for one network.",
                hint=f"Use one of them, or {option} with --augment.",
            )


def check_classes(model: str, network: nn.Module, others: Mapping[str, nn.Module]) -> None:
    """Raise `OptionError` where a further network has other classes."""
    for name, other in others.items():
        known, own = (tuple(getattr(n, "classes", None) or ()) for n in (network, other))
        if known != own:
            raise OptionError(
                f"{name} and {model} have different classes.",
                why=f"{', '.join(own) or 'none'} against {', '.join(known) or 'none'}.",
                hint="Give networks that were trained alike.",
            )


def opened_like(model: str, network: nn.Module, source: str | None) -> Dataset | None:
    """The data of --like, read as the network was trained."""
    from pellucid.study import data_for

    return None if source is None else data_for({model: network}, source, {})


@dataclass
class Beside:
    """What is asked for. null: with how many inputs without content a map is compared. like: data to find alike places in."""

    null: int
    augment: bool
    erase: bool
    like: Dataset | None
    bank: Bank | None = field(default=None, init=False)

    def explained(self, networks: Sequence[nn.Module], x: Any, target: str | None, **how: Any) -> Explanation:
        """The explanation of one network, or of the mean of several."""
        from pellucid.api import explain
        from pellucid.erasing import erase_regions
        from pellucid.null import against_null
        from pellucid.stability import uncertainty

        if self.augment or len(networks) > 1:
            e = uncertainty(networks, x, target, augment=self.augment, **how)
        else:
            e = explain(networks[0], x, target, **how)
        if self.null:
            e = replace(e, null=against_null(networks[0], x, target, draws=self.null, **how).null)
        return erase_regions(networks, e) if self.erase else e

    def read_known(self, network: nn.Module, *, quiet: bool) -> None:
        """The places to compare with, once the network is ready."""
        if self.like is None:
            return
        from pellucid.hybrids.alike import bank

        with progress("known", quiet=quiet) as tick:
            self.bank = bank(network, self.like, progress=tick)

    def found(self, networks: Sequence[nn.Module], e: Explanation, sample: Sample, folder: Path) -> dict[str, Any]:
        """What is noted of one input. Further pictures are written to its folder, those of an earlier run removed."""
        alike = self._alike(networks[0], e, sample)
        for name, picture in zip(FURTHER, (self._places(alike, sample), _attention(networks, e, sample)), strict=True):
            _write(folder / name, picture)
        noted = None if alike is None else alike.as_dict()
        return {"spread": _spread(e), "without_first_region": _erased(e), "alike": noted}

    def _alike(self, network: nn.Module, e: Explanation, sample: Sample) -> Alike | None:
        from pellucid.hybrids.alike import alike

        if self.bank is None:
            return None
        return alike(network, e, self.bank, name=sample.name, group=sample.group)

    def _places(self, alike: Alike | None, sample: Sample) -> Image | None:
        from pellucid.hybrids.alike import picture

        if alike is None or self.like is None or self.bank is None or sample.image is None:
            return None
        return picture(alike, sample.image, self.like, self.bank)


def _attention(networks: Sequence[nn.Module], e: Explanation, sample: Sample) -> Image | None:
    """The weights behind the evidence of one network that pools by gated attention."""
    from pellucid.hybrids.attention import attention, gated_heads

    if len(networks) > 1 or e.method != "evidence" or e.input is None or len(gated_heads(networks[0])) != 1:
        return None
    return attention(networks[0], e.input, e.target, classes=e.classes).picture(sample.image)


def _write(path: Path, picture: Image | None) -> None:
    from pellucid import files
    from pellucid.render.picture import png

    if picture is None:
        files.remove(path)
    else:
        files.write_bytes(path, png(picture))


def _spread(e: Explanation) -> dict[str, Any] | None:
    """What members of a spread say, and the share of the map that they agree on."""
    if e.spread is None:
        return None
    agreed = float(e.spread.share_agreed(e.map)[0])
    return {"kind": e.spread.kind, "members": e.spread.names, "scores": e.spread.scores[0].tolist(), "agreed": agreed}


def _erased(e: Explanation) -> dict[str, float] | None:
    """What was measured without the strongest region, where one was erased."""
    if e.erased is None or not e.erased.score.numel():
        return None
    return {"score": float(e.erased.score[0, 0]), "probability": float(e.erased.probability[0, 0])}
