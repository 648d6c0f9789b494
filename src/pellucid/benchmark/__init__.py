"""The benchmark that has to prove itself: do scores of explanations tell good maps from bad ones where the truth is known?

Networks are trained on LesionLab, whose masks and effects are exact. Every method and every control is scored by every
metric; a metric that does not put the mask above the methods and these above noise leaves the headline and is named.
Each remedy is then tried on the knob it is for.

    OUT/  plan.json                  all that decides what follows
          networks/KIND-SEED/NAME/   what was trained
          parts/KIND-SEED/STUDY/     finished parts of the scores
          results.json, scores.csv, results.md, figures/, manifest.json
"""

from pellucid.benchmark.plan import PRESETS, Plan
from pellucid.benchmark.running import run

__all__ = ["PRESETS", "Plan", "run"]
