"""Which sentences an explanation calls for. All numbers come out of it; `language.py` writes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch

from pellucid import spatial, targets
from pellucid.chance import LEVEL
from pellucid.errors import OptionError, nearest
from pellucid.explanation import LEAST, Explanation
from pellucid.render.words.language import LANGUAGES, Words, words
from pellucid.trials import Spread

Audience = Literal["technical", "professional", "short"]
AUDIENCES: tuple[Audience, ...] = get_args(Audience)

NAMED = 3  # regions that are named
WORTH = 0.05  # share of the evidence from which on a region is named to whoever does not study the map
WIDE = 0.25  # share of the cells from which on a region is told by its size, not by its middle
UNDECIDED = 0.4  # log-odds: a probability between 0.4 and 0.6
MAIN = 0.5  # share of the evidence that named places hold together if they are called the main ones


def text(explanation: Explanation, audience: str = "technical", language: str = "en") -> str:
    """One decision in words. Raises `OptionError` for an unknown audience or language."""
    check_form(audience, language)
    decision = _Decision(explanation, words(language))
    sentences = {"technical": _technical, "professional": _professional, "short": _short}[audience](decision)
    return " ".join(sentence for sentence in sentences if sentence)


def check_form(audience: str, language: str) -> None:
    """Raise `OptionError` for an unknown audience or language."""
    if audience not in AUDIENCES:
        raise OptionError(f"There are no words for '{audience}'.", hint=nearest(audience, AUDIENCES))
    if language not in LANGUAGES:
        raise OptionError(f"There is no language '{language}'.", hint=nearest(language, LANGUAGES))


def remark(explanation: Explanation, language: str = "en") -> str:
    """What has to be said of a map that shows nothing for the target; empty where it shows something."""
    return _Decision(explanation, words(language)).remark


@dataclass(frozen=True)
class _Decision:
    """What can be told of one explanation."""

    e: Explanation
    words: Words

    @property
    def subject(self) -> str:
        """What the target speaks for, without what it is held against."""
        return self.words.subject(self.e.target, self.e.classes)

    @property
    def inside(self) -> str:
        return self.words.inside(len(self.e.geometry.grid))

    @property
    def score(self) -> float:
        return float(self.e.score[0])

    @property
    def probability(self) -> float | None:
        found = self.e.probabilities()
        return None if found is None else float(found[0])

    @property
    def leans(self) -> bool:
        """Whether what is explained is also what the network answers."""
        target = self.e.target
        one_of_many = isinstance(target, targets.ClassTarget | targets.OneVsRestTarget)
        if one_of_many and self.e.provenance.get("task") != "multilabel":
            asked = targets.ClassTarget(target.classes).index(self.e.logits)  # type: ignore[attr-defined]
            return int(asked[0]) == int(self.e.logits[0].argmax())
        return self.score >= 0

    @property
    def undecided(self) -> bool:
        odds = self.e.in_log_odds or isinstance(self.e.target, targets.ContrastTarget)
        return odds and abs(self.score) < UNDECIDED

    # --- the map ------------------------------------------------------------------------------------------------------

    @property
    def remark(self) -> str:
        cells = self.e.map
        if not bool((cells != 0).any()):
            return self.words.say("remark.zero")
        if not bool((cells > 0).any()):
            return self.words.say("remark.no_positive")
        total = float(cells.double().abs().sum())
        return self.words.say("remark.hardly", total=total) if self.e.in_logits and total < LEAST else ""

    @cached_property
    def regions(self) -> list[spatial.Region]:
        return self.e.regions()

    @property
    def main(self) -> list[spatial.Region]:
        """The strongest regions, without those that add next to nothing."""
        worth = [r for r in self.regions[:NAMED] if r.value >= WORTH * self.positive]
        return worth or self.regions[:1]

    def place(self, region: spatial.Region) -> str:
        """Where a region lies; how much it covers where that is a good part of the whole."""
        if not self.is_wide(region):
            return self.words.place(region.name)
        return self.words.say("wide", area=float(region.cells.double().mean()), inside=self.inside)

    def is_wide(self, region: spatial.Region) -> bool:
        return float(region.cells.double().mean()) >= WIDE

    @cached_property
    def positive(self) -> float:
        return float(self.e.map[0].detach().cpu().clamp_min(0).sum())

    @property
    def negative(self) -> float:
        return -float(self.e.map[0].clamp_max(0).sum())

    @property
    def names_places(self) -> bool:
        """Whether the short form can name main places: few that hold most, none of them half the picture."""
        chance = self.chance is not None and self.chance["within"]
        if chance or self.remark or not self.regions or not self.e.complete:
            return False
        return self.share(self.main) >= MAIN and not any(map(self.is_wide, self.main))

    def share(self, regions: Sequence[spatial.Region]) -> float:
        """Of what speaks for the target, the share that these regions hold."""
        cells = self.e.map[0].detach().cpu().clamp_min(0)
        return sum(float(cells[r.cells].sum()) for r in regions) / self.positive

    @property
    def highest(self) -> str:
        """Where the largest cell lies."""
        at = torch.unravel_index(self.e.map[0].detach().cpu().argmax(), self.e.map.shape[1:])
        centre = [float(along[i]) for along, i in zip(self.e.geometry.centres(), at, strict=True)]
        return self.words.place(spatial.place_name(centre, self.e.geometry.input_size))

    # --- what was tried -----------------------------------------------------------------------------------------------

    @cached_property
    def chance(self) -> dict[str, Any] | None:
        """What is held beside a null distribution, as plain numbers."""
        null = self.e.null
        if null is None:
            return None
        p = {name: float(values[0]) for name, values in null.p_values().items()}
        limit = float(null.limits()["strongest"][0])
        inputs = self.words.say(f"chance.{null.kind}")
        within = float(null.strongest[0, 0]) <= limit
        return {"draws": null.draws, "inputs": inputs, "level": LEVEL, "limit": limit, "within": within, **p}

    @property
    def agreed(self) -> float:
        """The share of the map's size in cells whose sign the members of the spread agree on."""
        assert self.e.spread is not None
        return float(self.e.spread.share_agreed(self.e.map)[0])

    @property
    def nowhere(self) -> bool:
        """Whether there is a spread, and no cell that it leaves."""
        settled = self.e.settled()
        return settled is not None and not bool((self.e.map[settled] != 0).any())

    @property
    def without(self) -> float:
        """The score without the strongest region, as cells and constant add up."""
        return self.score - self.regions[0].value

    @property
    def erased(self) -> tuple[float, float] | None:
        """Score and probability without the strongest region, as measured."""
        if self.e.erased is None or not self.e.erased.score.numel():
            return None
        return float(self.e.erased.score[0, 0]), float(self.e.erased.probability[0, 0])

    @property
    def does_less(self) -> bool:
        """Whether erasing the strongest region changes the score by less than half of what its cells hold."""
        return self.erased is not None and self.score - self.erased[0] < self.regions[0].value / 2


