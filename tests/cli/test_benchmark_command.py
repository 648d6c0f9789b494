from __future__ import annotations

from pathlib import Path

from cli.kit import Run


def test_command_refuses_what_it_cannot_do(run: Run, tmp_path: Path) -> None:
    for arguments, told in (
        (["photos"], "no benchmark on 'photos'"),
        (["lesionlab", "--preset", "smal"], "no preset 'smal'"),
        (["lesionlab", "--modality", "mri"], "draws no 'mri'"),
        (["lesionlab", "--seeds", "0"], "--seeds"),
    ):
        ended = run("benchmark", *arguments, "--out", tmp_path / "b")
        assert ended.code == 2, ended.err
        assert told in ended.err
        assert len(ended.lines) == 3
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plan.json").write_text("{}")
    assert "holds another benchmark" in run("benchmark", "lesionlab", "--out", tmp_path / "b", "--quiet").err
    ended = run("benchmark", "lesionlab", "--dry-run", "--out", tmp_path / "c")
    assert (ended.code, (tmp_path / "c").exists()) == (0, False)
    assert "31 networks of fundus" in ended.err
