"""What the documents show is what happens."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from pellucid.methods import METHODS

DOCS = Path(__file__).resolve().parents[2]


def blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), flags=re.S)


@pytest.mark.parametrize("document", ["docs/tutorial.md", "docs/targets.md", "README.md"])
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
        words = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.S)  # code has brackets of its own
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", words):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "docs" / "tables.py"), run_name="tables")


@pytest.mark.parametrize("page", ["reference.md", "methods.md"])
def test_generated_pages_are_fresh(tables: dict[str, Any], page: str) -> None:
    assert (DOCS / "docs" / page).read_text(encoding="utf-8") == tables["PAGES"][page](), "run: make docs"


def test_every_method_is_checked_against_an_outside_source(tables: dict[str, Any]) -> None:
    assert set(tables["checks"]()) == {*METHODS, *METHODS.adapters}


def test_a_check_takes_its_tolerance_from_its_mark() -> None:
    """So that the figure in the table is the one that is asked for."""
    for path in (DOCS / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "pytest.mark.checks" in map(_name, node.decorator_list):
                used = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == "tolerance"]
                assert used, f"{path.name}: {node.name}"
                assert "tolerance" in [a.arg for a in node.args.args]


def _name(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
