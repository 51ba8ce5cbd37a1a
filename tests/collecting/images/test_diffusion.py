import hashlib
import io
import logging
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("diffusers", reason="the extra [generate] is not installed")

from tests.collecting.images.pipelines import (
    build_checker,
    build_flux,
    build_pixart,
    build_sd,
    build_sd3,
    build_sdxl,
    save_sd,
)
from unprompt.cli import app
from unprompt.collecting.compose import compose
from unprompt.collecting.generate import Generation, generate, image_seed, prompt_id
from unprompt.collecting.images.backends import make_backend
from unprompt.collecting.images.diffusion import Diffusion, DiffusionBackend, _likely_batch
from unprompt.collecting.images.jobs import Job
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.pairs.table import load
from unprompt.pairs.validation import validate
from unprompt.reading import read

UNPROMPT = str(Path(sys.executable).with_name("unprompt"))
PROMPTS = ["a cat", "a dog in the rain", "three red houses", "a boat"]


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd(tmp_path_factory.mktemp("sd") / "model")


def _backend(folder: Path, **options: object) -> DiffusionBackend:
    options = {"steps": 1, "batch_size": 2, "device": "cpu"} | options
    return DiffusionBackend.from_pretrained(Diffusion(model=str(folder), **options))


def _job(prompt: str, index: int = 0) -> Job:
    return Job(prompt, prompt_id(prompt), index, image_seed(prompt, index))


def _content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_images_of_a_real_pipeline(sd: Path, tmp_path: Path) -> None:
    backend = _backend(sd, negative_prompt="blurry")
    result = generate(PROMPTS, tmp_path, backend)
    table = load(result.table)
    validate(table, images="decode")
    assert table.prompts == PROMPTS
    assert backend.sampler == "DPMSolverMultistepScheduler"
    for pair in table:
        assert (pair.width, pair.height, pair.steps, pair.guidance) == (32, 32, 1, 7.5)
        assert pair.sampler == backend.sampler
        assert pair.negative_prompt == "blurry"
        reading = read(tmp_path / pair.file)
        assert reading is not None
        assert (reading.prompt, reading.negative_prompt) == (pair.prompt, "blurry")
        assert (reading.settings.seed, reading.settings.steps) == (pair.seed, 1)
    pictures = [np.asarray(table.open_image(row)) for row in range(len(table))]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_an_image_depends_on_its_seed_and_not_on_its_neighbours(sd: Path) -> None:
    backend = _backend(sd)
    jobs = [_job(prompt) for prompt in PROMPTS]
    together = [np.asarray(image).astype(int) for image in backend.draw(jobs)]
    alone = [np.asarray(backend.draw([job])[0]).astype(int) for job in jobs]
    for one, other in zip(together, alone, strict=True):
        # Sums in another order may differ in the last bit before rounding.
        assert np.abs(one - other).max() <= 1
    again = backend.draw([_job("a cat", 1)])[0]
    assert np.abs(np.asarray(again).astype(int) - together[0]).max() > 1


def test_resumed_to_the_byte(sd: Path, tmp_path: Path) -> None:
    generate(PROMPTS, tmp_path / "whole", _backend(sd), images_per_prompt=2)
    generate(PROMPTS, tmp_path / "cut", _backend(sd), images_per_prompt=2)
    files = load(tmp_path / "cut").column("file")
    for number in (0, 3, 4):
        (tmp_path / "cut" / files[number]).unlink()
    result = generate(PROMPTS, tmp_path / "cut", _backend(sd), images_per_prompt=2)
    assert (result.made, result.found) == (3, 5)
    assert _content(tmp_path / "cut") == _content(tmp_path / "whole")


