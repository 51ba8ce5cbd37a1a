import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unprompt.collecting.compose import compose
from unprompt.collecting.generate import generate, image_seed, prompt_id
from unprompt.collecting.images.jobs import Job
from unprompt.collecting.sketches.sketch import SketchBackend, draw
from unprompt.errors import UnpromptError
from unprompt.pairs.table import load
from unprompt.pairs.validation import validate
from unprompt.reading import read

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))
SCENES = list(compose(12, style="sketch"))


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_table_says_what_the_images_are(tmp_path: Path) -> None:
    result = generate(SCENES, tmp_path, SketchBackend(48), images_per_prompt=2)
    assert (result.made, result.found, result.failed) == (24, 0, {})
    table = load(result.table)
    validate(table, images="decode")
    assert table.prompts == [prompt for prompt in SCENES for _ in range(2)]
    for row, pair in enumerate(table):
        assert pair.id == f"{prompt_id(pair.prompt)}-{row % 2}"
        assert pair.seed == image_seed(pair.prompt, row % 2)
        assert (pair.width, pair.height) == (48, 48)
        assert pair.sha256 == hashlib.sha256(table.read_bytes(row)).hexdigest()
        assert pair.generator == "unprompt sketch"
        assert pair.exact
        # Any image can be made again alone.
        again = np.asarray(draw(pair.prompt, 48, pair.seed))
        np.testing.assert_array_equal(np.asarray(table.open_image(row)), again)
    assert len({pair.seed for pair in table}) == 24


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_prompt_and_settings_are_read_from_the_file(tmp_path: Path, format: str) -> None:
    prompts = ["a café, zwölf Boxkämpfer 猫", "a red cat"]
    table = load(generate(prompts, tmp_path, SketchBackend(32), format=format).table)
    assert table.prompts == prompts
    for pair in table:
        with Image.open(tmp_path / pair.file) as image:
            assert image.format == format.upper()
        reading = read(tmp_path / pair.file)
        assert reading is not None
        assert reading.prompt == pair.prompt
        assert reading.settings.seed == pair.seed
        assert reading.settings.size == (32, 32)
        assert reading.settings.model == "unprompt sketch"


def test_a_prompt_that_no_file_can_hold_is_reported(tmp_path: Path) -> None:
    result = generate(["Steps: 20, Sampler: Euler a", "a cat"], tmp_path, SketchBackend(16))
    assert load(result.table).prompts == ["a cat"]
    assert len(result.failed) == 1
    assert "Steps: 20" in next(iter(result.failed.values()))


def test_repeated_and_empty_prompts_are_left_out(tmp_path: Path) -> None:
    result = generate(["a cat", " a cat ", "", "a dog"], tmp_path, SketchBackend(16))
    assert load(result.table).prompts == ["a cat", "a dog"]
    assert result.repeated == 2
    assert "2 repeated prompts left out" in str(result)


def test_a_second_call_makes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    generate(SCENES, tmp_path, SketchBackend(16))
    before = _content(tmp_path)
    result = generate(SCENES, tmp_path, SketchBackend(16))
    assert (result.made, result.found) == (0, 12)
    assert _content(tmp_path) == before


def test_more_prompts_are_added_and_lost_images_are_made_again(tmp_path: Path) -> None:
    first = generate(SCENES[:5], tmp_path / "a", SketchBackend(16))
    lost = tmp_path / "a" / load(first.table).column("file")[2]
    lost.unlink()
    result = generate(SCENES, tmp_path / "a", SketchBackend(16))
    assert (result.made, result.found) == (8, 4)
    generate(SCENES, tmp_path / "b", SketchBackend(16))
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    generate(SCENES[:1], tmp_path, SketchBackend(16))
    with pytest.raises(UnpromptError, match="size: 16 there, 32 now"):
        generate(SCENES[:1], tmp_path, SketchBackend(32))
    with pytest.raises(UnpromptError, match="seed: 0 there, 1 now"):
        generate(SCENES[:1], tmp_path, SketchBackend(16), seed=1)
    (tmp_path / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnpromptError, match="not JSON"):
        generate(SCENES[:1], tmp_path, SketchBackend(16))


