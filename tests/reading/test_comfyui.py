"""The way through ComfyUI's graphs: whatever the nodes are called, links lead to the text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.reading import making
from unprompt.reading import Lora, Reading, read

Inputs = dict[str, Any]


def graph(**nodes: tuple[str, Inputs]) -> Reading:
    """Read a graph that ends in ``n9``, a saver of what ``n8`` decodes of ``n3``, the sampler."""
    whole = {
        "n9": ("SaveImage", {"images": ["8", 0]}),
        "n8": ("VAEDecode", {"samples": ["3", 0], "vae": ["4", 2]}),
        "n4": ("CheckpointLoaderSimple", {"ckpt_name": "m.safetensors"}),
        "n99": (
            "CLIPTextEncode",
            {"text": "a decoy, longer than any other text", "clip": ["4", 1]},
        ),
        **nodes,
    }
    reading = read(making.png(making.text("prompt", making.api(**whole))))
    assert reading is not None
    assert reading.generator == "ComfyUI"
    return reading


def sampler(**inputs: Any) -> tuple[str, Inputs]:
    stated = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "seed": 5, "steps": 20}
    stated |= {"cfg": 7.5, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
    return "KSampler", stated | inputs


def encoder(text: Any) -> tuple[str, Inputs]:
    return "CLIPTextEncode", {"text": text, "clip": ["4", 1]}


FOX, DOG = encoder("a fox"), encoder("dog")


def test_the_plain_graph() -> None:
    empty = ("EmptyLatentImage", {"width": 640, "height": 512, "batch_size": 1})
    reading = graph(n3=sampler(latent_image=["5", 0]), n5=empty, n6=FOX, n7=DOG)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    settings = reading.settings
    assert (settings.seed, settings.steps, settings.guidance) == (5, 20, 7.5)
    assert (settings.sampler, settings.scheduler) == ("euler", "karras")
    assert (settings.model, settings.size) == ("m.safetensors", (640, 512))
    assert [(p.role, p.source) for p in reading.prompts] == [
        ("positive", "node 6"),
        ("negative", "node 7"),
    ]


@pytest.mark.parametrize(
    "between",
    [
        ("ControlNetApply", {"conditioning": ["6", 0], "image": ["8", 0], "strength": 1.0}),
        ("ControlNetApplyAdvanced", {"positive": ["6", 0], "negative": ["7", 0]}),
        ("Reroute", {"": ["6", 0]}),
        ("FluxGuidance", {"conditioning": ["6", 0], "guidance": 3.5}),
        ("Unknown Pipe Out", {"basic_pipe": ["11", 0]}),
        ("Any Switch (rgthree)", {"any_01": ["6", 0], "any_02": ["99", 0]}),
        ("CR Switch", {"Input": 2, "conditioning1": ["99", 0], "conditioning2": ["6", 0]}),
        ("ImpactSwitch", {"select": 1, "input1": ["6", 0], "input2": ["99", 0]}),
        ("ConditioningCombine", {"conditioning_1": ["6", 0], "conditioning_2": ["99", 0]}),
        ("ConditioningAverage", {"conditioning_to": ["6", 0], "conditioning_from": ["99", 0]}),
        ("GLIGENTextBoxApply", {"text": "galaxy", "conditioning_to": ["6", 0], "clip": ["4", 1]}),
        ("StyleModelApply", {"conditioning": ["6", 0], "style_model": ["4", 0], "strength": 1}),
    ],
)  # fmt: skip
def test_conditioning_is_followed_through_any_node(between: tuple[str, Inputs]) -> None:
    pipe = ("ToBasicPipe", {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0]})
    nodes = {"n6": FOX, "n7": DOG, "n10": between, "n11": pipe}
    reading = graph(n3=sampler(positive=["10", 0]), **nodes)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (("PrimitiveStringMultiline", {"value": "a fox"}), "a fox"),
        (("Text Multiline", {"text": "a fox"}), "a fox"),
        (("Reroute", {"": ["11", 0]}), "a wolf"),
        (("ShowText|pysssss", {"text": ["11", 0], "text_0": "stale"}), "a wolf"),
        (("Join", {"string_a": "a", "string_b": ["11", 0], "delimiter": " + "}), "a + a wolf"),
        (("Text Concatenate", {"delimiter": "", "text_b": "fox", "text_a": "a "}), "a fox"),
        (
            ("Wildcard Processor", {"wildcard_text": "a {fox|dog}", "populated_text": "a fox"}),
            "a fox",
        ),
        (("Styler", {"text_positive": "a fox", "text_negative": "x", "style": "base"}), "a fox"),
        (("Some Picker", {"select": 2, "input1": "no", "input2": "a fox"}), "a fox"),
    ],
)  # fmt: skip
def test_text_is_followed_through_any_node(source: tuple[str, Inputs], prompt: str) -> None:
    wolf = ("String", {"string": "a wolf"})
    reading = graph(n3=sampler(), n6=encoder(["10", 0]), n7=DOG, n10=source, n11=wolf)
    assert reading.prompt == prompt


@pytest.mark.parametrize(
    ("kind", "inputs", "prompt"),
    [
        ("CLIPTextEncodeSDXL", {"width": 1024, "text_g": "a fox", "text_l": "oil"}, "a fox"),
        ("CLIPTextEncodeFlux", {"clip_l": "fox", "t5xxl": "a long fox"}, "a long fox"),
        ("CLIPTextEncodeSD3", {"clip_l": "", "clip_g": "a fox", "empty_padding": "none"}, "a fox"),
        ("CLIPTextEncodeLumina2", {"system_prompt": "superior", "user_prompt": "a fox"}, "a fox"),
        ("TextEncodeQwenImageEdit", {"prompt": "a fox", "image": ["8", 0]}, "a fox"),
        ("BNK_CLIPTextEncodeAdvanced", {"text": "a fox", "token_normalization": "none"}, "a fox"),
        ("smZ CLIPTextEncode", {"text": "a fox", "parser": "A1111", "text_g": ""}, "a fox"),
    ],
)  # fmt: skip
def test_encoders_of_several_texts(kind: str, inputs: Inputs, prompt: str) -> None:
    reading = graph(n3=sampler(), n6=(kind, {**inputs, "clip": ["4", 1]}), n7=DOG)
    assert reading.prompt == prompt
    assert reading.negative_prompt == "dog"


def test_other_texts_are_kept_with_their_roles() -> None:
    both = ("CLIPTextEncodeFlux", {"clip_l": "fox", "t5xxl": "a long fox"})
    reading = graph(n3=sampler(), n6=both, n7=DOG)
    assert [(p.role, p.text) for p in reading.prompts[:2]] == [
        ("positive", "a long fox"),
        ("encoder", "fox"),
    ]
    box = ("GLIGENTextBoxApply", {"text": "galaxy", "conditioning_to": ["6", 0]})
    reading = graph(n3=sampler(positive=["10", 0]), n6=FOX, n7=DOG, n10=box)
    assert ("region", "galaxy") in {(p.role, p.text) for p in reading.prompts}


def advanced(**guider: Any) -> Reading:
    sampling = {"noise": ["20", 0], "guider": ["21", 0], "sampler": ["22", 0], "sigmas": ["23", 0]}
    return graph(
        n3=("SamplerCustomAdvanced", sampling),
        n20=("RandomNoise", {"noise_seed": 77}),
        n21=("AnyGuider", {"model": ["4", 0], **guider}),
        n22=("KSamplerSelect", {"sampler_name": "euler"}),
        n23=("BasicScheduler", {"scheduler": "simple", "steps": 24, "model": ["4", 0]}),
        n24=("FluxGuidance", {"guidance": 3.5, "conditioning": ["6", 0]}),
        n6=FOX,
        n7=DOG,
    )


def test_guiders() -> None:
    basic = advanced(conditioning=["24", 0])
    assert (basic.prompt, basic.negative_prompt) == ("a fox", None)
    settings = basic.settings
    assert (settings.seed, settings.steps, settings.sampler) == (77, 24, "euler")
    assert (settings.guidance, settings.model) == (3.5, "m.safetensors")
    classifier_free = advanced(positive=["6", 0], negative=["7", 0], cfg=4.0)
    assert (classifier_free.negative_prompt, classifier_free.settings.guidance) == ("dog", 4.0)
    dual = advanced(cond1=["6", 0], cond2=["99", 0], negative=["7", 0], cfg_conds=5.0)
    assert (dual.prompt, dual.negative_prompt) == ("a fox", "dog")


def test_a_zeroed_negative_has_no_text() -> None:
    zero = ("ConditioningZeroOut", {"conditioning": ["6", 0]})
    reading = graph(n3=sampler(negative=["10", 0]), n6=FOX, n10=zero)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", None)


def test_stable_cascade_takes_the_first_stage() -> None:
    reading = graph(
        n3=sampler(positive=["10", 0], negative=["11", 0], steps=10, seed=2),
        n10=(
            "StableCascade_StageB_Conditioning",
            {"conditioning": ["11", 0], "stage_c": ["12", 0]},
        ),
        n11=("ConditioningZeroOut", {"conditioning": ["6", 0]}),
        n12=sampler(seed=1),
        n6=FOX,
        n7=DOG,
    )
    assert (reading.prompt, reading.negative_prompt, reading.settings.seed) == ("a fox", "dog", 1)


def test_refiners_and_detailers_give_way_to_the_sampler_that_began() -> None:
    reading = graph(
        n8=("FaceDetailer", {"image": ["30", 0], "positive": ["32", 0], "model": ["4", 0]}),
        n30=("VAEDecode", {"samples": ["3", 0]}),
        n3=sampler(positive=["33", 0], latent_image=["31", 0], seed=2, denoise=0.4),
        n31=sampler(seed=1),
        n32=encoder("a face"),
        n33=encoder("a sharp fox"),
        n6=FOX,
        n7=DOG,
    )  # fmt: skip
    assert (reading.prompt, reading.settings.seed) == ("a fox", 1)
    assert {p.text for p in reading.prompts} >= {"a fox", "a face", "a sharp fox"}


def test_a_composite_has_the_prompt_of_what_came_after_it() -> None:
    reading = graph(
        n3=sampler(latent_image=["10", 0]),
        n10=("LatentComposite", {"samples_to": ["11", 0], "samples_from": ["12", 0]}),
        n11=sampler(positive=["13", 0]),
        n12=sampler(positive=["13", 0]),
        n13=encoder("a part"),
        n6=FOX,
        n7=DOG,
    )
    assert reading.prompt == "a fox"


def test_loaders_of_many_parts_and_samplers_that_save() -> None:
    efficient = {
        "ckpt_name": "e.safetensors",
        "lora_name": "l.safetensors",
        "lora_model_strength": 0.5,
        "positive": "a fox",
        "negative": "dog",
        "token_normalization": "none",
    }
    nodes = {
        "1": {"class_type": "Efficient Loader", "inputs": efficient},
        "2": {
            "class_type": "KSampler (Efficient)",
            "inputs": {"model": ["1", 0], "positive": ["1", 1], "negative": ["1", 2], "seed": 9},
        },
    }
    nodes["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["2", 5]}}
    reading = read(making.png(making.text("prompt", json.dumps(nodes))))
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert reading.settings.model == "e.safetensors"
    assert reading.settings.loras[0].name == "l.safetensors"
    easy = {
        "1": {"class_type": "easy fullLoader", "inputs": {"positive": "a fox", "negative": "dog"}},
        "2": {"class_type": "easy preSampling", "inputs": {"pipe": ["1", 0], "seed": 9}},
        "3": {"class_type": "easy kSampler", "inputs": {"pipe": ["2", 0], "image_output": "Save"}},
    }
    reading = read(making.png(making.text("prompt", json.dumps(easy))))
    assert reading is not None
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


def test_video_embeds_and_bare_prompt_inputs() -> None:
    embeds = ("WanVideoTextEncode", {"positive_prompt": "a fox", "negative_prompt": "dog"})
    reading = graph(n3=("WanVideoSampler", {"text_embeds": ["6", 0], "seed": 4}), n6=embeds)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    own = {"main_prompt": ["10", 0], "negative_main_prompt": "dog", "data": ["4", 0]}
    reading = graph(n3=("Own Pipeline", own), n10=("Words", {"prompt": "a fox"}))
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


def test_no_text_no_prompt() -> None:
    image = ("SVD_img2vid_Conditioning", {"clip_vision": ["4", 1], "init_image": ["4", 0]})
    reading = graph(n3=sampler(positive=["6", 0], negative=["6", 1]), n6=image)
    assert reading.prompt is None
    assert reading.settings.seed == 5
    assert graph(n3=("LoadImage", {"image": "x.png"})).prompt is None


def test_values_come_through_links_and_loras_are_listed() -> None:
    lora = {"lora_name": "l.safetensors", "strength_model": 0.8, "model": ["4", 0]}
    power = {"lora_01": "p.safetensors", "strength_01": 0.3, "lora_02": "None", "model": ["11", 0]}
    reading = graph(
        n3=sampler(model=["10", 0], seed=["12", 0], steps=["13", 0]),
        n10=("Lora Loader Stack", power),
        n11=("LoraLoader", lora),
        n12=("Seed (rgthree)", {"seed": 99}),
        n13=("PrimitiveInt", {"value": 33}),
        n6=FOX,
        n7=DOG,
    )
    assert (reading.settings.seed, reading.settings.steps) == (99, 33)
    assert reading.settings.loras == (Lora("p.safetensors", 0.3), Lora("l.safetensors", 0.8))
    assert reading.settings.model == "m.safetensors"


def test_loras_of_stacks_and_of_rgthree() -> None:
    stack = {"switch_1": "On", "lora_name_1": "a.safetensors", "model_weight_1": 0.4}
    stack |= {"switch_2": "Off", "lora_name_2": "off.safetensors", "model_weight_2": 1.0}
    power = {
        "PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"},
        "lora_1": {"on": True, "lora": "b.safetensors", "strength": 0.7},
        "lora_2": {"on": False, "lora": "off.safetensors", "strength": 1.0},
        "model": ["11", 0],
    }
    reading = graph(
        n3=sampler(model=["10", 0]),
        n10=("Power Lora Loader (rgthree)", power),
        n11=("CR Apply LoRA Stack", {"model": ["4", 0], "lora_stack": ["12", 0]}),
        n12=("CR LoRA Stack", stack),
        n6=FOX,
        n7=DOG,
    )
    assert reading.settings.loras == (Lora("b.safetensors", 0.7), Lora("a.safetensors", 0.4))
    assert reading.settings.model == "m.safetensors"


def test_cycles_end() -> None:
    loop = ("ControlNetApply", {"conditioning": ["10", 0]})
    reading = graph(n3=sampler(positive=["10", 0], latent_image=["3", 0]), n7=DOG, n10=loop)
    assert reading.prompt is None
    looped = encoder(["10", 0])
    assert (
        graph(n3=sampler(), n6=looped, n7=DOG, n10=("String", {"string": ["10", 0]})).prompt is None
    )


def test_deep_and_wide_graphs_end() -> None:
    deep = {f"n{i}": ("Reroute", {"": [str(i + 1), 0]}) for i in range(100, 3000)}
    assert graph(n3=sampler(positive=["100", 0]), n7=DOG, **deep).prompt is None
    wide = {f"conditioning_{i}": [str(i), 0] for i in range(100, 400)}
    both = {f"n{i}": ("Combine", wide) for i in range(100, 400)}
    assert graph(n3=sampler(positive=["100", 0]), n7=DOG, **both).prompt is None


@pytest.mark.parametrize("form", ["Prompt:{}", "prompt: {}", '{{"prompt": {}, "workflow": {{}}}}'])
def test_every_wrapping(form: str) -> None:
    whole = making.api(n3=sampler(), n6=FOX, n7=DOG, n9=("SaveImage", {"images": ["3", 0]}))
    block = making.exif({0x010F: form.format(whole).encode()})
    for data in (making.webp(EXIF=block), making.jpeg_exif(block)):
        reading = read(data)
        assert reading is not None
        assert reading.prompt == "a fox"
    for inner in (json.dumps({"prompt": whole}), json.dumps(whole)):
        reading = read(making.jpeg_exif(making.comment(inner.encode())))
        assert reading is not None
        assert reading.prompt == "a fox"


def test_an_unstated_text_gives_way_to_the_graph() -> None:
    whole = making.api(n3=sampler(), n6=FOX, n7=DOG, n9=("SaveImage", {"images": ["3", 0]}))
    words = "unknown\nNegative prompt: unknown\nSteps: 20, Seed: 0"
    reading = read(making.png(making.text("parameters", words), making.text("prompt", whole)))
    assert reading is not None
    assert (reading.prompt, reading.generator) == ("a fox", "ComfyUI")
