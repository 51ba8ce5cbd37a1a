"""Nodes of widespread extensions, as their API prompts state them: the general rules read them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reading.test_comfyui import DOG, FOX, encoder, graph, sampler

Inputs = dict[str, Any]
TO_LORA = {"Select to add LoRA": "Select the LoRA to add to the text"}
TO_WILDCARD = {"Select to add Wildcard": "Select the Wildcard to add to the text"}
CHOOSE = {"insert_embedding": "CHOOSE", "insert_saved": "CHOOSE"}
WOLF, COW = ("String", {"string": "a wolf"}), ("String", {"string": "a cow"})
NO = ("Primitive boolean [Crystools]", {"boolean": False})
CAPTION = ("Florence2Run", {"image": ["8", 0], "task": "caption", "text_input": "", "seed": 1})


@pytest.mark.parametrize(
    ("kind", "inputs", "prompt"),
    [
        ("easy positive", {"positive": "a fox"}, "a fox"),
        ("easy wildcards", {"text": "a fox", **TO_LORA, **TO_WILDCARD, "seed": 3}, "a fox"),
        ("Power Prompt (rgthree)", {"prompt": "a fox", "insert_lora": "CHOOSE", **CHOOSE}, "a fox"),
        ("Power Prompt - Simple (rgthree)", {"prompt": "a fox", **CHOOSE}, "a fox"),
        ("StringFunction|pysssss", {"action": "append", "tidy_tags": "yes", "text_a": "a fox",
                                    "text_b": ["11", 0], "text_c": ""}, "a fox, a wolf"),
        ("Text Find and Replace", {"text": "a cat", "find": "cat", "replace": "fox"}, "a fox"),
        ("Text Input Switch", {"text_a": ["11", 0], "text_b": "a fox", "boolean": False}, "a fox"),
        ("Text Input Switch", {"text_a": ["11", 0], "text_b": "a fox", "boolean": True}, "a wolf"),
        ("ComfySwitchNode", {"switch": True, "on_true": ["11", 0], "on_false": "x"}, "a wolf"),
        ("Switch any [Crystools]",
         {"boolean": ["13", 0], "on_true": ["11", 0], "on_false": ["12", 0]}, "a cow"),
        ("Any Switch (rgthree)", {"any_01": ["11", 0], "any_02": ["12", 0]}, "a wolf"),
        ("easy showAnything", {"anything": ["11", 0], "text": ""}, "a wolf"),
        ("ShowText|pysssss", {"text": ["14", 0], "text_0": "a fox"}, "a fox"),
        ("JoinStrings", {"string1": "a", "string2": "fox", "delimiter": " "}, "a fox"),
        ("JoinStringMulti", {"inputcount": 2, "string_1": "a", "string_2": "fox", "delimiter": " ",
                             "return_list": False}, "a fox"),
        ("StringConcatenate", {"string_a": "a ", "string_b": "fox", "delimiter": ""}, "a fox"),
        ("CR Text Concatenate", {"text1": "a", "text2": "fox", "separator": " "}, "a fox"),
        ("easy promptConcat", {"prompt1": "a", "prompt2": "fox", "separator": " "}, "a fox"),
        ("SimpleConcat", {"num": 2, "delimeter": " + ", "input_0": ["11", 0], "input_1": "x"},
         "a wolf + x"),
        ("ImpactWildcardProcessor", {"wildcard_text": "a {x|y}", "populated_text": "a fox",
                                     "mode": "populate", "seed": 1, **TO_WILDCARD}, "a fox"),
        ("DPRandomGenerator", {"text": "a fox", "seed": 1, "autorefresh": "No"}, "a fox"),
        ("SDXLPromptStyler", {"text_positive": "a fox", "text_negative": "blurry",
                              "style": "sai-cinematic", "log_prompt": "No"}, "a fox"),
        ("OllamaGenerateV2", {"system": "You are an artist", "prompt": "a fox", "model": "llama"},
         "a fox"),
    ],
)  # fmt: skip
def test_texts(kind: str, inputs: Inputs, prompt: str) -> None:
    nodes = {"n10": (kind, inputs), "n11": WOLF, "n12": COW, "n13": NO, "n14": CAPTION}
    reading = graph(n3=sampler(), n6=encoder(["10", 0]), n7=DOG, **nodes)
    assert (reading.prompt, reading.negative_prompt) == (prompt, "dog")


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("CLIPTextEncodeSDXLRefiner", {"ascore": 6.0, "width": 1024, "text": "a fox"}),
        ("ImpactWildcardEncode", {"wildcard_text": "a {x}", "populated_text": "a fox",
                                  "mode": "populate", **TO_LORA, **TO_WILDCARD, "seed": 1}),
        ("PCLazyTextEncode", {"text": "a fox"}),
        ("ScheduleToCond", {"prompt_schedule": ["10", 0]}),
        ("BatchPromptSchedule", {"text": "a fox", "pre_text": "", "app_text": "", "pw_a": 0}),
        ("CLIPTextEncodeHunyuanDiT", {"bert": "a fox", "mt5xl": "a fox"}),
        ("Conditioning Input Switch",
         {"conditioning_a": ["98", 0], "conditioning_b": ["99", 0], "boolean": True}),
        ("TextEncodeQwenImageEditPlus", {"prompt": "a fox", "image1": ["8", 0]}),
        ("TextEncodeAceStepAudio", {"tags": "a fox", "lyrics": "la la", "lyrics_strength": 1.0}),
    ],
)  # fmt: skip
def test_encoders(kind: str, inputs: Inputs) -> None:
    schedule = ("PromptToSchedule", {"text": "a fox"})
    encode = (kind, {**inputs, "clip": ["4", 1]})
    reading = graph(n3=sampler(), n6=encode, n7=DOG, n10=schedule, n98=FOX)
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


MODEL = {"model": ["4", 0]}
PARTS = {"noise": ["20", 0], "guider": ["10", 0], "sampler": ["22", 0], "sigmas": ["23", 0]}


@pytest.mark.parametrize(
    ("kind", "inputs", "between"),
    [
        ("XlabsSampler", {"conditioning": ["6", 0], "neg_conditioning": ["7", 0], "true_gs": 3.5},
         None),
        ("KolorsSampler", {"kolors_embeds": ["10", 0], "seed": 1},
         ("KolorsTextEncode", {"prompt": "a fox", "negative_prompt": "dog"})),
        ("ClownsharKSampler_Beta", {"positive": ["6", 0], "negative": ["7", 0], "seed": 4,
                                    "sampler_mode": "standard"}, None),
        ("KSampler", {"positive": ["10", 4], "negative": ["10", 5]},
         ("Context Big (rgthree)", {"base_ctx": ["11", 0]})),
        ("SamplerCustomAdvanced", PARTS,
         ("PerpNegGuider", {"positive": ["6", 0], "negative": ["7", 0],
                            "empty_conditioning": ["27", 0], "cfg": 7, "neg_scale": 1})),
        ("KSampler (Efficient)", {"positive": ["10", 1], "negative": ["10", 2], "seed": 1},
         ("Efficient Loader", {"positive": ["12", 0], "negative": "dog",
                               "token_normalization": "none", "lora_name": "None"})),
        ("KSampler SDXL (Eff.)", {"sdxl_tuple": ["10", 0], "noise_seed": 3},
         ("Eff. Loader SDXL", {"positive": "a fox", "negative": "dog"})),
        ("KSampler", {"positive": ["10", 1], "negative": ["10", 2]},
         ("CR Module Pipe Loader", {"pipe": ["13", 0]})),
        ("IdeogramV3", {"prompt": "a fox", "negative_prompt": "dog", "seed": 1}, None),
        ("OneStepSampler", {"positive": "a fox", "negative": "dog", "seed": 1}, None),
    ],
)  # fmt: skip
def test_samplers(kind: str, inputs: Inputs, between: tuple[str, Inputs] | None) -> None:
    reading = graph(
        n3=(kind, {**MODEL, **inputs}),
        n6=FOX,
        n7=DOG,
        n10=between or WOLF,
        n11=("Context (rgthree)", {"positive": ["6", 0], "negative": ["7", 0]}),
        n12=("String", {"string": "a fox"}),
        n13=("Module Pipe", {"pos": ["6", 0], "neg": ["7", 0], **MODEL}),
        n20=("RandomNoise", {"noise_seed": 1}),
        n27=encoder(""),
    )
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")


def test_base_and_refiner() -> None:
    refined = {"ascore": 6.0, "clip": ["4", 1]}
    reading = graph(
        n3=("KSamplerAdvanced", {**MODEL, "positive": ["16", 0], "negative": ["17", 0],
                                 "latent_image": ["13", 0], "noise_seed": 0}),
        n13=("KSamplerAdvanced", {**MODEL, "positive": ["6", 0], "negative": ["7", 0],
                                  "latent_image": ["5", 0], "noise_seed": 9}),
        n5=("EmptyLatentImage", {"width": 1024, "height": 768}),
        n16=("CLIPTextEncodeSDXLRefiner", {**refined, "text": "a refined fox"}),
        n17=("CLIPTextEncodeSDXLRefiner", {**refined, "text": "a refined dog"}),
        n6=FOX,
        n7=DOG,
    )  # fmt: skip
    assert (reading.prompt, reading.negative_prompt) == ("a fox", "dog")
    assert (reading.settings.seed, reading.settings.size) == (9, (1024, 768))
    assert "a refined fox" in {prompt.text for prompt in reading.prompts}
