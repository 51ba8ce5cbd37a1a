"""What a person waits for: import, help, the first answer, and images per second.

Run: python benchmarks/predict.py [--runs 15] [--images 500]

The command runs from an environment of its own that holds the light install and nothing else. No
rival predictor can be run beside it without a download of 1 to 17 GB, so the peer is Python itself:
how long its start and the import of ONNX Runtime take, which nobody can go below.
"""

import argparse
import json
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
        picture = Path(folder) / "picture.png"
        Image.radial_gradient("L").convert("RGB").resize((512, 512)).save(picture)
        unprompt = python.parent / "unprompt"
        rows = {
            "python -c pass": [python, "-c", "pass"],
            "import unprompt": [python, "-c", "import unprompt"],
            "import onnxruntime, PIL": [python, "-c", "import onnxruntime, PIL.Image"],
            "unprompt --help": [unprompt, "--help"],
            "unprompt predict picture.png": [unprompt, "predict", picture],
        }
        for name, command in rows.items():
            seconds = [timed(command) for _ in range(options.runs + 1)][1:]
            middle, worst = statistics.median(seconds), max(seconds)
            print(f"{name:32} median {middle:.3f} s   max {worst:.3f} s")
        many = Path(folder) / "many"
        many.mkdir()
        for number in range(options.images):
            (many / f"{number:05}.png").symlink_to(picture)
        seconds = timed([unprompt, "predict", many, "--format", "json"])
        print(f"{'images/s, 512 px PNG':32} {options.images / seconds:.1f}")


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


def timed(command: list[str | Path]) -> float:
    """Seconds of one whole process."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