def test_a_batch_that_does_not_fit_is_halved_and_not_lost(
    sd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = _backend(sd)
    sizes: list[int] = []
    real = backend.pipeline.unet.forward

    def forward(sample: torch.Tensor, *rest: object, **named: object) -> object:
        # Guidance doubles the batch.
        sizes.append(len(sample) // 2)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return real(sample, *rest, **named)

    jobs = [_job(prompt) for prompt in PROMPTS]
    expected = [np.asarray(image) for job in jobs for image in backend.draw([job])]
    monkeypatch.setattr(backend.pipeline.unet, "forward", forward)
    images = backend.draw(jobs)
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert len(backend.draw(jobs)) == 4
    assert sizes[6:] == [1, 1, 1, 1], "what does not fit is not tried again"
    for image, alone in zip(images, expected, strict=True):
        assert np.abs(np.asarray(image).astype(int) - alone).max() <= 1


def test_one_image_that_does_not_fit_is_an_error(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(sd)

    def forward(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backend.pipeline.unet, "forward", forward)
    with pytest.raises(UnpromptError, match="one image does not fit"):
        backend.draw([_job("a cat"), _job("a dog")])


def test_numbers_that_are_not_finite_fail_their_image_alone(sd: Path, tmp_path: Path) -> None:
    backend = _backend(sd)
    decode = backend.pipeline.vae.decode

    def broken(latents: torch.Tensor, **named: object) -> object:
        output = decode(latents, **named)
        output[0][0] = torch.nan
        return output

    backend.pipeline.vae.decode = broken
    result = generate(PROMPTS[:2], tmp_path, backend)
    assert next(iter(result.failed.values())).startswith("the model returned values")
    assert load(result.table).prompts == PROMPTS[1:2]


def test_long_prompts_are_reported_once(sd: Path, tmp_path: Path) -> None:
    long = "a very long prompt " * 12
    log = logging.StreamHandler(io.StringIO())
    library = logging.getLogger("diffusers")
    library.addHandler(log)
    try:
        result = generate(["a cat", long], tmp_path, _backend(sd))
        library.warning("something else")
    finally:
        library.removeHandler(log)
    assert log.stream.getvalue() == "something else\n"
    assert list(result.warnings) == [long.strip()]
    assert "but the model reads only the first 77" in str(result)


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 1.0},
        {"size": 48},
        {"sampler": "default"},
        {"precision": "bf16"},
        {"vae_slicing": True, "vae_tiling": True, "channels_last": False},
    ],
)
def test_options_change_what_they_say(sd: Path, options: dict[str, object]) -> None:
    backend = _backend(sd, **options)
    (image,) = backend.draw([_job("a cat")])
    side = int(options.get("size", 32))
    assert image.size == (side, side)
    assert (backend.sampler == "DDIMScheduler") == (options.get("sampler") == "default")
    if "vae_slicing" in options:
        assert backend.pipeline.vae.use_slicing
        assert backend.pipeline.vae.use_tiling


@pytest.mark.parametrize(
    ("build", "sampler", "reads"),
    [
        (build_sdxl, "DPMSolverMultistepScheduler", 77),
        (build_sd3, "FlowMatchEulerDiscreteScheduler", 77),
        (build_flux, "FlowMatchEulerDiscreteScheduler", None),
        (build_pixart, "DPMSolverMultistepScheduler", None),
    ],
)
def test_other_pipelines(
    tmp_path: Path, build: Callable[[Path], object], sampler: str, reads: int | None
) -> None:
    backend = DiffusionBackend(build(tmp_path), Diffusion("x", size=32, steps=2, device="cpu"))
    assert backend.sampler == sampler
    images = backend.draw([_job("a cat"), _job("a dog")])
    assert [image.size for image in images] == [(32, 32)] * 2
    assert (backend.warn("a word " * 80) is None) == (reads is None)


def test_the_safety_checker_by_choice(tmp_path: Path) -> None:
    def run(name: str, flags: bool, chosen: bool) -> Generation:
        options = Diffusion("sd", steps=1, safety_checker=chosen, batch_size=2, device="cpu")
        pipeline = build_sd(tmp_path / "tokenizer", build_checker(flags))
        return generate(PROMPTS[:2], tmp_path / name, DiffusionBackend(pipeline, options))

    flagged = run("a", True, True)
    assert list(flagged.failed.values()) == ["flagged by the safety checker"] * 2
    assert (run("b", False, True).made, run("c", True, False).made) == (2, 2)


