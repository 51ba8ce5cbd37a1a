"""A captioner's recipe, from pairs to a model that predicts."""

import contextlib
import dataclasses
import io
import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import transformers
from omegaconf import OmegaConf
from open_clip_train.params import parse_args
from PIL import Image
from typer.testing import CliRunner

from tests.training.forks import fork
from unprompt.cli import app
from unprompt.errors import RecipeError, UnpromptError
from unprompt.models.coca import CoCaConfig, CoCaForConditionalGeneration, CoCaProcessor
from unprompt.predicting.coca_captioner import CoCaCaptioner
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor
from unprompt.training.recipe import Captioner, Data, Optimiser, Schedule, load_recipe
from unprompt.training.run import train
from unprompt.training.train_captioner import (
    Collator,
    build_captioner,
    exact_matches,
    token_loss,
)

TINY = {
    "image_size": 32,
    "patch_size": 16,
    "vision_hidden_size": 32,
    "vision_layers": 1,
    "vision_heads": 2,
    "pooler_queries": 5,
    "pooler_heads": 2,
    "hidden_size": 32,
    "text_layers": 1,
    "text_heads": 2,
    "decoder_layers": 1,
    "decoder_heads": 2,
    "vocab_size": 700,
    "bos_token_id": 698,
    "eos_token_id": 699,
    "pad_token_id": 699,
}


