"""What the built-in model's answers in words are worth by each route, and their scores with them.

Run: python experiments/words.py [--run runs/builtin] [--pairs 809] [--routes ROUTE...]

RUN is the folder of `unprompt train recipes/builtin.yaml`, or will be; the test split is measured
on. Pictures are embedded once; each route words the same embeddings.
"""

import argparse
from pathlib import Path

import numpy as np

from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.metrics import cosines, mean_with_interval
from unprompt.evaluating.text_metrics import measure_words
from unprompt.predicting.embedding_model import load_model
from unprompt.predicting.predictor import Predictor
from unprompt.predicting.text_sources import bank_for
from unprompt.progress import track
from unprompt.training.recipe import load_recipe
from unprompt.training.run import prepare

RECIPE = Path(__file__).parents[1] / "recipes" / "builtin.yaml"
ROUTES = {
    "bank": {"route": "embed"},
    "bank, --knn 10": {"route": "embed", "knn": 10},
    "decoder, 4 beams": {"route": "decode"},
    "bank and decoder, --rerank": {"rerank": True},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/builtin"))
    parser.add_argument("--pairs", type=int, default=809)
    parser.add_argument("--routes", nargs="+", default=[*ROUTES], choices=[*ROUTES])
    options = parser.parse_args()
    model = load_model()
    table = prepare(load_recipe(RECIPE), options.run).of_split("test")
    some = np.random.default_rng(0).permutation(len(table))[: options.pairs]
    told = evaluate(model, table.take(sorted(some.tolist())), None)
    print("| answers | cosine to the true prompt | mean score | furthest bin: says, is, answers |")
    print("|---|---|---|---|")
    bank = bank_for(model)
    nearest = bank.embeddings(bank.nearest(told.predicted)[0])[:, 0]
    print(f"| bank, nearest | {mean_with_interval(cosines(nearest, told.true), told.groups)} | | |")
    for name in options.routes:
        predictor = Predictor(**ROUTES[name])
        answers = [predictor.answer(row) for row in track(told.predicted, name, show=True)]
        words = measure_words(
            [str(answer.prompt) for answer in answers],
            told.pairs.prompts,
            told.true,
            model.encoder,
            [answer.score for answer in answers],
            told.groups,
        )
        scores = [answer.score for answer in answers if answer.score is not None]
        shown = "| none | "
        if words.reliability:
            worst = max(words.reliability, key=lambda part: abs(part.estimated - part.actual))
            shown = (
                f"| {np.mean(scores):.3f} | {worst.estimated:.3f}, {worst.actual:.3f}, "
                f"{worst.count}"
            )
        print(f"| {name} | {words.cosine} {shown} |", flush=True)


if __name__ == "__main__":
    main()
