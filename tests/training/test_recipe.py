from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unprompt.errors import RecipeError
from unprompt.training.recipe import (
    Data,
    Head,
    Loss,
    Model,
    Optimiser,
    Recipe,
    Schedule,
    load_recipe,
    save_recipe,
)

TABLE = "data:\n  table: pairs.parquet\n"


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refused(path: Path, overrides: list[str] | None = None) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(
    lambda text: "$" not in text and "\\" not in text
)
recipes = st.builds(
    Recipe,
    output=names,
    seed=st.integers(0, 2**32 - 1),
    report_to=st.sampled_from(["none", "tensorboard", "wandb"]),
    data=st.builds(
        Data,
        table=names,
        val=st.floats(0.01, 0.4),
        augment=st.sampled_from(["none", "crop", "mild"]),
        workers=st.integers(0, 8),
    ),
    model=st.builds(
        Model,
        backbone=names,
        checkpoint=st.none() | names,
        pretrained=st.booleans(),
        arguments=st.dictionaries(
            st.sampled_from(["pad_type", "img_size"]), st.integers() | st.booleans() | names
        ),
        size=st.none() | st.integers(1, 999),
        mean=st.none() | st.lists(st.floats(0, 1), min_size=3, max_size=3),
        head=st.builds(Head, type=st.sampled_from(["linear", "mlp"]), dropout=st.floats(0, 0.9)),
    ),
    optimiser=st.builds(Optimiser, learning_rate=st.floats(0, 1)),
    schedule=st.builds(Schedule, epochs=st.floats(0.1, 100), max_steps=st.just(-1)),
)


@settings(max_examples=25)
@given(recipe=recipes)
def test_dataclasses_to_yaml_and_back(tmp_path_factory, recipe):
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    save_recipe(recipe, path)
    assert load_recipe(path) == recipe


def test_everything_but_the_table_has_a_default(write):
    recipe = load_recipe(write(TABLE))
    assert recipe == Recipe(data=Data(table="pairs.parquet"))
    assert "data.table is missing" in refused(write(""))
    assert "data.table is missing" in refused(write("seed: 3\n"))


def test_overrides_win_over_the_file(write):
    path = write(TABLE + "schedule:\n  epochs: 2\n  batch_size: 16\n")
    recipe = load_recipe(
        path,
        [
            "schedule.epochs=8",
            "optimiser.learning_rate=1e-4",
            "model.mean=[0.1,0.2,0.3]",
            "model.arguments.pad_type=same",
            "data.table=a=b.parquet",
            "model.checkpoint=null",
        ],
    )
    assert (recipe.schedule.epochs, recipe.schedule.batch_size) == (8, 16)
    assert recipe.optimiser.learning_rate == 1e-4
    assert recipe.model.mean == [0.1, 0.2, 0.3]
    assert recipe.model.arguments == {"pad_type": "same"}
    assert recipe.data.table == "a=b.parquet"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (TABLE + "shedule:\n  epochs: 3\n", "unknown key 'shedule'; did you mean 'schedule'?"),
        (TABLE + "  worker: 3\n", "unknown key 'data.worker'; did you mean 'workers'?"),
        (TABLE + "epochs: 3\n", "unknown key 'epochs'; did you mean 'schedule.epochs'?"),
        (
            TABLE + "model:\n  head:\n    hiden: 3\n",
            "unknown key 'model.head.hiden'; did you mean 'hidden'?",
        ),
        (TABLE + "zzzz: 3\n", "unknown key 'zzzz'; it knows output, seed, report_to, data"),
    ],
)
def test_an_unknown_key_names_the_nearest(write, text, hint):
    assert hint in refused(write(text))


def test_an_unknown_key_of_an_override_names_the_nearest(write):
    message = refused(write(TABLE), ["optimiser.learnin_rate=3"])
    assert "unknown key 'optimiser.learnin_rate'; did you mean 'learning_rate'?" in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("schedule.epochs=many", "schedule.epochs"),
        ("schedule.linear_probe=maybe", "schedule.linear_probe"),
        ("seed=1.5", "seed"),
        ("seed=null", "seed"),
        ("data.augment=wild", "data.augment"),
        ("report_to=email", "report_to"),
        ("model.mean=[a,b,c]", "model.mean"),
        ("data.table.name=x", "data.table"),
        ("schedule=5", "Schedule"),
        ("model.arguments=3", "model.arguments"),
    ],
)
def test_a_value_of_the_wrong_type_names_its_key(write, override, key):
    assert key in refused(write(TABLE), [override])


