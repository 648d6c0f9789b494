"""Whatever is wrong: three lines, the right exit code, and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pellucid.api
from cli.kit import Run, bomb, picture
from pellucid.cli.failure import as_known, exit_code
from pellucid.models.s8 import S8


@pytest.fixture
def explain(refused: Run, model: Path, tmp_path: Path) -> Run:
    """`pellucid explain SOURCE` on the small model, which has to fail."""

    def call(code: int, source: Path, *more: object) -> Any:
        return refused(code, "explain", source, "--model", model, "--out", tmp_path / "out", *more)

    return call


def test_missing_paths(explain: Run, refused: Run, tmp_path: Path, pictures: Path) -> None:
    ended = explain(3, tmp_path / "nothing.png")
    assert "nothing.png" in ended.lines[0]
    refused(3, "explain", pictures, "--model", tmp_path / "nothing")
    refused(3, "verify", tmp_path / "nothing")
    refused(3, "evaluate", tmp_path / "nothing", "--model", "x")
    refused(3, "report", tmp_path / "nothing")
    refused(3, "train", tmp_path / "nothing", "--model", "pellucid:s8")
    refused(3, "convert", tmp_path / "nothing", "--out", tmp_path / "m")
    refused(3, "convert", "pellucid:s8", "--weights", tmp_path / "nothing.pth", "--out", tmp_path / "m")
    refused(3, "explain", pictures, "--model", "pellucid:s8", "--classes", tmp_path / "nothing.txt")
    refused(3, "explain", pictures, "--model", "pellucid:s8", "--config", tmp_path / "nothing.yaml")


def test_a_missing_file_names_the_nearest(explain: Run, pictures: Path) -> None:
    assert explain(3, pictures / "p00.pngg").lines[-1] == "fix:   Did you mean 'p00.png'?"


def test_files_that_are_no_pictures(explain: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("These are words, not pixels.")
    assert "not an image" in explain(3, text).lines[0]
    whole = picture(tmp_path / "whole.jpg", side=200).read_bytes()
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole[: len(whole) // 2])
    assert "cut.jpg" in explain(3, cut).lines[0]
    unknown = tmp_path / "notes.docx"
    unknown.write_text("words")
    explain(3, unknown)


def test_a_bomb_is_refused_before_it_goes_off(explain: Run, tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF)
    ended = explain(3, bomb(tmp_path / "bomb.png"))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert "2500000000 pixels" in ended.lines[1]
    assert after.ru_maxrss - before.ru_maxrss < 300_000  # kilobytes; its pixels alone would be 2.5 million
    assert (tmp_path / "bomb.png").stat().st_size < 3_000_000


def test_nothing_that_can_be_used(explain: Run, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    explain(3, folder)
    for k in range(3):
        (folder / f"{k}.png").write_text("words")
    ended = explain(3, folder, "--max-bad", 1)
    assert "None of 3 inputs" in ended.lines[-3]
    assert not (tmp_path / "out" / "index.json").exists()


def test_too_many_bad_files(explain: Run, run: Run, model: Path, tmp_path: Path) -> None:
    for k in range(6):
        picture(tmp_path / "in" / f"{k}.png", k)
    (tmp_path / "in" / "bad.png").write_text("words")
    ended = explain(3, tmp_path / "in")  # 1 of 7 is more than a tenth
    assert "--max-bad" in ended.lines[-1]
    allowed = run("explain", tmp_path / "in", "--model", model, "--out", tmp_path / "out", "--max-bad", 0.2)
    assert allowed.code == 0
    assert len([p for p in (tmp_path / "out").glob("*.png") if p.is_file()]) == 6


def test_tables(explain: Run, refused: Run, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    table = tmp_path / "t.csv"
    table.write_text("path,label,Sex\na.png,pear,f\n")
    ended = explain(2, table, "label=sex")
    assert (ended.lines[0], ended.lines[2]) == ("error: t.csv has no column 'sex'.", "fix:   Did you mean 'Sex'?")
    ended = refused(2, "train", table, "--model", "pellucid:s8", "--out", tmp_path / "r", "classes=[apple,peer]")
    assert "'pear' is not a class" in ended.lines[0]
    assert ended.lines[2] == "fix:   Did you mean 'peer'?"


def test_a_network_that_cannot_be_converted(refused: Run, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    ended = refused(2, "convert", "torchvision:vit_b_32", "--out", tmp_path / "m", "--quiet")
    assert "class token" in ended.err
    assert not (tmp_path / "m").exists()


def test_only_the_kind_that_was_asked_for(refused: Run, tmp_path: Path) -> None:
    words = ("convert", "torchvision:mobilenet_v3_small", "--out", tmp_path / "m", "--size", 96, "--quiet")
    ended = refused(2, *words, "--kind", "exact")
    assert "classifier.1" in ended.err  # the reason names the layer
    assert not (tmp_path / "m").exists()
    assert "Did you mean 'exact'?" in refused(2, *words, "--kind", "exakt").lines[-1]
    assert "--kind retrain" in refused(2, *words, "--distil", tmp_path).lines[-3]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--methd", "evidence"], "fix:   Did you mean '--method'?"),
        (["--method", "evidense"], "fix:   Did you mean 'evidence'?"),
        (["--target", "pair"], "fix:   Did you mean 'pear'?"),
        (["--target", "7"], "fix:   Choose 0 to 2."),
        (["--target", "-1"], "fix:   Choose 0 to 2."),
        (["sise=64"], "fix:   Did you mean 'size'?"),
        (["gage=raw"], "fix:   Did you mean 'gauge'?"),
        (["--method", "grad_cam", "layer=feature"], "fix:   Did you mean 'model.features'?"),
        (["--method", "grad_cam", "gauge=raw"], "fix:   "),
        (["crop=middle"], "fix:   "),
        (["--regions", "0"], "fix:   See: pellucid explain --help"),
        (["size"], "fix:   For example size=224."),
        (["--weights", "w.pth"], "fix:   Leave out --weights"),
    ],
)
def test_wrong_words_are_refused_with_the_nearest(explain: Run, pictures: Path, words: list[str], hint: str) -> None:
    assert explain(2, pictures / "p00.png", *words).lines[-1].startswith(hint)


def test_names_of_networks(refused: Run, pictures: Path) -> None:
    photo = pictures / "p00.png"
    assert refused(2, "explain", photo, "--model", "torchvison:resnet18").lines[-3].count("torchvison")
    assert refused(2, "explain", photo, "--model", "pellucid:s9").lines[-1].startswith("fix:   Known: s8, ")
    assert refused(2, "explian", photo).lines[-3].endswith("Did you mean 'explain'?")


def test_class_names_that_do_not_fit(explain: Run, pictures: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\n")
    assert "2 class names for 3 logits" in explain(2, pictures / "p00.png", "--classes", names).lines[-3]
    explain(3, pictures / "p00.png", "--classes", tmp_path)  # a folder
    names.write_bytes(b"\xff\xfe\xff")
    explain(3, pictures / "p00.png", "--classes", names)


def test_inputs_that_do_not_fit(explain: Run, pictures: Path) -> None:
    assert "(1, 64, 64)" in explain(3, pictures / "p00.png", "grey=true").lines[-3]


class Evil:
    """What a malicious checkpoint does when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", ["torch", "torch-old", "pickle"])
