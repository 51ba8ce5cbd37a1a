"""The built-in model with its convolutions in 8 bits beside the same in float32.

Run: python experiments/int8.py [--run runs/int8] [--rounds 5]

Both are exported from the same weights. The split of ../shared/pairs is that of
recipes/builtin.yaml and is kept in the run folder. Ranges are measured on images of its training
part, so both models know nothing of the test part. The time is of the network alone, on one thread,
in batches of 16.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnxruntime

from unprompt.evaluating.evaluation import evaluate
from unprompt.evaluating.metrics import cosines
from unprompt.models.embedder import Embedder
from unprompt.models.embedder_onnx import export_onnx
from unprompt.models.model_folder import ONNX_FILE
from unprompt.predicting.loading import builtin_folder, load_model
from unprompt.training.export import export
from unprompt.training.recipe import load_recipe
from unprompt.training.run import prepare

RECIPE = Path(__file__).parents[1] / "recipes" / "builtin.yaml"


def main() -> None:
    """Export, evaluate and time both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/int8"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = prepare(load_recipe(RECIPE), options.run)
    exact, rounded = options.run / "float32", options.run / "int8"
    export_onnx(Embedder.from_pretrained(builtin_folder()), exact)
    export(builtin_folder(), rounded, held_out=options.run / "pairs.parquet", int8=True)
    measured = {folder: evaluate(load_model(folder), table, "test") for folder in (exact, rounded)}
    agreement = cosines(measured[rounded].predicted, measured[exact].predicted)
    low = np.percentile(agreement, 1)
    print(f"cosine between their embeddings: {agreement.mean():.4f}, 1st percentile {low:.4f}")
    for folder, evaluation in measured.items():
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        print(f"{folder.name}: {evaluation.model.overall}, {size / 1e6:.1f} MB without the bank")
    print(f"difference: {measured[rounded].better_than(measured[exact])}")
    times = timed([exact / ONNX_FILE, rounded / ONNX_FILE], options.rounds)
    for folder, milliseconds in zip((exact, rounded), times, strict=True):
        print(f"{folder.name}: {milliseconds:.2f} ms an image, one thread")


def timed(graphs: list[Path], rounds: int) -> list[float]:
    """Milliseconds of CPU an image; the least of some rounds, each graph in turn."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        for graph in graphs
    ]
    pixels = np.random.default_rng(0).integers(0, 256, (16, 3, 224, 224), dtype=np.uint8)
    least = [float("inf")] * len(graphs)
    for _ in range(rounds + 1):
        for number, session in enumerate(sessions):
            started = time.process_time()
            session.run(None, {"pixels": pixels})
            least[number] = min(least[number], time.process_time() - started)
    return [1e3 * seconds / len(pixels) for seconds in least]


if __name__ == "__main__":
    main()
