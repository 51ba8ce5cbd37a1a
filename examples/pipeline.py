"""The whole pipeline on drawings: compose, dedup, generate, split, train, evaluate, predict.

The drawings stand in for the images of Stable Diffusion, so that every step runs anywhere within
minutes. They show a dozen things only, so that 450 of them are enough to learn from. Each step is
one verb of the command line; an interrupted run goes on where it stopped.
"""

import re
import subprocess
import sys
from pathlib import Path

from unprompt.collecting.sketches.scene import strokes
from unprompt.pairs.prompt_file import prompts_of, write_prompts
from unprompt.pairs.table import load

DEMO = Path("demo")
DRAWINGS = 600
THINGS = {
    *("house", "tree", "flower", "mushroom", "cat", "fish"),
    *("car", "boat", "rocket", "heart", "umbrella", "clock"),
}
SHOWN = 4


def main() -> None:
    """Run each step as a person would type it."""
    DEMO.mkdir(exist_ok=True)
    unprompt(f"compose -n 10000 --style sketch --seed 1 -o {DEMO}/composed.txt")
    keep_simple(DEMO / "composed.txt", DEMO / "scenes.txt")
    unprompt(f"dedup {DEMO}/scenes.txt -o {DEMO}/prompts.txt --threshold 0.99")
    unprompt(f"generate {DEMO}/prompts.txt --backend sketch --image-size 160 -o {DEMO}/sketches")
    unprompt(f"split {DEMO}/sketches/pairs.parquet -o {DEMO}/split.parquet --val 0.1 --test 0.15")
    unprompt("train recipes/sketches.yaml")
    model = DEMO / "run" / "model"
    unprompt(f"evaluate {model} {DEMO}/run/pairs.parquet --baselines --report {DEMO}/report.html")
    table = load(DEMO / "split.parquet").of_split("test")
    images = [str(table.root / file) for file in table.column("file")[:SHOWN]]
    unprompt(f"predict {' '.join(images)} --route embed --model {model}")
    print(f"\nOpen {DEMO / 'report.html'} to see pictures with their true and predicted prompts.")


def unprompt(command: str) -> None:
    """Run the command line, and show what was typed."""
    print(f"\n$ unprompt {command}", flush=True)
    subprocess.run([Path(sys.executable).parent / "unprompt", *command.split()], check=True)


def keep_simple(composed: Path, scenes: Path) -> None:
    """Keep the first prompts that name none but the dozen things."""
    names = [heading.split(" / ") for heading in strokes("things")]
    others = [name for pair in names if pair[0] not in THINGS for name in pair]
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, others))})\b")
    simple = [prompt for prompt in prompts_of(composed) if not pattern.search(prompt)]
    write_prompts(simple[:DRAWINGS], scenes)
    print(f"{scenes}: {min(len(simple), DRAWINGS)} prompts", file=sys.stderr)


if __name__ == "__main__":
    main()