def test_a_malicious_checkpoint_does_nothing(refused: Run, pictures: Path, tmp_path: Path, writer: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "w.pth"
    content = {"state_dict": {"head.weight": Evil(trace)}}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    for verb in ("convert", "explain"):
        arguments = [pictures / "p00.png", "--model"] if verb == "explain" else []
        refused(5, verb, *arguments, "pellucid:s8", "--weights", path, "--out", tmp_path / "m")
    refused(
        5,
        "train",
        "lesionlab:fundus",
        "--model",
        "pellucid:s8",
        "--weights",
        path,
        "--out",
        tmp_path / "r",
        "n_images=4",
    )
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))  # it would have
    assert trace.exists()


def test_a_damaged_model(refused: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(model, tmp_path / "copy")
    for name in ("model.safetensors", "model.json", "manifest.json"):
        path = copy / name
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
        refused(5, "explain", pictures / "p00.png", "--model", copy, "--out", tmp_path / "out")
        refused(5, "verify", copy)
        path.write_bytes(whole)
    refused(3, "explain", pictures / "p00.png", "--model", copy / "model.safetensors")


def test_places_that_cannot_be_written(explain: Run, run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    photo = pictures / "p00.png"
    assert run("explain", photo, "--model", model, "--out", file / "below").code == 6
    assert run("explain", photo, "--model", model, "--out", file).code == 6
    assert run("convert", "pellucid:s8", "--size", 64, "--out", file / "below").code == 6
    assert (
        run("train", "lesionlab:fundus", "--model", "pellucid:s8", "--out", file / "r", "n_images=4", "size=64").code
        == 6
    )
    assert file.read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(run: Run, model: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o500)
    assert run("explain", pictures / "p00.png", "--model", model, "--out", tmp_path / "kept" / "out").code == 6


def test_a_full_disk(explain: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in explain(6, pictures / "p00.png").lines[-2]


def test_a_models_folder_is_no_place_for_explanations(refused: Run, model: Path, pictures: Path) -> None:
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    refused(2, "explain", pictures / "p00.png", "--model", model, "--out", model)
    assert before == {p.name: p.read_bytes() for p in model.iterdir()}


def test_an_internal_error_leaves_a_log(
    run: Run, model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(pellucid.api, "explain", broken)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    arguments = ("explain", pictures / "p00.png", "--model", model, "--out", tmp_path / "out")
    ended = run(*arguments, "--quiet")
    assert ended.code == 1
    assert ended.lines[0] == "error: Internal error: ZeroDivisionError: no such luck"
    log = Path(ended.lines[1].split("The log is ")[1].removesuffix("."))
    assert "in broken" in log.read_text()
    assert "Traceback" not in ended.err
    told = run(*arguments, "--json")
    assert (told.code, told.json["code"]) == (1, "InternalError")
    assert Path(told.json["path"]).exists()
    assert "Traceback" in run(*arguments, "--debug").err


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell starts what runs in the background with it ignored, and Python leaves it so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_tells_how_to_go_on(run: Run, model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pellucid.api, "explain", lambda *a, **k: signal.raise_signal(signal.SIGINT))
    photo = pictures / "a b.png"
    shutil.copy(pictures / "p00.png", photo)
    ended = run("explain", photo, "--model", model, "--target", "pear")
    photo.unlink()
    assert ended.code == 130
    assert ended.lines[-1] == f"Go on with:  pellucid explain '{photo}' --model {model} --target pear"


def test_ctrl_c_in_training_keeps_what_is_done(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0

    def forward(self: S8, x: torch.Tensor) -> torch.Tensor:
        nonlocal steps
        steps += self.training
        if steps == 3 and self.training:
            signal.raise_signal(signal.SIGINT)
        return self.head(self.features(x).flatten(2).mean(2))  # type: ignore[no-any-return]

    out = tmp_path / "r"
    words = (
        "train",
        "lesionlab:fundus",
        "--model",
        "pellucid:s8",
        "--black-box",
        "--out",
        out,
        "n_images=8",
        "size=64",
        "batch_size=4",
        "epochs=2",
    )
    with monkeypatch.context() as patched:
        patched.setattr(S8, "forward", forward)
        ended = run(*words)
    assert ended.code == 130
    assert ended.lines[-1] == "Go on with:  pellucid " + " ".join(map(str, words))
    assert (out / "state" / "last.pt").exists()
    assert not (out / "model.safetensors").exists()
    assert run(*words).code == 0
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert [e for e in events if e != "epoch"] == ["started", "interrupted", "resumed", "finished"]


def test_errors_of_the_system_are_said_for_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        6: [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"), OSError(30, "Read-only file system", "x"), PermissionError(13, "Permission denied", "x"),
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")],
        3: [FileNotFoundError(2, "No such file", "x"), IsADirectoryError(21, "Is a directory", "x")],
    }  # fmt: skip
    for code, errors in cases.items():
        for error in errors:
            assert exit_code(error, []) == code
            assert capsys.readouterr().err.count("\n") == 3
    assert as_known(ValueError("x")) is None
    assert as_known(RuntimeError("x")) is None