def _range(values: Any) -> dict[str, float]:
    return {"low": float(values.min()), "high": float(values.max())}


def _sigmoid(score: float) -> float:
    return float(torch.tensor(score, dtype=torch.float64).sigmoid())


# --- for whoever knows the method ---------------------------------------------------------------------------------------


def _technical(d: _Decision) -> Iterator[str]:
    say, name = d.words.say, d.words.target(d.e.target, d.e.classes)
    head = {"method": d.e.method, "name": name, "score": d.score}
    if d.probability is None:
        yield say("technical.head", **head)
    else:
        yield say("technical.head_probability", **head, probability=d.probability)
    if not d.e.complete:
        yield say("technical.ranks")
    yield d.remark
    if d.e.complete and not d.remark:
        yield from _technical_places(d)
    if d.e.spread is not None and not d.remark:
        told = {"n": len(d.e.spread.names), "least": d.e.spread.least, "members": say(f"members.{d.e.spread.kind}")}
        yield say("technical.spread", **told, agreed=d.agreed, **_range(d.e.spread.scores))
    if d.chance is not None:
        yield say(
            "technical.chance", where=say(f"technical.{'within' if d.chance['within'] else 'beyond'}"), **d.chance
        )


def _technical_places(d: _Decision) -> Iterator[str]:
    say, named = d.words.say, d.regions[:NAMED]
    if not named:
        yield say(f"technical.{'no_region' if d.e.settled() is None else 'none_settled'}", positive=d.positive)
        return
    places = [say("technical.place", place=d.words.place(r.name), value=r.value) for r in named]
    yield say("technical.regions", len(named), n=len(named), share=d.share(named), places=", ".join(places))
    if d.erased is None:
        return
    kind = "probability" if d.e.in_log_odds else "score"
    yield say(f"technical.without.{kind}", score=d.without, probability=_sigmoid(d.without))
    yield say(f"technical.erased.{kind}", score=d.erased[0], probability=d.erased[1])


# --- for whoever acts on the decision -----------------------------------------------------------------------------------


def _professional(d: _Decision) -> Iterator[str]:
    yield from _head(d, "professional", ".2f")
    say = d.words.say
    if d.remark:
        yield d.remark
        return
    if d.chance is not None:
        given = {k: d.chance[k] for k in ("draws", "inputs", "positive")}
        if d.chance["within"]:
            sum_too = d.chance["positive"] > 1 - LEVEL
            yield say(f"professional.{'no_chance' if sum_too else 'faint'}", p=d.chance["strongest"], **given)
            return
        yield say("professional.chance", p=d.chance["strongest"], **given)
    if d.e.spread is not None:
        yield from _doubt(d, d.e.spread)
        if d.nowhere:
            yield say("professional.nowhere")
            return
    yield from _professional_places(d)


