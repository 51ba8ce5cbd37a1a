"""The verbs evaluate and export, through the entry of the installed command."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.evaluating.conftest import COUNT, EVIL
from unprompt.models.bank.bank import Bank
from unprompt.pairs.convert import convert
from unprompt.pairs.table import load, save


def test_scores_and_report(call, tmp_path, model_folder, table_file):
    report = tmp_path / "report.html"
    command = ("evaluate", model_folder, table_file, "--report", report, "--baselines")
    code, out, err = call(*command, "--format", "json", "--device", "cpu")
    assert code == 0, err
    scores = json.loads(out)
    assert scores["split"] == "test"
    assert scores["model"]["pairs"] == COUNT["test"]
    assert scores["text_scores"]["pairs"] == COUNT["test"]
    assert [baseline["name"][:4] for baseline in scores["baselines"]] == ["mean", "rand", "kNN "]
    page = report.read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    assert f"{scores['model']['cosine']:.2f}" in page
    assert "<script" not in page


def test_scores_as_text(call, model_folder, table_file):
    code, out, _ = call("evaluate", model_folder, table_file, "--split", "all", "--device", "cpu")
    assert code == 0
    assert "all pairs" in " ".join(out.split())
    assert "mean training embedding" not in out
    assert str(sum(COUNT.values())) in out


def test_two_models_are_told_apart(call, model_folder, table_file):
    arguments = (
        "evaluate",
        model_folder,
        table_file,
        "--no-text-scores",
        "--compare",
        model_folder,
    )
    code, out, _ = call(*arguments)
    assert code == 0
    assert "+0.0000 [+0.0000, +0.0000] on 12 pairs" in " ".join(out.split())
    _, out, _ = call(*arguments, "--format", "json")
    difference = json.loads(out)["difference"]
    assert (difference["cosine"], difference["interval"]) == (0, [0, 0])


def test_the_competitions_folder_in_and_its_submission_out(call, tmp_path, model_folder, table):
    convert(save_here(table, tmp_path), tmp_path / "kaggle", "kaggle")
    folder = ("--kaggle", tmp_path / "kaggle")
    code, out, _ = call("evaluate", model_folder, *folder, "--format", "json", "--no-text-scores")
    assert code == 0
    assert json.loads(out)["model"]["pairs"] == sum(COUNT.values())
    file = tmp_path / "submission.csv"
    code, out, _ = call("evaluate", model_folder, *folder, "--format", "kaggle", "-o", file)
    assert (code, out) == (0, "")
    convert(file, tmp_path / "submitted.parquet")
    submitted = load(tmp_path / "submitted.parquet")
    assert set(submitted.column("id")) == set(table.column("id"))
    np.testing.assert_allclose(np.linalg.norm(submitted.embeddings, axis=1), 1, atol=1e-2)
    code, out, err = call("evaluate", model_folder)
    assert (code, out) == (2, "")
    assert "name either a TABLE, or a folder with --kaggle" in err


def save_here(table, folder: Path) -> Path:
    save(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def test_a_bad_image_is_named_and_the_exit_code_says_so(call, tmp_path, model_folder, table):
    for file in table.column("file"):
        shutil.copy(table.root / file, tmp_path / file)
    bad = table.column("file")[COUNT["train"] + 2]
    (tmp_path / bad).write_bytes(b"")
    save(type(table)(table.data, tmp_path, table.name), tmp_path / "pairs.parquet")
    code, out, err = call(
        "evaluate", model_folder, tmp_path / "pairs.parquet", "--split", "val", "--format", "json"
    )
    assert code == 1
    assert json.loads(out)["model"]["pairs"] == COUNT["val"] - 1
    assert f"image '{bad}'" in err
    assert len(json.loads(out)["failures"]) == 1


def test_wrong_calls_end_with_two(call, offline, tmp_path, model_folder, table_file):
    def refused(*arguments: object) -> str:
        code, out, err = call(*arguments)
        assert (code, out) == (2, "")
        return err

    assert "no such pairs table" in refused("evaluate", model_folder, tmp_path / "no.parquet")
    assert "no such folder" in refused("evaluate", tmp_path / "no-model", table_file)
    assert "not a model" in refused("evaluate", tmp_path, table_file)
    assert "'exam' is not one of" in refused(
        "evaluate", model_folder, table_file, "--split", "exam"
    )
    assert "--batch-size" in refused("evaluate", model_folder, table_file, "--batch-size", 0)
    assert "cannot be used" in refused("evaluate", model_folder, table_file, "--device", "toaster")
    assert "--format" in refused("evaluate", model_folder, table_file, "--format", "xml")
    (tmp_path / "bad.txt").write_bytes(b"fine\n\xff\n")
    (tmp_path / "none.txt").write_text("\n\n")
    output = ("-o", tmp_path / "onnx")
    assert "no such folder" in refused("export", tmp_path / "no-model", *output)
    assert "is the model itself" in refused("export", model_folder, "-o", model_folder)
    prompts = ("export", model_folder, *output, "--prompts")
    assert "cannot be read" in refused(*prompts, tmp_path / "nowhere.txt")
    assert "bad.txt, line 2: not UTF-8" in refused(*prompts, tmp_path / "bad.txt")
    assert "holds no prompts" in refused(*prompts, tmp_path / "none.txt")
    assert not (tmp_path / "onnx").exists()


def test_an_export_answers_as_the_model_does(call, tmp_path, model_folder, table_file):
    folder = tmp_path / "onnx"
    code, out, err = call("export", model_folder, "-o", folder, "--calibrate", table_file)
    assert (code, out) == (0, "")
    assert f"{folder}: the model, and a bank of 25 prompts" in err
    assert f"(on {COUNT['val']} held-out pairs)" in err
    bank = Bank.load(folder)
    assert EVIL in bank.prompts
    assert bank.calibration is not None
    _, ours, _ = call("evaluate", folder, table_file, "--format", "json")
    _, theirs, _ = call("evaluate", model_folder, table_file, "--format", "json")
    mine, yours = json.loads(ours)["model"], json.loads(theirs)["model"]
    assert mine["cosine"] == pytest.approx(yours["cosine"], abs=1e-3)


def test_an_export_in_8_bits_says_what_that_costs(call, tmp_path, model_folder, table_file):
    folder = tmp_path / "int8"
    code, _, err = call("export", model_folder, "-o", folder, "--int8")
    assert code == 2
    assert "--calibrate TABLE" in err
    assert not folder.exists()
    code, out, err = call("export", model_folder, "-o", folder, "--int8", "--calibrate", table_file)
    assert (code, out) == (0, "")
    stated = re.search(
        r"mean cosine to the exact embeddings ([01]\.\d+), score ([+-]0\.\d+) on val", err
    )
    assert stated is not None, err
    assert 0.98 < float(stated[1]) <= 1
    assert abs(float(stated[2])) < 0.1
    code, _, err = call("evaluate", folder, table_file)
    assert code == 0, err


def test_an_export_with_a_bank_of_its_own(tmp_path, model_folder):
    from unprompt.encoding import encode
    from unprompt.models.bank.bank import quantise
    from unprompt.training.export import export

    (tmp_path / "prompts.txt").write_text("a red cube\n\na blue ball\na red cube\n")
    bank = export(model_folder, tmp_path / "onnx", tmp_path / "prompts.txt", half=False).bank
    assert list(bank.prompts) == ["a red cube", "a blue ball"]
    expected = quantise(encode(list(bank.prompts), bank.encoder))
    assert np.abs(bank.rows.astype(int) - expected).max() <= 1
    loaded = Bank.load(tmp_path / "onnx")
    np.testing.assert_array_equal(loaded.rows, bank.rows)
    assert loaded.calibration is None


def test_every_verb_shows_examples(call):
    for verb in ("train", "evaluate", "export"):
        code, out, _ = call(verb, "--help")
        assert code == 0
        assert "Examples" in out
        assert f"unprompt {verb} " in out


def test_the_table_of_the_fixture_is_as_it_says(table_file):
    table = load(table_file)
    assert {split: table.column("split").count(split) for split in COUNT} == COUNT