def test_wrong_calls_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpromptError, match="no prompts"):
        generate([" "], tmp_path, SketchBackend(16))
    with pytest.raises(UnpromptError, match="0 images per prompt"):
        generate(SCENES, tmp_path, SketchBackend(16), images_per_prompt=0)
    with pytest.raises(UnpromptError, match="unknown format 'gif'"):
        generate(SCENES, tmp_path, SketchBackend(16), format="gif")


class _Failing(SketchBackend):
    """Draws every prompt but those that name a word."""

    def __init__(self, word: str):
        super().__init__(16)
        self.word = word

    def draw(self, jobs: list[Job]) -> list[Image.Image | UnpromptError]:  # type: ignore[override]
        return [
            UnpromptError("too hard") if self.word and self.word in job.prompt else image
            for job, image in zip(jobs, super().draw(jobs), strict=True)
        ]


def test_a_failed_image_is_reported_and_tried_again(tmp_path: Path) -> None:
    prompts = ["a red cat", "a blue dog", "a green car"]
    result = generate(prompts, tmp_path / "a", _Failing("dog"))
    assert result.failed == {f"{prompt_id('a blue dog')}-0": "too hard"}
    assert load(result.table).prompts == ["a red cat", "a green car"]
    assert "1 failed" in str(result)
    again = generate(prompts, tmp_path / "a", _Failing(""))
    assert (again.made, again.found, again.failed) == (1, 2, {})
    generate(prompts, tmp_path / "b", SketchBackend(16))
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


_KILLER = """
import os, random, signal, sys
from pathlib import Path
from unprompt.collecting.generate import generate
from unprompt.collecting.sketches.sketch import SketchBackend
from unprompt.pairs.prompt_file import prompts_of

prompts, folder = prompts_of(sys.argv[1]), Path(sys.argv[2])
size, rng, halfway = int(sys.argv[3]) or None, random.Random(0), 0
journal = folder / ".journal-0.jsonl"
count = lambda: journal.read_bytes().count(b'"images/') if journal.exists() else 0

class Dying(SketchBackend):
    # It sets the clock to its own death, so that it comes no further where others hold it up.
    def draw(self, jobs):
        self.left -= 1
        if self.left == 0:
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return super().draw(jobs)

for _ in range(20):
    Dying.left, Dying.seconds = rng.randrange(1, 10), rng.random() * 0.003
    child = os.fork()
    if child == 0:
        generate(prompts, folder, Dying(32), images_per_prompt=2, shard_size=size)
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGALRM
    halfway += killed and 0 < count() < 2 * len(prompts)
print(halfway)
"""


