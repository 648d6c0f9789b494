r"""Every classification network of torchvision and timm through `pellucid.convert`: `make zoo` writes docs/models.md.

survey ── facts per name, from shapes alone ──> records.plan ──> workers ── one process per name ──> measure
                                                     ^                            │
                                                     └────── records, one file per name ──> verdicts ──> tables

Weights are random and perturbed, so that what is algebra shows (`networks.perturb`); nothing is said about usefulness.
"""
