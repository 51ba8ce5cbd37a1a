"""Midjourney: the prompt with its parameters in a description that ends with a job ID."""

from __future__ import annotations

import re

from unprompt.reading.image_texts import ImageTexts
from unprompt.reading.result import Field, Prompt, Reading, Settings, as_int

PLACES = ("Description", "dc:description", "ImageDescription", "Caption", "Comment", "UserComment")
_JOB = re.compile(r"\s*Job ID:\s*[0-9a-fA-F-]{8,64}.{0,200}$", re.DOTALL)
_PARAMETER = re.compile(
    r"\s(?:--|—)(v|version|niji|seed|ar|stylize|s|chaos|style|raw)\b\s*([^\s]*)"
)


def read(texts: ImageTexts) -> Reading | None:
    """The prompt with its parameters as typed, without the job ID."""
    for field in texts.named(*PLACES):
        ends = "Job ID:" in (end := field.text[-400:]) and field.whole
        job = _JOB.search(end) if ends else None
        if job:
            return _read(field, job.start())
    return None


def _read(field: Field, end: int) -> Reading:
    prompt = field.text[: max(0, len(field.text) - 400) + end]
    parameters = dict(_PARAMETER.findall(prompt[-2000:]))
    version = parameters.get("v") or parameters.get("version")
    if "niji" in parameters:
        version = f"niji {parameters['niji']}".strip()
    negative = re.search(r"\s--no\s+(.{1,2000}?)(?=\s--|$)", prompt, re.DOTALL)
    prompts = [Prompt(prompt, "positive", str(field))]
    if negative:
        prompts.append(Prompt(negative[1], "negative", str(field)))
    return Reading(
        prompt=prompt,
        negative_prompt=negative[1] if negative else None,
        generator="Midjourney",
        version=version,
        settings=Settings(seed=as_int(parameters.get("seed")), other=parameters),
        prompts=tuple(prompts),
        where=(str(field),),
    )