def _doubt(d: _Decision, spread: Spread) -> Iterator[str]:
    """How far the members of a spread agree."""
    say, members = d.words.say, d.words.say(f"members.{spread.kind}")
    yield say("professional.spread", n=len(spread.names), members=members, agreed=d.agreed)
    if not bool(spread.probabilities.isfinite().all()):
        yield say("professional.spread_score", **_range(spread.scores))
    else:
        yield _between(d, spread, "professional", ".2f")


def _between(d: _Decision, spread: Spread, audience: str, form: str) -> str:
    """From which probability to which the members go."""
    ends = {name: d.words.probability(p, form) for name, p in _range(spread.probabilities).items()}
    same = "_same" if ends["low"] == ends["high"] else ""
    return d.words.say(f"{audience}.spread_probability{same}", n=len(spread.names), **ends)


def _professional_places(d: _Decision) -> Iterator[str]:
    say = d.words.say
    if not d.e.complete:
        yield say("professional.ranks", method=d.e.method, place=d.highest)
        yield _sides(d, [d.highest])
        return
    if not d.regions:
        yield say("professional.no_region", positive=d.positive)
    else:
        yield from _professional_regions(d)
    if d.negative >= 0.005:
        yield say("professional.against", negative=d.negative)
    yield _sides(d, map(d.place, d.main))


def _professional_regions(d: _Decision) -> Iterator[str]:
    say, count = d.words.say, len(d.main)
    forms = ["place_first", *["place"] * (count - 1)]
    places = [
        say(f"professional.{form}", place=d.place(r), value=r.value, positive=d.positive)
        for form, r in zip(forms, d.main, strict=True)
    ]
    counted = d.words.count(count).capitalize()
    yield say("professional.regions", count, Count=counted, share=d.share(d.main), places="; ".join(places))
    yield _if_it_were_not_there(d)
    if d.does_less:
        yield say("professional.does_less")


def _sides(d: _Decision, places: Iterable[str]) -> str:
    """Whose left and right are meant, where a place speaks of them."""
    told = len(d.e.geometry.grid) > 1 and any(d.words.has_sides(place) for place in places)
    return d.words.say("professional.sides") if told else ""


def _if_it_were_not_there(d: _Decision) -> str:
    say, kind = d.words.say, "probability" if d.e.in_log_odds else "score"
    end = say("professional.unmeasured")
    if d.erased is not None:
        measured = d.words.probability(d.erased[1], ".2f") if d.e.in_log_odds else ""
        end = say(f"professional.erased.{kind}", score=d.erased[0], probability=measured)
    which = say("professional.which", len(d.main))
    predicted = d.words.probability(_sigmoid(d.without), ".2f")
    return say(f"professional.without.{kind}", which=which, score=d.without, probability=predicted, end=end)


def _head(d: _Decision, audience: str, form: str) -> Iterator[str]:
    """The decision itself."""
    say, target = d.words.say, d.e.target
    if d.probability is not None:
        told = {"name": d.subject, "probability": d.words.probability(d.probability, form)}
        yield say(f"{audience}.{'leans' if d.leans else 'leans_not'}", **told)
    elif isinstance(target, targets.ContrastTarget):
        a, b = (d.words.class_name(index, d.e.classes) for index in (target.a, target.b))
        yield say(f"{audience}.between", a=a, b=b, winner=a if d.leans else b, odds=abs(d.score))
    else:
        estimate = isinstance(target, targets.RegressionTarget) or d.e.provenance.get("task") == "regression"
        yield say(f"{audience}.{'estimates' if estimate else 'scores'}", name=d.subject, score=d.score)
    if d.undecided:
        yield say(f"{audience}.undecided")


# --- for whom it concerns -----------------------------------------------------------------------------------------------


def _short(d: _Decision) -> Iterator[str]:
    yield from _head(d, "short", ".0%")
    spread = d.e.spread
    if spread is not None and bool(spread.probabilities.isfinite().all()):
        yield _between(d, spread, "short", ".0%")
    yield _short_places(d)
    if d.names_places and d.does_less:
        yield d.words.say("short.does_less", which=d.words.say("short.which", len(d.main)))
    yield d.words.say("short.close")


def _short_places(d: _Decision) -> str:
    say, inside = d.words.say, d.inside
    if d.chance is not None and d.chance["within"]:
        return say("short.no_chance")
    if not d.remark and d.nowhere:
        return say("short.nowhere")
    if d.remark or not d.regions:
        return say("short.no_region", inside=inside)
    if not d.e.complete:
        return say("short.highest", inside=inside, place=d.highest)
    if not d.names_places:
        return say("short.spread_out", inside=inside)
    places = list(dict.fromkeys(map(d.place, d.main)))
    return say("short.regions", len(places), inside=inside, count=d.words.count(len(places)), places="; ".join(places))