@pytest.mark.parametrize("shard_size", [None, 36])
def test_killed_at_random_it_ends_as_if_never_stopped(
    tmp_path: Path, shard_size: int | None
) -> None:
    """Twenty processes are killed between and inside images; the verb then finishes the work."""
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "killed"
    scenes = list(compose(100, style="sketch"))
    prompts.write_text("\n".join(scenes) + "\n", encoding="utf-8")
    killer = [sys.executable, "-c", _KILLER, str(prompts), str(folder), str(shard_size or 0)]
    killed = subprocess.run(killer, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    assert int(killed.stdout) > 10, "runs came to their end before they were killed"
    call = [
        UNPROMPT,
        "generate",
        str(prompts),
        "--backend",
        "sketch",
        "--image-size",
        "32",
        "--images-per-prompt",
        "2",
    ]
    call += ["-o", str(folder)]
    call += ["--shard-size", str(shard_size)] if shard_size else []
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    generate(
        scenes, tmp_path / "whole", SketchBackend(32), images_per_prompt=2, shard_size=shard_size
    )
    assert _content(folder) == _content(tmp_path / "whole")


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_tar_shards(tmp_path: Path, format: str) -> None:
    result = generate(SCENES, tmp_path, SketchBackend(16), shard_size=5, format=format)
    table = load(result.table)
    validate(table, images="decode")
    assert table.prompts == SCENES
    suffix = format.replace("jpeg", "jpg")
    for row, pair in enumerate(table):
        assert pair.file == f"shards/0000{row // 5}.tar/{pair.id}.{suffix}"
        content = table.read_bytes(row)
        assert pair.sha256 == hashlib.sha256(content).hexdigest()
        (tmp_path / f"one.{suffix}").write_bytes(content)
        reading = read(tmp_path / f"one.{suffix}")
        assert reading is not None
        assert reading.prompt == pair.prompt
    assert not (tmp_path / "images").exists()
    webdataset = pytest.importorskip("webdataset", reason="the extra [data] is not installed")
    shards = sorted(map(str, tmp_path.glob("shards/*.tar")))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == table.column("id")
    assert [sample["txt"].decode() for sample in samples] == SCENES
    assert [json.loads(sample["json"])["seed"] for sample in samples] == table.column("seed")


def test_shards_take_more_prompts_at_the_end_and_no_others(tmp_path: Path) -> None:
    generate(SCENES[:7], tmp_path / "a", SketchBackend(16), shard_size=5)
    result = generate(SCENES, tmp_path / "a", SketchBackend(16), shard_size=5)
    assert (result.made, result.found) == (5, 7)
    generate(SCENES, tmp_path / "b", SketchBackend(16), shard_size=5)
    assert _content(tmp_path / "a") == _content(tmp_path / "b")
    for other in (SCENES[::-1], [*SCENES[:11], "a red cat"]):
        with pytest.raises(UnpromptError, match="only at the end of the list"):
            generate(other, tmp_path / "a", SketchBackend(16), shard_size=5)
    assert _content(tmp_path / "a") == _content(tmp_path / "b")
    with pytest.raises(UnpromptError, match="shard_size: 5 there, None now"):
        generate(SCENES, tmp_path / "a", SketchBackend(16))
    with pytest.raises(UnpromptError, match="shards of 0 images"):
        generate(SCENES, tmp_path / "a", SketchBackend(16), shard_size=0)


def test_failed_and_lost_images_come_into_their_shard_later(tmp_path: Path) -> None:
    prompts = ["a red cat", "a blue dog", "a green car"]
    failing = generate(prompts, tmp_path / "a", _Failing("dog"), shard_size=2)
    assert load(failing.table).column("file") == [
        f"shards/00000.tar/{prompt_id(prompts[0])}-0.png",
        f"shards/00001.tar/{prompt_id(prompts[2])}-0.png",
    ]
    again = generate(prompts, tmp_path / "a", _Failing(""), shard_size=2)
    assert (again.made, again.found) == (1, 2)
    generate(prompts, tmp_path / "b", SketchBackend(16), shard_size=2)
    assert _content(tmp_path / "a") == _content(tmp_path / "b")
    (tmp_path / "a" / "shards" / "00000.tar").unlink()
    assert generate(prompts, tmp_path / "a", SketchBackend(16), shard_size=2).made == 2
    assert _content(tmp_path / "a") == _content(tmp_path / "b")


def test_a_journal_line_cut_off_is_dropped(tmp_path: Path) -> None:
    generate(SCENES, tmp_path / "whole", SketchBackend(16))
    rows = [json.dumps(row) for row in load(tmp_path / "whole").data.to_pylist()]
    folder = tmp_path / "cut"
    generate(SCENES, folder, SketchBackend(16))
    (folder / "pairs.parquet").unlink()
    (folder / ".journal-0.jsonl").write_text("\n".join(rows[:4]) + "\n" + rows[4][:30])
    result = generate(SCENES, folder, SketchBackend(16))
    assert (result.made, result.found) == (8, 4)
    assert _content(folder) == _content(tmp_path / "whole")


def test_the_verb(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cat\na blue dog\n", encoding="utf-8")
    call = [UNPROMPT, "generate", str(prompts), "-o", str(tmp_path / "x"), "--backend", "sketch"]
    done = subprocess.run([*call, "--image-size", "32"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "2 images, 2 of them made now" in done.stderr
    wrong = subprocess.run([*call, "--backend", "camera"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "'camera' is not one of" in wrong.stderr


@pytest.mark.parametrize("shard_size", [None, 2])
def test_shares_are_disjoint_and_make_the_whole(tmp_path: Path, shard_size: int | None) -> None:
    results = [
        generate(
            SCENES, tmp_path / "shared", SketchBackend(16), share=(k, 3), shard_size=shard_size
        )
        for k in range(3)
    ]
    assert [result.made for result in results] == [4, 4, 4]
    generate(SCENES, tmp_path / "alone", SketchBackend(16), shard_size=shard_size)
    assert _content(tmp_path / "shared") == _content(tmp_path / "alone")
