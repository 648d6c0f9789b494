"""`pellucid audit` and `pellucid verify`: exit codes, what is said, and what is refused at once."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from cli.kit import Run
from pellucid import study
from pellucid.audit import audit as verb
from pellucid.training.config import TrainingConfig


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network on everything, so that data have to be named."""
    out = tmp_path_factory.mktemp("runs") / "s8"
    recipe = TrainingConfig(epochs=1, batch_size=8, lr=0.01)
    made = study.Study("lesionlab:fundus", {"n_images": 16, "size": 64}, "pellucid:s8", None, 0, False, False, recipe)
    study.train_study(made, out, progress=False)
    return out


@pytest.fixture(autouse=True)
def no_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "print_pdf", lambda html, pdf: False)


DATA = ("lesionlab:fundus", "n_images=16", "size=64", "split=test")
POLICY = "zones: [corners]\ntags: false\nlimits:\n  performance.auc: {at_least: 0}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_a_policy_that_is_met_a_changed_byte_and_one_that_is_not_met(
    run: Run, refused: Run, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "audit"
    policy = write(tmp_path, POLICY)
    ended = run("audit", trained, *DATA, "--policy", policy, "--out", out)
    assert ended.code == 0, ended.err
    assert "met      performance.auc at least 0. Measured" in ended.out
    assert {p.name for p in out.iterdir()} == {
        "audit.html", "audit.json", "decisions.jsonl", "manifest.json", "model-card.md", "policy.yaml"
    }  # fmt: skip
    assert "Chromium is not here" in ended.err
    assert run("verify", out).code == 0

    text = (out / "decisions.jsonl").read_text()
    (out / "decisions.jsonl").write_text(text.replace('"healthy"', '"haelthy"', 1))
    assert "record" in refused(5, "verify", out).err
    (out / "decisions.jsonl").write_text(text)

    strict = write(tmp_path, POLICY.replace("at_least: 0", "at_least: 1.01"))
    ended = refused(4, "audit", trained, *DATA, "--policy", strict, "--out", out, "--since", out / "audit.json")
    assert f"{strict}, line 4: performance.auc at least 1.01 is not met." in " ".join(ended.err.split())
    assert "NOT MET  performance.auc" in ended.out
    assert run("verify", out).code == 0  # an audit that was not passed is an audit
    since = json.loads((out / "audit.json").read_text())["blocks"][8]["sheets"][0]
    assert since["title"].startswith("Since 20")
    assert since["rows"] == []  # the same network on the same data


def test_the_command_in_the_report_repeats_the_audit(run: Run, trained: Path, tmp_path: Path) -> None:
    policy = write(tmp_path, POLICY)
    run(
        "audit",
        trained,
        *DATA,
        "--policy",
        policy,
        "--zone",
        "border",
        "--out",
        tmp_path / "one",
        "--seed",
        3,
        "--batch-size",
        5,
    )
    first = json.loads((tmp_path / "one" / "audit.json").read_text())
    verb_, *words = shlex.split(first["commands"][0])
    assert verb_ == "pellucid"
    again = run(*[w.replace(str(tmp_path / "one"), str(tmp_path / "two")) for w in words])
    assert again.code == 0, again.err
    second = json.loads((tmp_path / "two" / "audit.json").read_text())
    for told in (first, second):
        for figure in told["figures"].values():
            del figure["command"]
    assert first["figures"] == second["figures"]
    assert any(key.startswith("shortcut.border") for key in first["figures"])


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (3, ["none"], "There is no run none"),
        (2, ["RUN", "n_images=3"], "no setting 'n_images'"),
        (2, ["RUN"], "trained on all of its data"),
        (2, ["RUN", *DATA, "--zone", "cornres"], "no zone 'cornres'"),
        (2, ["RUN", *DATA, "--mend", "corners", "--how", "exchnage"], "no way of mending 'exchnage'"),
        (2, ["RUN", *DATA, "n_imges=3"], "n_imges"),
        (3, ["RUN", *DATA, "--policy", "none.yaml"], "none.yaml cannot be read"),
        (3, ["RUN", *DATA, "--since", "none.json"], "none.json"),
    ],
)
def test_what_cannot_be_done_is_refused(
    refused: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = refused(code, "audit", *[str(trained) if w == "RUN" else w for w in words], "--out", tmp_path / "out")
    assert said in " ".join(ended.err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["limts: {}", "a: [", "limits: {performance.auc: {at_last: 1}}"])
def test_a_broken_policy_is_refused(refused: Run, trained: Path, tmp_path: Path, text: str) -> None:
    refused(2, "audit", trained, *DATA, "--policy", write(tmp_path, text), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_stays_what_it_is(refused: Run, trained: Path) -> None:
    before = sorted(p.name for p in trained.iterdir())
    refused(2, "audit", trained, *DATA, "--out", trained)
    assert sorted(p.name for p in trained.iterdir()) == before


def test_verify_of_nothing(refused: Run, tmp_path: Path) -> None:
    refused(3, "verify", tmp_path / "none")
    refused(3, "verify", tmp_path)
