"""What the documents show is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2]


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), flags=re.S)


@pytest.mark.parametrize("document", ["docs/tutorial.md", "README.md"])
def test_code_runs_as_it_stands(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = blocks(document)
    assert code, f"{document} shows no code"
    scope: dict[str, object] = {"__name__": "__document__"}
    for block in code:
        exec(compile(block, document, "exec"), scope)
    printed = capsys.readouterr().out
    for line in re.findall(r"```text\n(.*?)```", (DOCS / document).read_text(), flags=re.S):
        assert line.strip() in printed


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*DOCS.glob("*.md"), *(DOCS / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_reference_is_fresh() -> None:
    import runpy

    tables = runpy.run_path(str(DOCS / "docs" / "tables.py"), run_name="tables")
    assert (DOCS / "docs" / "reference.md").read_text(encoding="utf-8") == tables["rendered"](), "run: make docs"
