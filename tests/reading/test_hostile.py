"""Nothing that a file holds may crash, hang or exhaust: limits, fuzz and structured nonsense."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reading import making
from tests.reading.mutations import mutate_bytes, mutate_chunks, mutate_text
from unprompt.errors import UnreadableImageError
from unprompt.reading import read, read_fields
from unprompt.reading.formatting import to_json, to_text
from unprompt.reading.limits import MAX_TEXT, MAX_TOTAL

QUICK = settings(max_examples=60)


def survive(data: bytes) -> None:
    """Read ``data``; what comes back must be writable as JSON and as UTF-8."""
    try:
        reading = read(data)
    except UnreadableImageError:
        return
    if reading is not None:
        to_json("x", reading, raw=True).encode()
        to_text(reading, everything=True).encode()


MEASURED = """
import json, sys
from pathlib import Path
from unprompt.reading import read
def highest():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
data = Path(sys.argv[1]).read_bytes()
before, reading = highest(), read(data)
print(json.dumps([(highest() - before) / 1024, reading.prompt, *reading.problems]))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process its highest memory"
)
def test_a_compressed_bomb_does_not_fill_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 28), 9)
    chunks = [
        making.chunk(b"zTXt", b"parameters\0\0" + bomb),
        making.chunk(b"iTXt", b"prompt\0\1\0\0\0" + bomb),
    ]
    path = tmp_path / "bomb.png"
    path.write_bytes(making.png(*chunks, making.text("parameters", "a fox")))
    # In a process of its own: another test may have filled more than this one should.
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(path)], capture_output=True, text=True, check=True
    )
    grown, prompt, *problems = json.loads(done.stdout)
    assert prompt == "a fox"
    assert len(problems) == 2
    assert "MiB" in problems[0]
    assert grown < 80


def test_texts_are_limited_one_by_one_and_together() -> None:
    long = "x" * (MAX_TEXT - 100)
    data = making.png(*(making.ztext(f"key{i}", long) for i in range(6)))
    assert sum(len(field.text) for field in read_fields(data)) <= MAX_TOTAL
    assert read_fields(making.png(making.text("parameters", "x" * (MAX_TEXT + 1)))) == ()


def test_a_prompt_of_100_kb_is_whole() -> None:
    words = ", ".join(f"word{i:05}" for i in range(10_000))
    reading = read(making.png(making.text("parameters", f"{words}\nSteps: 20, Seed: 1")))
    assert reading is not None
    assert reading.prompt == words


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"prompt":' * 900 + "1" + "}" * 900,
        json.dumps({"1": {"class_type": "X", "inputs": {"a": 1e308, "b": [["1", 0]] * 1000}}}),
        '{"seed": ' + "9" * 100_000 + ', "prompt": "x"}',
        '{"prompt": "\\ud800 x", "seed": NaN, "steps": Infinity, "cfg": -Infinity}',
        "Steps: 1" + ", a: " * 200_000,
        "Steps: 1, " + 'a: "' * 100_000,
        "Negative prompt: \n" * 100_000,
        "<lora:" * 100_000,
        "[" * 50_000 + " -s50" * 50_000,
        "a --no " * 50_000 + "Job ID: 0000-0000-0000",
        "Prompt: " * 50_000,
    ],
)
def test_no_text_is_slow(text: str) -> None:
    for key in (
        "parameters",
        "prompt",
        "workflow",
        "Dream",
        "Description",
        "Comment",
        "invokeai_graph",
    ):
        started = time.thread_time()
        survive(making.png(making.ztext(key, text)))
        assert time.thread_time() - started < 2


def test_lone_surrogates_become_replacement_characters() -> None:
    reading = read(making.png(making.text("parameters", '{"prompt": "\\ud800x", "seed": NaN}')))
    assert reading is not None
    assert reading.prompt == "\ufffdx"
    json.dumps(reading.to_dict(), allow_nan=False).encode()


def test_control_characters_and_markup_are_given_as_they_are() -> None:
    words = "\x1b[31mred\x07 \u202eleft <script>alert(1)</script> ${7*7}"
    reading = read(making.png(making.text("parameters", f"{words}\nSteps: 2, Seed: 1")))
    assert reading is not None
    assert reading.prompt == words


def test_entities_are_not_expanded() -> None:
    bomb = (
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x xmlns:d="http://d/" d:y="&b;"/>'
    )
    data = making.png(making.itext("XML:com.adobe.xmp", bomb))
    assert read_fields(data) == ()
    deep = b"<a>" * 100_000
    assert read_fields(making.png(making.itext("XML:com.adobe.xmp", deep))) == ()


