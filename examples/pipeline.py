"""The whole pipeline on drawings: compose, generate, dedup, split, train, evaluate, predict.

The drawings stand in for the images of Stable Diffusion, so that every step runs anywhere within
minutes. Each step is one verb of the command line; an interrupted run goes on where it stopped.
"""

import subprocess
import sys
from pathlib import Path

from unprompt.pairs.table import load

FOLDER = Path("demo")
STEPS = """
compose -n 600 --style sketch --seed 1 -o {demo}/scenes.txt
dedup {demo}/scenes.txt -o {demo}/prompts.txt --threshold 0.98
generate {demo}/prompts.txt --backend sketch --size 160 -o {demo}/sketches
split {demo}/sketches/pairs.parquet -o {demo}/split.parquet --val 0.1 --test 0.15
train recipes/sketches.yaml
evaluate {demo}/run/model {demo}/run/pairs.parquet --baselines --report {demo}/report.html
predict {images} --route embed --model {demo}/run/model
"""
SHOWN = 4


def main() -> None:
    """Run each step as a person would type it."""
    FOLDER.mkdir(exist_ok=True)
    for line in STEPS.strip().splitlines():
        images = " ".join(unseen()) if "{images}" in line else ""
        command = line.format(demo=FOLDER, images=images)
        print(f"\n$ unprompt {command}", flush=True)
        unprompt = Path(sys.executable).parent / "unprompt"
        subprocess.run([unprompt, *command.split()], check=True)
    print(f"\nOpen {FOLDER / 'report.html'} to see pictures with their true and predicted prompts.")


def unseen() -> list[str]:
    """A few drawings of the test split; their files carry the true prompts."""
    table = load(FOLDER / "split.parquet").of_split("test")
    return [str(table.root / file) for file in table.column("file")[:SHOWN]]


if __name__ == "__main__":
    main()
