"""`pellucid verify`: is a model, run or explanation still what was written?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pellucid.cli import options
from pellucid.cli.output import listed, show
from pellucid.errors import BadInput, IntegrityError

NAME = "verify"
HELP = "Check saved files against their SHA-256. For models, runs, scores, explanations and audits with their chain of decisions."
EXAMPLES = ("pellucid verify models/resnet18", "pellucid verify runs/demo --json")


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder written by pellucid.")],
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    if not folder.is_dir():
        raise BadInput(
            f"There is no folder {folder}.",
            why="verify checks a folder written by pellucid.",
            hint="Check the path.",
            path=folder,
        )
    found = {**_by_manifests(folder), **_explanations(folder)}
    if not found:
        raise BadInput(
            f"{folder} holds nothing to verify.",
            why="No manifest.json and no explanation.json was found in it.",
            hint="Name the folder of a model, run or explanation.",
            path=folder,
        )
    if as_json:
        show({"intact": True, "files": found})
    else:
        print(listed(sorted(found.items())))
        print(f"{len(found)} files, all as written.")


def _by_manifests(folder: Path) -> dict[str, str]:
    from pellucid.models import storage

    found = {}
    for manifest in sorted(folder.rglob("manifest.json")):
        _check_chain(manifest.parent)
        for name, digest in storage.verify(manifest.parent).items():
            found[(manifest.parent / name).relative_to(folder).as_posix()] = digest
    return found


def _check_chain(folder: Path) -> None:
    """Of an audit the decisions on record, one by one, so that a changed one is named."""
    from pellucid.audit.decisions import FILE, check_chain
    from pellucid.models import storage

    manifest = storage.read_manifest(folder)
    if "chain" in manifest and (folder / FILE).is_file():
        check_chain(folder / FILE, manifest["chain"])


def _explanations(folder: Path) -> dict[str, str]:
    from pellucid import files
    from pellucid.explanation import Explanation

    found = {}
    for description in sorted(folder.rglob("explanation.json")):
        numbers = description.with_name("explanation.npz")
        try:
            Explanation.load(description.parent)
        except IntegrityError:
            raise
        except Exception as error:  # a damaged description may say anything
            raise IntegrityError(
                f"{description} is damaged.", why=str(error), hint="Make the explanation again.", path=description
            ) from error
        found[numbers.relative_to(folder).as_posix()] = files.sha256(numbers)
    return found