def test_exif_that_points_everywhere() -> None:
    entries = b"".join(
        struct.pack("<HHII", 0x010E + i % 3, 2, 2**31 - 1, i) for i in range(5000)
    ) + struct.pack("<HHII", 0x8769, 4, 1, 8)
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 5001) + entries
    survive(making.jpeg_exif(block[:60_000]))
    survive(making.webp(EXIF=block))


@given(st.binary(max_size=400))
@QUICK
def test_any_exif(block: bytes) -> None:
    survive(making.webp(EXIF=b"II*\0\x08\0\0\0" + block))
    survive(making.webp(EXIF=b"MM\0*\0\0\0\x08" + block, C2PA=block))
    survive(making.png(making.chunk(b"caBX", making.box(b"jumb", making.box(b"cbor", block)))))


@given(st.binary(max_size=300))
@QUICK
def test_any_heif(content: bytes) -> None:
    head = making.box(b"ftyp", b"avif\0\0\0\0")
    inner = making.box(b"iinf", content) + making.box(b"iloc", content[::-1])
    survive(head + making.box(b"meta", b"\0\0\0\0" + inner) + content)
    survive(head + content)


@given(st.text(max_size=300), st.sampled_from(["parameters", "Dream", "Description", "prompt"]))
@QUICK
def test_any_text(text: str, key: str) -> None:
    survive(making.png(making.text(key, text.encode("utf-8", "surrogatepass"))))


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_NAMES = (
    "prompt nodes links inputs class_type positive negative text conditioning Comment image "
    "images seed uc v4_prompt caption sui_image_params definitions subgraphs extra id type "
    "groupNodes widgets_values outputs edges source destination node_id field name widget c "
    "real_prompt full_prompt styles performance loras model resolution char_captions 1 2 3"
)
_KEYS = st.sampled_from(_NAMES.split())
_LINKS = st.tuples(st.sampled_from(["1", "2", "3", 1, -10, -20]), st.integers(-1, 3)).map(list)
_VALUES = st.recursive(
    _SCALARS | _LINKS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=5),
    max_leaves=30,
)


@given(
    st.dictionaries(_KEYS, _VALUES, max_size=6),
    st.sampled_from(["parameters", "prompt", "workflow", "Comment", "sd-metadata", "invokeai"])
    | st.sampled_from(["invokeai_metadata", "invokeai_graph", "generation_data", "UserComment"]),
)
@settings(QUICK, max_examples=200)
def test_any_json(value: object, key: str) -> None:
    survive(making.png(making.text(key, json.dumps(value)), making.text("Software", "NovelAI")))


_NODES = st.fixed_dictionaries(
    {"class_type": st.sampled_from(["KSampler", "SaveImage", "CLIPTextEncode", "X", "Reroute"])},
    optional={
        "inputs": st.dictionaries(
            st.sampled_from(["positive", "negative", "text", "images", "samples", "model"])
            | st.sampled_from(["guider", "a", "cond", "pipe"]),
            _LINKS | _SCALARS,
        )
    },
)


@given(st.dictionaries(st.sampled_from("123"), _NODES, min_size=1))
@settings(QUICK, max_examples=150)
def test_any_graph(value: object) -> None:
    survive(making.png(making.text("prompt", json.dumps(value))))


def test_random_mutations_of_the_samples(shared: Path) -> None:
    """A sample of what ``benchmarks/fuzz_reading.py`` runs 200,000 times."""
    paths = sorted(path for path in (shared / "metadata" / "files").rglob("*") if path.is_file())
    samples = [path.read_bytes()[:100_000] for path in paths]
    pngs = [sample for sample in samples if sample.startswith(b"\x89PNG")]
    texts = [[(f.name, f.text[:50_000]) for f in read_fields(path)] for path in paths]
    for seed in range(700):
        rng = random.Random(seed)
        survive(mutate_bytes(rng.choice(samples), rng.choice(samples), rng))
        survive(mutate_chunks(rng.choice(pngs), rng))
        if found := rng.choice(texts):
            survive(mutate_text(found, rng))


def test_threads_do_not_disturb_each_other() -> None:
    files = {
        f"prompt {i}": making.png(making.text("parameters", f"prompt {i}\nSteps: {i}, Seed: {i}"))
        for i in range(50)
    }
    wrong: list[str] = []

    def check() -> None:
        for prompt, data in list(files.items()) * 5:
            reading = read(data)
            if reading is None or reading.prompt != prompt:
                wrong.append(prompt)

    threads = [threading.Thread(target=check) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