@pytest.fixture(scope="module")
def table(shared, tmp_path_factory):
    """24 real pairs with short prompts, split by hand."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = []
    for line in (shared / "pairs" / "pairs.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        if len(row["prompt"]) < 40 and row["prompt"] not in [known["prompt"] for known in rows]:
            image = folder / row["file"]
            image.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(shared / "pairs" / row["file"], image)
            split = "val" if len(rows) % 4 == 3 else "train"
            rows.append(row | {"split": split})
        if len(rows) == 24:
            break
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe_file(table, folder, **captioner):
    recipe = {
        "output": str(folder / "run"),
        "data": {"table": str(table), "workers": 0, "augment": "none"},
        "captioner": {"arguments": TINY, "num_beams": 2} | captioner,
        "optimiser": {"learning_rate": 1e-3},
        "schedule": {"max_steps": 4, "batch_size": 6, "evaluations": 2, "precision": "fp32"},
    }
    path = folder / "recipe.yaml"
    OmegaConf.save(OmegaConf.create(recipe), path)
    return path


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """A run that was killed and gone on with."""
    folder = tmp_path_factory.mktemp("captioner")
    path = recipe_file(table, folder)
    call = {"recipe": str(path), "log": str(folder / "steps"), "then": {3: "kill"}}
    codes, errors = fork([call])
    assert codes == [-signal.SIGKILL], errors
    run = folder / "run"
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert not (run / "model").exists()
    train(load_recipe(path))
    return run


def weights_of(run):
    return CoCaForConditionalGeneration.from_pretrained(run / "model").state_dict()


def test_a_run_leaves_a_model_and_its_scores(finished):
    model = CoCaForConditionalGeneration.from_pretrained(finished / "model")
    assert model.config.hidden_size == 32
    scores = json.loads((finished / "scores.json").read_text())["val"]
    assert scores["model"]["pairs"] == 6
    assert -1 <= scores["model"]["cosine"] <= 1
    assert 0 <= scores["exact_match"] <= 1
    assert 0 < scores["token_loss"] < 10
    logged = [json.loads(line) for line in (finished / "metrics.jsonl").open()]
    assert [entry["step"] for entry in logged if "eval_loss" in entry] == [2, 4]


def test_a_killed_run_ends_as_an_unbroken_one(finished, table, tmp_path):
    whole = train(load_recipe(recipe_file(table, tmp_path))).folder
    expected, found = weights_of(whole), weights_of(finished)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    scores = [json.loads((run / "scores.json").read_text())["val"] for run in (whole, finished)]
    for score in ("exact_match", "token_loss"):
        assert scores[0][score] == scores[1][score]
    assert scores[0]["model"]["cosine"] == scores[1]["model"]["cosine"]


def test_a_finished_run_again_gives_the_same_model(finished):
    before = weights_of(finished)
    train(load_recipe(finished.parent / "recipe.yaml"))
    after = weights_of(finished)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_lora_trains_and_is_merged(table, tmp_path):
    path = recipe_file(table, tmp_path, lora_rank=2, gradient_checkpointing=True)
    recipe = load_recipe(path)
    finished = train(recipe)
    transformers.set_seed(recipe.seed)
    before = build_captioner(recipe.captioner)[0].state_dict()
    after = weights_of(finished.folder)
    assert before.keys() == after.keys()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    attention = {name for name in before if re.search(r"(qkv|query|key_value)\.weight$", name)}
    assert changed
    assert changed <= attention
    assert finished.scores["val"].model.overall.count == 6


def test_the_token_loss_weighs_tokens_and_not_batches():
    torch.manual_seed(0)
    model, processor = build_captioner(Captioner(arguments=TINY))
    collator = Collator(processor, processor.preprocessing)
    prompts = ["a cat", "a dog on a very long road", "a red house beside the sea at night"]
    pairs = [
        {"prompt": prompt, "pixels": torch.full((3, 32, 32), 80 * row), "row": row, "failure": ""}
        for row, prompt in enumerate(prompts)
    ]
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # so that tokens differ in their loss
    losses = []
    for pair in pairs:
        batch = collator([pair])
        inputs = {key: batch[key] for key in ("pixel_values", "input_ids", "attention_mask")}
        with torch.no_grad():
            scores = model(**inputs).logits[0, :-1].log_softmax(dim=-1)
        wanted = batch["input_ids"][0, 1:]
        losses += (-scores.gather(1, wanted[:, None])[:, 0]).tolist()
    expected = sum(losses) / len(losses)
    for size in (1, 2, 3):
        batches = [collator(pairs[start : start + size]) for start in range(0, 3, size)]
        assert token_loss(model, batches) == pytest.approx(expected, rel=1e-4)


def predicted(finished, image, *options):
    command = ["predict", str(image), "--model", str(finished / "model"), "--route", "caption"]
    done = CliRunner().invoke(app, [*command, "--format", "json", *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("search", [("--num-beams", "3"), ("--top-p", "0.95")])
def test_the_caption_route(finished, table, search):
    torch.manual_seed(0)
    image = next(table.parent.rglob("*.webp"))
    answer = predicted(finished, image, "--top-k", "3", *search)
    assert answer["route"] == "caption"
    assert answer["error"] is None
    assert isinstance(answer["prompt"], str)
    assert answer["score"] is None
    prompts = [answer["prompt"], *(item["prompt"] for item in answer["alternatives"] or [])]
    assert len(set(prompts)) == len(prompts) >= 2
    scores = [item["score"] for item in answer["alternatives"]]
    assert all(0 < score <= 1 for score in scores)
    assert scores == sorted(scores, reverse=True)


def test_scores_are_the_probabilities_of_the_tokens(finished, table):
    """The score is what the steps of generation themselves say."""
    model = load_model(finished / "model", device="cpu", num_beams=1)
    assert isinstance(model, CoCaCaptioner)
    images = [Image.open(path).convert("RGB") for path in sorted(table.parent.rglob("*.webp"))[:3]]
    pixels = torch.stack([torch.from_numpy(model.preprocessing(image)) for image in images])
    embeddings, features, captions = model.run(pixels.numpy())
    assert embeddings.shape == (3, 384)
    assert features.shape == (3, 32)
    assert captions == [best for best, *_ in model.caption(pixels.numpy())]

    network = CoCaForConditionalGeneration.from_pretrained(finished / "model").eval()
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (model.preprocessing.mean, model.preprocessing.std)
    )
    written = network.generate(
        (pixels / 255 - mean) / std, return_dict_in_generate=True, output_scores=True
    )
    probabilities = network.compute_transition_scores(
        written.sequences, written.scores, normalize_logits=True
    )
    for [caption], ids, row in zip(
        model.caption(pixels.numpy()), written.sequences, probabilities, strict=True
    ):
        ends = (ids[1:] == 699).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(row)
        assert caption.text == model.processor.decode(ids, skip_special_tokens=True)
        assert caption.score == pytest.approx(row[:length].mean().exp().item(), rel=1e-3)


def test_models_and_routes_that_do_not_go_together(finished, table):
    image = next(table.parent.rglob("*.webp"))
    with pytest.raises(UnpromptError, match="writes prompts"):
        Predictor(finished / "model", route="embed").predict(image)
    captioner = Predictor(finished / "model")
    assert captioner.predict(image).route == "caption"
    with pytest.raises(UnpromptError, match="has no bank"):
        _ = captioner.bank


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": {"head": 1}}, r"captioner\.freeze\.head"),
        ({"freeze": {"image": 9}}, r"freeze\.image: the image tower has 1 blocks"),
        ({"arguments": {"text_heads": 7}}, "text_heads=7 does not divide"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(RecipeError, match=message):
        build_captioner(Captioner(**{"arguments": TINY} | settings))


def test_a_captioner_starts_from_a_folder_or_from_open_clip(finished, tmp_path):
    model, processor = build_captioner(
        Captioner(model=str(finished / "model"), freeze={"image": -1, "text": 1})
    )
    assert not any(p.requires_grad for p in model.model.image.parameters())
    assert len(processor.tokenizer) == 700
    with pytest.raises(UnpromptError, match="no such model"):
        build_captioner(Captioner(model="open_clip/coca_nothing"))


def test_matches_are_counted_as_the_tokenizer_spells():
    processor = CoCaProcessor.from_config(CoCaConfig())
    captions = ["a cat, sitting", "a dog"]
    assert exact_matches(captions, ["A cat, sitting", "a dogs"], processor) == 0.5


@pytest.mark.parametrize("name", ["coca_vit_l14", "coca_vit_l14_improved"])
def test_the_recipes_load(name):
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    assert recipe.captioner is not None
    assert recipe.captioner.model == "open_clip/coca_ViT-L-14"
    assert recipe.captioner.contrastive_weight == 0


def test_the_table_of_flags_names_flags_of_open_clip_and_keys_of_recipes():
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit):
        parse_args(["--help"])
    known = set(re.findall(r"--[a-z0-9-]+", help_text.getvalue()))
    page = (Path(__file__).parents[2] / "docs" / "coca.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`--.*) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) > 20
    assert {flag for flags, _ in rows for flag in re.findall(r"--[a-z0-9-]+", flags)} <= known
    sections = {"data": Data, "captioner": Captioner, "optimiser": Optimiser, "schedule": Schedule}
    stated = {key for _, ours in rows for key in re.findall(r"`([a-z]+)\.([a-z_]+)[`:]", ours)}
    keys = {(section, key) for section, key in stated if section in sections}
    assert len(keys) > 12
    for section, key in keys:
        assert key in {field.name for field in dataclasses.fields(sections[section])}