@pytest.mark.parametrize(
    "override",
    [
        "data.val=0",
        "data.val=1",
        "data.test=-0.1",
        "data.threshold=0",
        "data.workers=-1",
        "seed=-1",
        "model.size=0",
        "model.mean=[0.1]",
        "model.std=[0.1,0.2]",
        "model.std=[0.1,0.2,0]",
        "model.head.hidden=0",
        "model.head.dropout=1",
        "optimiser.learning_rate=-1e-3",
        "optimiser.learning_rate=nan",
        "optimiser.head_learning_rate=-1",
        "optimiser.weight_decay=-1",
        "optimiser.warmup=1",
        "optimiser.max_grad_norm=-1",
        "schedule.epochs=-1",
        "schedule.epochs=inf",
        "schedule.max_steps=0",
        "schedule.batch_size=0",
        "schedule.accumulation=0",
        "schedule.evaluations=0",
        "schedule.keep=0",
        "schedule.head_epochs=-1",
        "schedule.evaluate_every=0",
        "schedule.save_every=0",
        "schedule.patience=-1",
        "data.erase=1.5",
        "data.flip=-1",
        "data.weights={a: -1}",
        "data.fold=-1",
        "model.freeze=-2",
        "model.lora_rank=-1",
        "model.patch_dropout=1",
        "loss.cosine=-1",
        "loss.margin=2",
        "loss.temperature=0",
        "optimiser.layer_decay=0",
        "optimiser.betas=[0.9,1.0]",
        "optimiser.final=2",
        "optimiser.ema=1",
    ],
)
def test_a_value_out_of_range_names_its_key(write, override):
    key = override.partition("=")[0]
    message = refused(write(TABLE), [override])
    assert f"{key}=" in message
    assert "out of range" in message


def test_values_that_exclude_each_other(write):
    message = refused(write(TABLE), ["schedule.linear_probe=true", "model.head.type=mlp"])
    assert "schedule.linear_probe fits a linear or a classes head" in message
    assert "nothing is trained" in refused(write(TABLE), ["loss.cosine=0"])
    message = refused(write(TABLE + "captioner: {}\n"), ["optimiser.ema=0.9"])
    assert "optimiser.ema is for embedders; this recipe has a captioner" in message
    message = refused(write(TABLE + "captioner: {}\ndecoder: {}\n"))
    assert "a recipe has a captioner or a decoder, not both" in message


@pytest.mark.parametrize("override", ["epochs", "=5", "", "a=[1,"])
def test_an_override_that_is_none(write, override):
    assert f"override '{override}'" in refused(write(TABLE), [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n", "not YAML"),
        ("\0", "not YAML"),
        (TABLE + TABLE, "not YAML"),
        ("- a\n- b\n", "not a mapping"),
    ],
)
def test_files_that_are_no_recipe(write, text, message):
    assert message in refused(write(text))


def test_recipes_that_are_not_there(tmp_path):
    assert "no such recipe" in refused(tmp_path / "nowhere.yaml")
    assert str(tmp_path) in refused(tmp_path)


def test_the_recipes_of_the_project_load():
    folder = Path(__file__).parents[2] / "recipes"
    found = sorted(folder.glob("*.yaml"))
    assert found
    for path in found:
        if "coca" not in path.name:
            assert load_recipe(path).data.table


def test_every_field_is_documented():
    for part in (Data, Model, Loss, Optimiser, Schedule):
        for item in fields(part):
            assert f"{item.name}:" in (part.__doc__ or ""), (part, item.name)


def test_a_saved_recipe_states_every_value(tmp_path):
    save_recipe(replace(Recipe(), data=Data(table="x")), tmp_path / "r.yaml")
    text = (tmp_path / "r.yaml").read_text()
    for part in (Recipe, Data, Model, Head, Loss, Optimiser, Schedule):
        assert all(f"{item.name}:" in text for item in fields(part))
