"""Prompts in descriptions, declarations of AI, and texts of other software."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reading import containers_made as made
from tests.reading import making
from unprompt.reading import Reading, read

FOX = "a red fox in snow"
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
STEPS = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512"


def known(data: bytes) -> Reading:
    reading = read(data)
    assert reading is not None
    return reading


def with_xmp(elements: str = "", properties: str = "") -> bytes:
    return making.png(making.itext("XML:com.adobe.xmp", making.xmp(properties, elements)))


@pytest.mark.parametrize("kind", ["attribute", "element", "resource", "listed resource"])
def test_source_type_of_ai(kind: str) -> None:
    tag = "Iptc4xmpExt:DigitalSourceType"
    data = {
        "attribute": with_xmp(properties=f'{tag}="{AI}"'),
        "element": with_xmp(f"<{tag}>{AI}</{tag}>"),
        "resource": with_xmp(f'<{tag} rdf:resource="{AI}"/>'),
        "listed resource": with_xmp(
            f'<{tag}><rdf:Bag><rdf:li rdf:resource="{AI}"/></rdf:Bag></{tag}>'
        ),
    }[kind]
    reading = known(data)
    assert reading.declares_ai
    assert reading.prompt is None


def test_a_prompt_does_not_hide_the_declaration() -> None:
    chunk = making.itext("XML:com.adobe.xmp", making.xmp(f'Iptc4xmpExt:DigitalSourceType="{AI}"'))
    reading = known(making.png(making.text("parameters", f"{FOX}\n{STEPS}"), chunk))
    assert (reading.prompt, reading.declares_ai) == (FOX, True)


def test_iptc_prompt() -> None:
    reading = known(
        with_xmp(
            f"<Iptc4xmpExt:AIPromptInformation>{FOX}</Iptc4xmpExt:AIPromptInformation>",
            'Iptc4xmpExt:AISystemUsed="Painter" Iptc4xmpExt:AISystemVersionUsed="3"',
        )
    )
    assert (reading.prompt, reading.generator, reading.version) == (FOX, "Painter", "3")
    assert reading.declares_ai


@pytest.mark.parametrize(
    ("label", "declares"), [("1", True), (1, True), ("2", False), ("10", False), ("x", False)]
)
def test_aigc_label(label: object, declares: bool) -> None:
    value = json.dumps({"Label": label, "ContentProducer": "001"})
    nested = json.dumps({"AIGC": {"Label": label}})
    for data in (
        making.png(making.text("AIGC", value)),
        making.jpeg_exif(making.comment(b"ASCII\0\0\0" + nested.encode())),
    ):
        reading = read(data)
        assert (reading is not None and reading.declares_ai) is declares
        assert reading is None or reading.prompt is None


@pytest.mark.parametrize(
    "text",
    ['AIGC:{"Label":"1"}', "AIGC={'ContentProducer': 'x', 'Label': 1}",
     json.dumps({"AIGC": json.dumps({"Label": "1"})})],
)  # fmt: skip
def test_forms_of_the_aigc_label(text: str) -> None:
    for data in (
        making.png(making.text("AIGC", text)),
        making.png(making.text("Description", text)),
        making.jpeg((0xFE, text.encode())),
        making.jpeg_exif(making.exif({0x9C9C: text.encode("utf-16-le")})),
        made.gif(comment=text.encode()),
        made.mp4(made.keyed(AIGC=text)),
        made.mp4(making.box(b"udta", making.box(b"AIGC", text.encode()))),
        made.matroska(aigc=text),
    ):
        assert known(data).declares_ai


@pytest.mark.parametrize("end", ["", "1.0", "1.0/", "1.1/"])
def test_aigc_label_in_xmp(end: str) -> None:
    space = f'xmlns:q="http://www.tc260.org.cn/ns/AIGC/{end}"'
    structure = '<q:AIGC rdf:parseType="Resource"><q:Label>1</q:Label></q:AIGC>'
    assert known(with_xmp(properties=f'{space} q:AIGC=\'{{"Label":"1"}}\'')).declares_ai
    assert known(with_xmp(structure, space)).declares_ai
    assert read(with_xmp(structure.replace(">1<", ">2<"), space)) is None


def test_a_stated_prompt_for_ai_declares_it() -> None:
    inner = f"<rdf:Alt><rdf:li>{FOX}</rdf:li></rdf:Alt>"
    tag = "Iptc4xmpExt:AIPromptInformation"
    reading = known(with_xmp(f"<{tag}>{inner}</{tag}>"))
    assert (reading.prompt, reading.declares_ai) == (FOX, True)
    spaced = f"<Iptc4xmpExt:DigitalSourceType> {AI} </Iptc4xmpExt:DigitalSourceType>"
    assert known(with_xmp(spaced)).declares_ai


def test_mochi_in_lines() -> None:
    text = f"Include in Image: {FOX}\nExclude from Image: lowres\nSteps: 50\nSeed: 7\nModel: sd"
    reading = known(making.jpeg_exif(making.comment(b"ASCII\0\0\0" + text.encode())))
    assert (reading.prompt, reading.negative_prompt) == (FOX, "lowres")
    assert reading.generator == "Mochi Diffusion"


@pytest.mark.parametrize(
    "value",
    [[{"prompt": FOX, "seed": 5, "steps": 20}], {"infotext": f"{FOX}\n{STEPS}"},
     {"parameters": f"{FOX}\n{STEPS}"}, {"images": [], "infotexts": [f"{FOX}\n{STEPS}"]},
     {"mflux_version": "0.9", "prompt": FOX, "seed": 5}],
)  # fmt: skip
def test_forms_of_json(value: object) -> None:
    reading = known(making.jpeg_exif(making.comment(b"ASCII\0\0\0" + json.dumps(value).encode())))
    assert (reading.prompt, reading.settings.seed) == (FOX, 5)
    assert reading.generator == "MFLUX" or "mflux" not in str(value)


def test_a_graph_inside_objects() -> None:
    text = json.dumps({"metadata": {"prompt": "", "prompt_api": json.loads(made.GRAPH)}})
    assert known(making.png(making.text("imagemetahub_data", text))).prompt == FOX


def test_mochi() -> None:
    described = (
        f"Include in Image: {FOX}; at dusk; Exclude from Image: lowres; Model: sd; Steps: 50; "
        "Guidance Scale: 4.5; Seed: 7; Size: 512x640; Generator: Mochi Diffusion 2.2"
    )
    reading = known(making.jpeg_exif(making.exif({0x010E: described.encode() + b"\0"})))
    settings = reading.settings
    assert (reading.prompt, reading.negative_prompt) == (f"{FOX}; at dusk", "lowres")
    assert (reading.generator, reading.version) == ("Mochi Diffusion", "2.2")
    assert (settings.seed, settings.steps, settings.guidance, settings.size) == (
        *(7, 50, 4.5),
        (512, 640),
    )


def test_black_forest_labs_and_mflux() -> None:
    tags = {0x010E: FOX, 0x010F: "Black Forest Labs", 0x0110: "flux-dev"}
    tags[0x0131] = "AI generated;txt2img;flux"
    reading = known(
        making.jpeg_exif(making.exif({tag: text.encode() + b"\0" for tag, text in tags.items()}))
    )
    assert (reading.prompt, reading.generator) == (FOX, "Black Forest Labs")
    assert (reading.settings.model, reading.declares_ai) == ("flux-dev", True)
    reading = known(
        making.png(
            making.text("Software", "MFLUX 0.11"),
            making.text("Seed", "3"),
            making.itext(
                "XML:com.adobe.xmp", making.xmp(elements=f"<dc:description>{FOX}</dc:description>")
            ),
        )
    )
    assert (reading.prompt, reading.generator, reading.version) == (FOX, "MFLUX", "0.11")
    assert reading.settings.seed == 3


def test_a_photo_with_a_description_has_no_prompt() -> None:
    tags = {0x010E: FOX, 0x010F: "Canon", 0x0131: "Adobe Photoshop"}
    block = making.exif({tag: text.encode() + b"\0" for tag, text in tags.items()})
    assert read(making.jpeg_exif(block)) is None


@pytest.mark.parametrize(
    "text",
    [
        "lr=0.001, batch=32, epochs=10", "alpha: 0.1, beta: 2", "--lr 0.1 --epochs 10", "T = 300 K",
        "{'lr': 0.1, 'layers': 3}", "Namespace(lr=0.1)", "x_min=0 x_max=10", "Exposure 30s ISO 800",
        "<?xml version='1.0'?><p/>", "0.1 0.2 0.3",
    ],
)  # fmt: skip
def test_parameters_of_other_software_are_no_prompt(text: str) -> None:
    reading = read(making.png(making.text("parameters", text)))
    assert reading is None or reading.prompt is None


def test_plots_are_known_by_their_software() -> None:
    chunks = making.text("Software", "Matplotlib version 3.9"), making.text("parameters", FOX)
    reading = read(making.png(*chunks))
    assert reading is None or reading.prompt is None


def test_a_plain_text_under_parameters_is_a_guess() -> None:
    reading = known(making.png(making.text("parameters", FOX)))
    assert (reading.prompt, reading.certain) == (FOX, False)


@pytest.mark.parametrize("name", ["prompt", "Prompt", "description"])
def test_a_plain_text_alone_under_other_keys_is_no_prompt(name: str) -> None:
    reading = read(making.png(making.text(name, "Press the space bar when you see a face")))
    assert reading is None or reading.prompt is None


@pytest.mark.parametrize(
    "text", ["!fix a.png -G 0.8", "!mask x.png", "...", "placeholder", "-s 50 -S 5"]
)
def test_dream_chunks_without_a_prompt(text: str) -> None:
    reading = known(making.png(making.text("Dream", text)))
    assert (reading.prompt or "").strip() == ""


@pytest.mark.parametrize(
    ("text", "negative"),
    [
        (f"{FOX} Negative prompt: blurry, dark {STEPS}", "blurry, dark"),
        (f"{FOX}.Negative prompt: blurry, dark.{STEPS}", "blurry, dark"),
        (f"{FOX}.{STEPS}", None),
        (f"{FOX}<br>Negative prompt: blurry<br/>{STEPS}", "blurry"),
        (f"{FOX}\\nNegative prompt: blurry\\n{STEPS}", "blurry"),
        (f"{FOX} | Negative prompt: blurry | {STEPS}", "blurry"),
        (f"{FOX}&#10;{STEPS}", None),
        (f"{FOX}\tNegative prompt: blurry\t{STEPS}", "blurry"),
        (f"{FOX} {STEPS}", None),
        (f"{FOX}Negative prompt: blurry{STEPS}", "blurry"),
    ],
)
def test_one_line_infotext(text: str, negative: str | None) -> None:
    reading = known(making.png(making.text("parameters", text)))
    assert (reading.prompt, reading.negative_prompt) == (FOX, negative)
    assert (reading.settings.seed, reading.settings.size) == (5, (512, 512))


def test_infotexts_and_nested_settings() -> None:
    values = [
        {"infotexts": [f"{FOX}\nNegative prompt: dark\n{STEPS}"]},
        {"info": json.dumps({"infotexts": [f"{FOX}\nNegative prompt: dark\n{STEPS}"]})},
        {"prompt": FOX, "settings": {"negative_prompt": "dark", "seed": 5}},
        {"generation": {"meta": {"prompt": FOX, "negativePrompt": "dark", "seed": 5}}},
        {"prompt": f"{FOX} ### dark", "params": {"seed": 5, "sampler_name": "k_euler"},
         "models": ["x"]},
    ]  # fmt: skip
    for value in values:
        for name in ("parameters", "metadata", "comment"):
            reading = known(making.png(making.text(name, json.dumps(value))))
            assert (reading.prompt, reading.negative_prompt) == (FOX, "dark"), value
            assert reading.settings.seed == 5


@pytest.mark.parametrize(
    ("version", "name"),
    [("stable-diffusion.cpp", "stable-diffusion.cpp"), ("v1.10.1", "AUTOMATIC1111")],
)
def test_generators_by_version(version: str, name: str) -> None:
    text = f"{FOX}\n{STEPS}, Version: {version}"
    assert known(making.png(making.text("parameters", text))).generator == name


@pytest.mark.parametrize("tag", [0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F])
def test_properties_of_windows(tag: int) -> None:
    text = f"{FOX}\n{STEPS}".encode("utf-16-le") + b"\0\0"
    assert known(making.jpeg_exif(making.exif({tag: text}))).prompt == FOX


@pytest.mark.parametrize(
    "prefix",
    [
        b"unicode\0",
        b"Unicode\0",
        b"ascii\0\0\0",
        b'charset="Unicode" ',
        b"charset=Ascii ",
        b"UTF-8\0\0\0",
    ],
)
def test_character_codes_in_other_forms(prefix: bytes) -> None:
    text = f"{FOX}\n{STEPS}"
    encoded = text.encode("utf-16-le" if prefix[:8].lower() == b"unicode\0" else "utf-8")
    assert known(making.jpeg_exif(making.comment(prefix + encoded))).prompt == FOX


SIDECARS = {
    "x.json": json.dumps([{"SourceFile": "x.png", "PNG:Parameters": f"{FOX}\n{STEPS}"}]),
    "x.png.json": json.dumps({"generation": {"meta": {"prompt": FOX, "seed": 5, "steps": 20}}}),
    "x.xmp": making.xmp(elements=f"<dc:description>{FOX}&#xA;{STEPS}</dc:description>").decode(),
    "x.png.xmp": making.xmp(f'exif:UserComment="{FOX}&#xA;{STEPS}"').decode(),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_sidecars_of_other_tools(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.png").write_bytes(making.png())
    (tmp_path / name).write_text(SIDECARS[name])
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert (reading.prompt, reading.settings.seed) == (FOX, 5)
    assert name in reading.where[0]


@pytest.mark.parametrize(
    "value",
    [[{"SourceFile": "x.png", "Parameters": [f"{FOX}\n{STEPS}"]}],
     {"SourceFile": "x.png", "Parameters": f"{FOX}\n{STEPS}"},
     [{"meta": {"prompt": FOX, "seed": 5, "steps": 20}}]],
    ids=["listed text", "one object", "other list"],
)  # fmt: skip
def test_forms_of_json_sidecars(tmp_path: Path, value: object) -> None:
    (tmp_path / "x.png").write_bytes(making.png())
    (tmp_path / "x.json").write_text(json.dumps(value))
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert (reading.prompt, reading.settings.seed) == (FOX, 5)


def test_lists_of_exiftool(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(making.png())
    tags = {"SourceFile": "dir/x.png", "PNG": {"Parameters": f"{FOX}\n{STEPS}"}}
    other = {"SourceFile": "dir/y.png", "Parameters": f"a cow\n{STEPS}"}
    (tmp_path / "x.json").write_text(json.dumps([other, tags]))
    reading = read(tmp_path / "x.png")
    assert reading is not None
    assert reading.prompt == FOX


def test_long_names_have_no_sidecar(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".png")
    path.write_bytes(making.png())
    assert read(path) is None


def test_a_graph_beside_an_empty_prompt() -> None:
    graph = json.loads(
        making.api(
            n3=("KSampler", {"seed": 5, "positive": ["6", 0]}),
            n6=("CLIPTextEncode", {"text": FOX}),
            n9=("SaveImage", {"images": ["3", 0]}),
        )
    )
    value = {"generator": "ComfyUI", "prompt": "", "seed": 0, "steps": 9, "prompt_api": graph}
    reading = known(making.png(making.itext("imagemetahub_data", json.dumps(value))))
    assert (reading.prompt, reading.generator) == (FOX, "ComfyUI")
