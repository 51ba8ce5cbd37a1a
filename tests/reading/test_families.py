"""What each family of generators writes, in all its historical forms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.reading import making
from unprompt.reading import Lora, Reading, read

INFO = "a fox\nNegative prompt: dog\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 5"


def read_text(**chunks: str) -> Reading:
    parts = [making.text(key.replace("__", "-"), value) for key, value in chunks.items()]
    reading = read(making.png(*parts))
    assert reading is not None
    return reading


def read_json(key: str, **values: Any) -> Reading:
    return read_text(**{key: json.dumps(values)})


@pytest.mark.parametrize(
    ("mark", "generator", "version"),
    [
        ("", "AUTOMATIC1111", None),
        (", Version: v1.10.1", "AUTOMATIC1111", "v1.10.1"),
        (", Version: f2.0.1v1.10.1-previous-669-gdfdcbab6", "Forge", None),
        (", Version: neo-2.28", "Forge", "neo-2.28"),
        (", Version: f1.0.0v2-v1.10.1RC-latest-2498-g5120e679", "reForge", None),
        (", App: SD.Next, Version: 56a8aea", "SD.Next", "56a8aea"),
        (", Version: 1e0f1de, Backend: Diffusers", "SD.Next", "1e0f1de"),
        (", Version: ComfyUI", "ComfyUI", None),
        (", Version: Fooocus v2.5", "Fooocus", None),
        (', Civitai resources: [{"type": "lora", "modelName": "x", "weight": 1}]', "Civitai", None),
    ],
)
def test_programs_that_write_the_a1111_form(mark: str, generator: str, version: str | None) -> None:
    reading = read_text(parameters=INFO + mark)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert reading.generator == generator
    assert version is None or reading.version == version


def test_civitai_names_its_models() -> None:
    resources = [
        {"type": "checkpoint", "modelName": "base"},
        {"type": "lora", "modelName": "style", "weight": 0.5},
        "nonsense",
    ]
    reading = read_text(parameters=f"{INFO}, Civitai resources: {json.dumps(resources)}")
    assert reading.settings.model == "base"
    assert reading.settings.loras == (Lora("style", 0.5),)
    assert read_text(parameters=f"{INFO}, Civitai resources: 3").settings.loras == ()


def test_further_prompts_keep_their_roles() -> None:
    reading = read_text(parameters=INFO + ', Hires prompt: "sharp, fox", ADetailer prompt: face')
    roles = {(prompt.role, prompt.text) for prompt in reading.prompts}
    assert {("hires", "sharp, fox"), ("detailer", "face")} <= roles


def test_parameters_without_settings_are_a_prompt_and_comments_are_not() -> None:
    assert read_text(parameters="only words").prompt == "only words"
    assert read(making.png(making.text("Comment", "Created with GIMP"))) is None


@pytest.mark.parametrize("words", ["A photo\nModel: Canon", "Paris\nModel: Leica, Size: 50mm"])
def test_what_cameras_write_is_no_prompt(words: str) -> None:
    described = making.exif({0x010E: words.encode() + b"\0"})
    assert read(making.jpeg_exif(described)) is None
    stated = making.exif({0x010E: words.encode() + b", Seed: 5\0"})
    reading = read(making.jpeg_exif(stated))
    assert reading is not None
    assert reading.prompt == words.split("\n")[0]


def test_swarmui() -> None:
    stated = {"prompt": "a fox", "negativeprompt": "dog", "model": "m", "seed": 5, "cfgscale": 7.5}
    loras = {"loras": ["a", "b"], "loraweights": ["0.8", "1"]}
    reading = read_json(
        "parameters",
        sui_image_params={**stated, **loras, "swarm_version": "0.9.7"},
        sui_models=[{"name": "m.safetensors", "param": "model", "hash": "0xab"}],
    )
    assert (reading.generator, reading.version) == ("SwarmUI", "0.9.7")
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    settings = reading.settings
    assert (settings.model, settings.model_hash, settings.guidance) == ("m", "0xab", 7.5)
    assert settings.loras == (Lora("a", 0.8), Lora("b", 1.0))


def test_fooocus() -> None:
    reading = read_text(
        parameters=json.dumps(
            {
                "prompt": "a fox",
                "negative_prompt": "",
                "prompt_expansion": "a fox, sharp",
                "full_prompt": ["cinematic a fox", "a fox, sharp"],
                "full_negative_prompt": ["anime"],
                "base_model": "jugger",
                "base_model_hash": "ab",
                "guidance_scale": 4,
                "resolution": "(1152, 896)",
                "seed": "6952411511246973023",
                "sampler": "dpmpp",
                "scheduler": "karras",
                "loras": [["a.safetensors", 0.5, "hash"]],
                "lora_combined_1": "b.safetensors : 0.1",
                "metadata_scheme": "fooocus",
                "version": "Fooocus v2.5.5",
            }
        ),
        fooocus_scheme="fooocus",
    )
    assert (reading.generator, reading.version) == ("Fooocus", "2.5.5")
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "")
    assert reading.settings.size == (1152, 896)
    assert reading.settings.seed == 6952411511246973023
    assert reading.settings.loras == (Lora("a.safetensors", 0.5), Lora("b.safetensors", 0.1))
    assert ("expansion", "a fox, sharp") in {(p.role, p.text) for p in reading.prompts}


def test_fooocus_forks() -> None:
    mre = read_json(
        "parameters",
        prompt="cinematic fox",
        real_prompt=["a fox"],
        real_negative_prompt=["dog"],
        styles=["x"],
        performance="Speed",
        seed=3,
    )
    assert (mre.generator, mre.prompt, mre.negative_prompt) == ("Fooocus", "a fox", "dog")
    ruined = read_json(
        "parameters", Prompt="a fox", Negative="dog", steps=30, cfg=8, software="RuinedFooocus"
    )
    assert (ruined.generator, ruined.negative_prompt) == ("RuinedFooocus", "dog")
    assert (ruined.settings.steps, ruined.settings.guidance) == (30, 8)
    plain = read_text(parameters=INFO, fooocus_scheme="a1111")
    assert (plain.generator, plain.prompt) == ("Fooocus", "a fox")
    log = read_json("UserComment", Prompt="a fox", Styles="[]", Performance="Speed", Seed="7")
    assert (log.generator, log.settings.seed) == ("Fooocus", 7)


def test_invokeai_metadata() -> None:
    reading = read_json(
        "invokeai_metadata",
        app_version="6.10.0",
        positive_prompt="a fox",
        negative_prompt="dog",
        positive_style_prompt="oil",
        seed=5,
        steps=24,
        cfg_scale=6.0,
        scheduler="euler_a",
        model={"name": "m", "hash": "blake3:ab"},
        loras=[{"model": {"name": "style"}, "weight": 0.75}],
        width=640,
        height=512,
    )
    assert (reading.generator, reading.version) == ("InvokeAI", "6.10.0")
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    settings = reading.settings
    assert (settings.model, settings.model_hash, settings.sampler) == ("m", "blake3:ab", "euler_a")
    assert settings.loras == (Lora("style", 0.75),)
    assert ("style", "oil") in {(p.role, p.text) for p in reading.prompts}


def test_invokeai_without_a_prompt_is_still_invokeai() -> None:
    reading = read_text(invokeai_metadata=json.dumps({"positive_prompt": "", "seed": 3}))
    assert (reading.prompt, reading.generator, reading.settings.seed) == (None, "InvokeAI", 3)


def test_invokeai_nodes_of_the_transition() -> None:
    reading = read_json(
        "invokeai",
        type="t2l",
        metadata={"positive_conditioning": "a fox", "negative_conditioning": "dog", "seed": 5},
    )
    assert reading.prompt is None or reading.prompt == "a fox"
    flat = read_json("invokeai", positive_conditioning="a fox", negative_conditioning="dog", seed=5)
    assert (flat.prompt, flat.negative_prompt, flat.settings.seed) == ("a fox", "dog", 5)


@pytest.mark.parametrize("plural", [True, False])
def test_invokeai_sd_metadata(plural: bool) -> None:
    image = {
        "prompt": [{"prompt": "a fox [dog] in snow", "weight": 1.0}],
        "seed": 5,
        "steps": 50,
        "sampler": "k_lms",
        "cfg_scale": 7.5,
        "width": 512,
        "height": 512,
    }
    where = {"images": [image]} if plural else {"image": image}
    reading = read_text(
        **{
            "sd__metadata": json.dumps(
                {"model_id": "sd-1.4", "model_hash": "ab", "app_version": "v1.15", **where}
            )
        }
    )
    assert (reading.prompt, reading.negative_prompt) == ("a fox [dog] in snow", "dog")
    assert (reading.version, reading.settings.model) == ("v1.15", "sd-1.4")
    assert reading.settings.sampler == "k_lms"


def test_invokeai_weighted_prompts() -> None:
    parts = [{"prompt": "blue sphere", "weight": 0.5}, {"prompt": "red cube", "weight": 0.5}]
    reading = read_text(**{"sd__metadata": json.dumps({"image": {"prompt": parts}})})
    assert reading.prompt == "blue sphere:0.5 red cube:0.5"
    plain = read_text(**{"sd__metadata": json.dumps({"image": {"prompt": ["a", "b"]}})})
    assert plain.prompt == "a b"
    assert read_text(sd__metadata='{"image": 3}').prompt is None


@pytest.mark.parametrize(
    "line",
    [
        '"a \\"red\\" fox [dog]" -s 50 -S 5 -W 512 -H 768 -C 7.5 -A k_lms -f 0.9 -ft gfpgan',
        '"a \\"red\\" fox [dog]" -s50 -S5 -W512 -H768 -C7.5 -Ak_lms -f0.9',
        'a "red" fox [dog] -s 50 -S 5 -W 512 -H 768 -C 7.5 -A k_lms -f 0.9 --fit',
        'a "red" fox [dog] --steps 50 --seed=5 --width 512 --height 768 --cfg_scale 7.5 '
        "--sampler k_lms --strength 0.9",
    ],
)
def test_invokeai_dream_lines(line: str) -> None:
    reading = read_text(Dream=line)
    assert (reading.prompt, reading.negative_prompt) == ('a "red" fox [dog]', "dog")
    settings = reading.settings
    assert (settings.steps, settings.seed, settings.size) == (50, 5, (512, 768))
    assert (settings.sampler, settings.guidance, settings.denoise) == ("k_lms", 7.5, 0.9)


def test_a_bare_dream_line() -> None:
    assert read_text(Dream='"a fox"').prompt == "a fox"
    assert read_text(Dream="a fox").prompt == "a fox"


def test_invokeai_graph_alone() -> None:
    nodes = {
        "pos": {"id": "pos", "type": "compel", "prompt": ""},
        "text": {"id": "text", "type": "string", "value": "a fox"},
        "collect": {"id": "collect", "type": "collect"},
        "neg": {"id": "neg", "type": "compel", "prompt": "dog"},
        "denoise": {"id": "denoise", "cfg_scale": 6, "steps": 20, "scheduler": "euler"},
        "loader": {"id": "loader", "model": {"name": "m"}},
    }

    def edge(source: str, target: str, field: str) -> dict[str, Any]:
        return {
            "source": {"node_id": source, "field": "x"},
            "destination": {"node_id": target, "field": field},
        }

    edges = [
        edge("text", "pos", "prompt"),
        edge("pos", "collect", "item"),
        edge("collect", "denoise", "positive_conditioning"),
        edge("neg", "denoise", "negative_conditioning"),
    ]
    reading = read_json("invokeai_graph", nodes=nodes, edges=edges)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert (reading.settings.model, reading.settings.sampler) == ("m", "euler")
    workflow = [
        {"id": key, "data": {"inputs": {k: {"value": v} for k, v in node.items()}}}
        for key, node in nodes.items()
    ]
    flow = [
        {
            "source": e["source"]["node_id"],
            "target": e["destination"]["node_id"],
            "targetHandle": e["destination"]["field"],
        }
        for e in edges
    ]
    assert read_json("invokeai_workflow", nodes=workflow, edges=flow).prompt == "a fox"
    assert read_text(invokeai_graph='{"nodes": 3}').prompt is None


V4 = {
    "v4_prompt": {
        "caption": {"base_caption": "a fox", "char_captions": [{"char_caption": "girl"}, 3]}
    },
    "v4_negative_prompt": {"caption": {"base_caption": "dog", "char_captions": []}},
}


def test_novelai() -> None:
    details = {"prompt": "a fox", "uc": "dog", "steps": 28, "scale": 5.0, "seed": 7, "sampler": "k"}
    reading = read_text(
        Software="NovelAI",
        Source="NovelAI Diffusion V4.5",
        Description="x",
        Comment=json.dumps(details | V4),
    )
    assert (reading.generator, reading.settings.model) == ("NovelAI", "NovelAI Diffusion V4.5")
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert [p.text for p in reading.prompts if p.role == "character"] == ["girl"]
    only_v4 = read_text(Software="NovelAI", Comment=json.dumps({"steps": 3, **V4}))
    assert (only_v4.prompt, only_v4.negative_prompt) == ("a fox", "dog")
    assert read_text(Software="NovelAI", Description="a fox").prompt == "a fox"
    augmented = read_text(Software="NovelAI", Comment='{"req_type": "sketch"}')
    assert (augmented.prompt, augmented.generator) == (None, "NovelAI")


def test_novelai_webp() -> None:
    inner = json.dumps({"prompt": "a fox", "uc": "dog", "seed": 7})
    outer = json.dumps(
        {"Comment": inner, "Software": "NovelAI", "Source": "V4", "Description": "y"}
    )
    block = making.comment(b"ASCII\0\0\0" + outer.encode())
    reading = read(making.webp(EXIF=block))
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt, reading.settings.seed) == ("a fox", "dog", 7)


def test_draw_things() -> None:
    details = json.dumps({"c": "a fox", "uc": "dog", "seed": 5, "size": "64x32", "scale": 7})
    escaped = details.replace('"', "&quot;")
    packet = making.xmp(f'xmp:CreatorTool="Draw Things" exif:UserComment="{escaped}"')
    reading = read(making.png(making.itext("XML:com.adobe.xmp", packet)))
    assert reading is not None
    assert (reading.generator, reading.prompt, reading.negative_prompt) == (
        "Draw Things",
        "a fox",
        "dog",
    )
    assert reading.settings.size == (64, 32)
    words = "<dc:description>a fox\n-dog\nSteps: 8, Seed: 5</dc:description>"
    packet = making.xmp('xmp:CreatorTool="Draw Things"', words)
    reading = read(making.png(making.itext("XML:com.adobe.xmp", packet)))
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt, reading.settings.seed) == ("a fox", "dog", 5)


@pytest.mark.parametrize(
    ("chunks", "generator"),
    [
        (
            {"prompt": "a fox", "negative_prompt": "dog", "seed": "5", "num_inference_steps": "25",
             "use_stable_diffusion_model": "m"},
            "Easy Diffusion",
        ),
        (
            {"Prompt": "a fox", "Negative Prompt": "dog", "Seed": "5", "Steps": "25",
             "Guidance Scale": "7", "Stable Diffusion model": "m"},
            "Easy Diffusion",
        ),
        ({"prompt": "a fox", "negative-prompt": "dog", "seed": "5", "steps": "25"}, None),
    ],
)  # fmt: skip
def test_one_key_per_chunk(chunks: dict[str, str], generator: str | None) -> None:
    reading = read(making.png(*(making.text(key, value) for key, value in chunks.items())))
    assert reading is not None
    assert reading.generator == generator
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert (reading.settings.seed, reading.settings.steps) == (5, 25)


@pytest.mark.parametrize("place", ["parameters", "metadata", "UserComment"])
def test_json_objects_of_any_script(place: str) -> None:
    stated = {"prompt": "a fox", "negative_prompt": "dog", "num_inference_steps": 20, "seed": "5"}
    reading = read_text(**{place: json.dumps(stated | {"resolution": "1024 x 768", "Model": "m"})})
    assert (reading.generator, reading.settings.size) == ("diffusers", (1024, 768))
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


def test_key_per_line() -> None:
    lines = "Prompt: a fox\nSeed: 5\nSteps: 20\nGuidance Scale: 7\nStable Diffusion model: m"
    data = making.jpeg_exif(making.comment(b"ASCII\0\0\0" + lines.encode()))
    reading = read(data)
    assert reading is not None
    assert (reading.prompt, reading.generator) == ("a fox", "Easy Diffusion")
    assert read(making.jpeg_exif(making.comment(b"Prompt: a fox\nand more"))) is None


def test_tensorart_takes_what_it_does_not_state_from_its_graph() -> None:
    graph = making.api(
        n1=("CLIPTextEncode", {"text": "a fox"}),
        n2=("KSampler", {"positive": ["1", 0], "seed": 99, "steps": 25, "model": ["1", 0]}),
        n3=("SaveImage", {"images": ["2", 0]}),
    )
    stated = {"prompt": "a fox", "negativePrompt": "dog", "seed": "-1", "ksamplerName": "euler"}
    data = making.png(
        making.text("generation_data", json.dumps(stated) + "\0"), making.text("prompt", graph)
    )
    reading = read(data)
    assert reading is not None
    assert (reading.generator, reading.negative_prompt) == ("TensorArt", "dog")
    assert (reading.settings.seed, reading.settings.sampler) == (99, "euler")


def test_stability_matrix() -> None:
    reading = read_text(
        parameters=INFO,
        parameters__json=json.dumps(
            {"PositivePrompt": "a wolf", "NegativePrompt": "cat", "Seed": 3}
        ),
    )
    assert (reading.generator, reading.prompt) == ("Stability Matrix", "a wolf")
    assert reading.settings.seed == 3


def test_civitai_extra_metadata() -> None:
    extra = json.dumps({"prompt": "a fox", "negativePrompt": "dog", "steps": 25, "seed": 5})
    block = making.comment(b"ASCII\0\0\0" + json.dumps({"extraMetadata": extra, "1": {}}).encode())
    reading = read(making.jpeg_exif(block))
    assert reading is not None
    assert (reading.generator, reading.prompt) == ("Civitai", "a fox")


def test_midjourney() -> None:
    words = "a boat, lake --no people, cars --ar 3:2 --seed 7 --v 6.0 Job ID: 0000-11-22-33"
    reading = read_text(Description=words, Author="x")
    assert reading.generator == "Midjourney"
    assert reading.prompt == "a boat, lake --no people, cars --ar 3:2 --seed 7 --v 6.0"
    assert (reading.negative_prompt, reading.version) == ("people, cars", "6.0")
    assert reading.settings.seed == 7
    assert read_text(Description="a cat --niji 6 Job ID: 0000-11-22").version == "niji 6"


AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def declared() -> bytes:
    agent = {"name": "GPT-4o"}
    return making.manifest(
        {"claim_generator_info": [{"name": "ChatGPT"}], "x": [1, -2, 1.5, None, True, b"y"]},
        [{"action": "c2pa.created", "softwareAgent": agent, "digitalSourceType": AI}],
    )


@pytest.mark.parametrize("container", ["png", "jpeg", "webp"])
def test_c2pa_declares_its_maker_and_no_prompt(container: str) -> None:
    store = declared()
    framed = b"JP\0\1\0\0\0\1" + store
    data = {
        "png": making.png(making.chunk(b"caBX", store)),
        "jpeg": making.jpeg((0xEB, framed)),
        "webp": making.webp(C2PA=store),
    }[container]
    reading = read(data)
    assert reading is not None
    assert reading.declares_ai
    assert reading.prompt is None
    assert (reading.generator, reading.version) == ("OpenAI", "GPT-4o")


def test_c2pa_over_several_jpeg_segments() -> None:
    store = declared()
    first, second = store[:150], store[150:]
    parts = [
        (0xEB, b"JP\0\1\0\0\0\1" + first),
        (0xEB, b"JP\0\1\0\0\0\2" + store[:8] + second),
    ]
    reading = read(making.jpeg(*parts))
    assert reading is not None
    assert reading.generator == "OpenAI"


def test_a_camera_or_an_editor_is_no_generator() -> None:
    photo = making.manifest({"claim_generator": "Leica M11"}, [{"action": "c2pa.created"}])
    assert read(making.png(making.chunk(b"caBX", photo))) is None


def test_firefly_by_xmp() -> None:
    packet = making.xmp(f'xmp:CreatorTool="Adobe Firefly" Iptc4xmpExt:DigitalSourceType="{AI}"')
    reading = read(making.png(making.itext("XML:com.adobe.xmp", packet)))
    assert reading is not None
    assert (reading.generator, reading.declares_ai, reading.prompt) == ("Adobe Firefly", True, None)
