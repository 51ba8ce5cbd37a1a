import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="the extra [generate] is not installed")

from tests.pairs.pipelines import build_sd3, save_sd
from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.pairs.backends import make_backend
from unprompt.pairs.diffusion import Diffusion, DiffusionBackend
from unprompt.pairs.generate import Job, generate, image_seed, prompt_id
from unprompt.pairs.table import load, validate
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
    assert sizes[:2] == [4, 2]
    for image, alone in zip(images, expected, strict=True):
        assert np.abs(np.asarray(image).astype(int) - alone).max() <= 1


def test_one_image_that_does_not_fit_is_an_error(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = _backend(sd)

    def forward(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backend.pipeline.unet, "forward", forward)
    with pytest.raises(torch.OutOfMemoryError):
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
    assert next(iter(result.failed.values())).startswith("the model gave numbers")
    assert load(result.table).prompts == PROMPTS[1:2]


def test_long_prompts_are_reported(sd: Path, tmp_path: Path) -> None:
    long = "a very long prompt " * 12
    result = generate(["a cat", long], tmp_path, _backend(sd))
    assert list(result.notes) == [long.strip()]
    assert "of which the model reads the first 77" in str(result)


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


def test_stable_diffusion_3(tmp_path: Path) -> None:
    backend = DiffusionBackend(build_sd3(tmp_path), Diffusion("sd3", steps=1, device="cpu"))
    assert backend.sampler == "FlowMatchEulerDiscreteScheduler"
    images = backend.draw([_job("a cat"), _job("a dog")])
    assert [image.size for image in images] == [(32, 32)] * 2


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
        make_backend("diffusers", model=str(tmp_path))
    for wrong in ({"sampler": "x"}, {"precision": "x"}, {"steps": 0}, {"size": 33}):
        with pytest.raises(UnpromptError):
            Diffusion(**wrong)


def test_the_verb(sd: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n", encoding="utf-8")
    call = [UNPROMPT, "generate", str(prompts), "-o", str(tmp_path / "out"), "--model", str(sd)]
    done = subprocess.run(
        [*call, "--steps", "1", "--device", "cpu"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert load(tmp_path / "out").prompts == ["a cat", "a dog"]
