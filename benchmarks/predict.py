"""The time that a user waits: import, help, the first answer, images per second; and memory.

Run: python benchmarks/predict.py [--runs 15] [--images 500]

The command runs from its own environment, which holds the light install only. Other predictors need
a download of 1 to 17 GB, so none runs beside it. The comparison is Python itself: the time of its
start and of the import of ONNX Runtime, which is a lower bound.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = light_install(Path(folder) / "venv")
        pictures = {form: make_pictures(Path(folder), form) for form in ("jpg", "png")}
        picture = pictures["jpg"][0]
        unprompt = python.parent / "unprompt"
        rows = {
            "python -c pass": [python, "-c", "pass"],
            "import unprompt": [python, "-c", "import unprompt"],
            "import onnxruntime, PIL": [python, "-c", "import onnxruntime, PIL.Image"],
            "unprompt --help": [unprompt, "--help"],
            "unprompt predict picture.jpg": [unprompt, "predict", picture],
        }
        for name, command in rows.items():
            seconds = [timed(command)[0] for _ in range(options.runs + 1)][1:]
            middle, worst = statistics.median(seconds), max(seconds)
            print(f"{name:32} median {middle:.3f} s   max {worst:.3f} s")
        for form, originals in pictures.items():
            many = Path(folder) / f"many-{form}"
            many.mkdir()
            for number in range(options.images):
                (many / f"{number:05}.{form}").symlink_to(originals[number % len(originals)])
            seconds, peak = timed([unprompt, "predict", many, "--format", "json"])
            rate = options.images / seconds
            print(f"512 px {form.upper():25} {rate:.1f} images/s   at most {peak:.0f} MB")


def make_pictures(folder: Path, form: str) -> list[Path]:
    """Photographs of scikit-image at 512 x 512 pixels, in one file format."""
    from skimage import data

    paths = []
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        paths.append(folder / f"{name}.{form}")
        square = Image.fromarray(getattr(data, name)()).convert("RGB").resize((512, 512))
        square.save(paths[-1], quality=90)
    return paths


def light_install(folder: Path) -> Path:
    """A new environment with the light install; its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(ROOT)]
    subprocess.run([python, "-m", "pip", *install], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], capture_output=True, check=True
    )
    assert "torch" not in {package["name"] for package in json.loads(listed.stdout)}
    return python


def timed(command: list[str | Path]) -> tuple[float, float]:
    """Seconds of one whole process, and the memory that it held at most, in MB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return time.perf_counter() - started, usage.ru_maxrss / 1024  # KiB on Linux


if __name__ == "__main__":
    main()