def test_memory_layout_precision_and_compilation(sd: Path) -> None:
    unet = _backend(sd, channels_last=True, precision="bf16", compile=True).pipeline.unet
    assert type(unet).__name__ == "OptimizedModule"
    weight = unet.conv_in.weight
    assert weight.dtype == torch.bfloat16
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = _backend(sd, channels_last=False).pipeline
    assert plain.unet.conv_in.weight.is_contiguous()
    assert plain.unet.conv_in.weight.dtype == torch.float32
    # PyTorch's scaled dot product attention is what diffusers takes by itself.
    kinds = {type(each).__name__ for each in plain.unet.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}


@pytest.mark.slow
def test_a_compiled_denoiser_makes_the_same_images(sd: Path) -> None:
    (plain,) = _backend(sd).draw([_job("a cat")])
    (compiled,) = _backend(sd, compile=True).draw([_job("a cat")])
    assert np.abs(np.asarray(plain).astype(int) - np.asarray(compiled)).max() <= 2


def test_guidance_negative_prompt_and_steps_change_the_image(sd: Path) -> None:
    ways = [{}, {"guidance": 1.0}, {"negative_prompt": "blurry"}, {"steps": 2}]
    images = [_backend(sd, **way).draw([_job("a cat")])[0].tobytes() for way in ways]
    assert len(set(images)) == len(ways)


def test_the_batch_that_is_likely_to_fit(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DiffusionBackend.from_pretrained(Diffusion(str(sd), device="cpu")).batch_size == 4
    pipeline, free = _backend(sd).pipeline, 20 * 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))

    def batch(**options: object) -> int:
        return _likely_batch(pipeline, Diffusion(**options))

    assert (batch(size=512), batch(size=1024), batch(size=512, precision="fp32")) == (16, 4, 8)
    assert batch(size=4096) == 1
    assert batch() == 32  # of 32 pixels, but never more than this at once


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        make_backend("diffusers", model=str(tmp_path))
    for wrong in ({"sampler": "x"}, {"precision": "x"}, {"steps": 0}, {"size": 33}):
        with pytest.raises(UnpromptError):
            Diffusion(**wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_does_not_exist(sd: Path) -> None:
    with pytest.raises(UnpromptError, match="device 'cuda:1' cannot be used"):
        _backend(sd, device="cuda:1")


@pytest.mark.skipif(find_spec("xformers") is not None, reason="xformers is installed")
def test_xformers_where_it_is_not_installed(sd: Path) -> None:
    with pytest.raises(UnpromptError, match="choose --attention sdpa"):
        _backend(sd, attention="xformers")


def test_the_verb(sd: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n", encoding="utf-8")
    call = ["generate", str(prompts), "-o", str(tmp_path / "out"), "--pipeline", str(sd)]
    call += ["--steps", "1", "--device", "cpu", "--image-format", "webp", "--shard-size", "10"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert load(tmp_path / "out").prompts == ["a cat", "a dog"]
    again = CliRunner().invoke(app, call)
    assert "2 images, 0 of them made now" in again.stderr
    wrong = CliRunner().invoke(app, [*call, "--sampler", "x"])
    assert (wrong.exit_code, "'x' is not one of" in wrong.output) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_share_the_work(sd: Path, tmp_path: Path, launcher: str) -> None:
    prompts = tmp_path / "prompts.txt"
    scenes = list(compose(10, style="sketch"))
    prompts.write_text("\n".join(scenes) + "\n", encoding="utf-8")
    program = Path(sys.executable).with_name(launcher)
    launch = [str(program), "--nproc-per-node", "2", "--master-port", "29541"]
    if launcher == "accelerate":
        launch = [str(program), "launch", "--cpu", "--num_processes", "2"]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch += ["--main_process_port", "29542"]
    options = ["--pipeline", str(sd), "--steps", "1", "--device", "cpu", "--batch-size", "2"]
    options += ["--shard-size", "4"]
    call = [*launch, UNPROMPT, "generate", str(prompts), "-o", str(tmp_path / "two"), *options]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("of them made now") == 2
    backend = _backend(sd)
    generate(scenes, tmp_path / "one", backend, shard_size=4)
    assert _content(tmp_path / "two") == _content(tmp_path / "one")
