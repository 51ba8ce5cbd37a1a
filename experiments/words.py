"""Scores of the built-in model's answers in words by each route, and of its own estimates.

Run: python experiments/words.py [--run runs/builtin] [--pairs 809] [--routes ROUTE...]

RUN is the folder of `unprompt train recipes/builtin.yaml`; a missing one is made. The pairs are of
the test split. Images are embedded once, and each route answers for the same embeddings.
"""

import argparse
from pathlib import Path

import numpy as np

from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.metrics import cosines, furthest_bin, mean_with_interval
from unprompt.evaluating.text_metrics import score_texts
from unprompt.predicting.bank_or_decoder import bank_for
from unprompt.predicting.loading import load_model
from unprompt.predicting.predictor import Predictor
from unprompt.progress import progress_bars, track
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
    evaluation = evaluate(model, table.take(sorted(some.tolist())), None)
    print("| answers | cosine to the true prompt | mean score | furthest bin: says, is, answers |")
    print("|---|---|---|---|")
    bank = bank_for(model)
    nearest = bank.embeddings(bank.nearest(evaluation.predicted)[0])[:, 0]
    score = mean_with_interval(cosines(nearest, evaluation.true), evaluation.groups)
    print(f"| bank, nearest | {score} | | |")
    for name in options.routes:
        predictor = Predictor(**ROUTES[name])
        answers = [predictor.answer(row) for row in track(evaluation.predicted, name)]
        texts = score_texts(
            [str(answer.prompt) for answer in answers],
            evaluation.pairs.prompts,
            evaluation.true,
            model.encoder,
            [answer.score for answer in answers],
            evaluation.groups,
        )
        scores = [answer.score for answer in answers if answer.score is not None]
        shown = "| none | "
        if texts.reliability:
            worst = furthest_bin(texts.reliability)
            shown = (
                f"| {np.mean(scores):.3f} | {worst.estimated:.3f}, {worst.actual:.3f}, "
                f"{worst.count}"
            )
        print(f"| {name} | {texts.cosine} {shown} |", flush=True)


if __name__ == "__main__":
    with progress_bars():
        main()
