"""The whole pipeline on drawings: compose, generate, dedup, split, train, evaluate, predict.

The drawings stand in for the images of Stable Diffusion, so that every step runs anywhere within
minutes. Each step is one verb of the command line; an interrupted run goes on where it stopped.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path("demo")
STEPS = """
compose -n 600 --style sketch --seed 1 -o {folder}/scenes.txt
dedup {folder}/scenes.txt -o {folder}/prompts.txt --exact
generate {folder}/prompts.txt --backend sketch --size 128 -o {folder}/sketches
train recipes/sketches.yaml
evaluate {folder}/run/model {folder}/run/pairs.parquet --baselines --report {folder}/report.html
predict {folder}/sketches/images --route embed --model {folder}/run/model --format csv -o {answers}
"""


def main() -> None:
    """Run each step as a person would type it."""
    FOLDER.mkdir(exist_ok=True)
    unprompt = Path(sys.executable).parent / "unprompt"
    for line in STEPS.strip().format(folder=FOLDER, answers=FOLDER / "answers.csv").splitlines():
        print(f"\n$ unprompt {line}", flush=True)
        subprocess.run([unprompt, *line.split()], check=True)
    print(f"\nOpen {FOLDER / 'report.html'} to see the pictures with their predicted prompts.")


if __name__ == "__main__":
    main()
