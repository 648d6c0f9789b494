"""Which rules the blocks of an audit were made for, with their state. An aid for engineers, not legal advice."""

from __future__ import annotations

from dataclasses import dataclass

CHECKED = "21 November 2026"
SECONDARY = "secondary source"


@dataclass(frozen=True)
class Regulation:
    """state: as known on the day `CHECKED`. basis: "secondary source" where the rule itself was not re-read."""

    name: str
    asks: str
    state: str
    basis: str


REGULATIONS = (
    Regulation(
        "EU AI Act (Regulation 2024/1689), Articles 12 to 15",
        "Of high-risk systems: logs; instructions with purpose, metrics, limits, foreseeable risks, performance of groups, explanation capability, input specification; oversight; accuracy and robustness.",
        "In force since 1 August 2024. High-risk duties deferred by the Digital Omnibus (June 2026): Annex III to 2 December 2027, Annex I (medical devices among them) to 2 August 2028.",
        SECONDARY,
    ),
    Regulation(
        "EU AI Act, Article 86",
        "From the deployer, on request: the system's role and the main elements of a decision. Only for systems of Annex III (without point 2): credit scoring, not a radiology classifier as such.",
        "Applies with the duties of Annex III, deferred to 2 December 2027.",
        SECONDARY,
    ),
    Regulation(
        "FDA, Health Canada, MHRA: transparency for machine-learning medical devices",
        "Intended use, development, performance and, when available, logic. With good machine learning practice 7 (human and system together) and 9 (clear essential information).",
        "Guiding principles of June 2024; not binding.",
        SECONDARY,
    ),
    Regulation(
        "US Regulation B (12 CFR 1002.9(b)(2)) and its commentary",
        "In credit: the specific principal reasons, which accurately describe the factors actually scored; more than four are unlikely to help. The sample checklist is no safe harbour.",
        "In force. CFPB circular 2022-03 was withdrawn in May 2025; whether 2023-03 stands is not confirmed.",
        SECONDARY,
    ),
    Regulation(
        "US SR 26-2 / OCC Bulletin 2026-13 (formerly SR 11-7)",
        "Of banks above 30 billion dollars: an inventory of models, their validation and monitoring, by principles; generative systems excluded.",
        "SR 11-7 was rescinded on 17 April 2026.",
        SECONDARY,
    ),
)
