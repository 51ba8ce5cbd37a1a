"""Images per second: our wrapper and plain img2dataset on a local server; and the gain of retries.

Both fetch the same list with the same processes, threads and time-out. The server answers one in
a hundred with 429 and one in a hundred with silence at first, and many for ever with errors.

    python benchmarks/download.py [--images 2000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import img2dataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.collecting.urls.web import bad_web, kind
from unprompt.collecting.download import Options, download_list


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    ours, theirs, recovered = [], [], []
    options = Options(
        image_size=64, processes=2, threads=64, timeout=2, shard_size=500, allow_private=True
    )
    for _ in range(chosen.rounds):
        with tempfile.TemporaryDirectory() as folder:
            with bad_web() as web:
                urls = Path(folder) / "urls.tsv"
                rows = [f"{web.url(n)}\tpicture {n}" for n in range(chosen.images)]
                urls.write_text("\n".join(["url\tcaption", *rows]) + "\n", encoding="utf-8")
                start = time.perf_counter()
                img2dataset.download(
                    url_list=str(urls),
                    input_format="tsv",
                    caption_col="caption",
                    output_folder=f"{folder}/theirs",
                    image_size=64,
                    resize_mode="keep_ratio",
                    resize_only_if_bigger=True,
                    processes_count=2,
                    thread_count=64,
                    timeout=2,
                    number_sample_per_shard=500,
                )
                theirs.append(chosen.images / (time.perf_counter() - start))
            with bad_web() as web:
                rows = [f"{web.url(n)}\tpicture {n}" for n in range(chosen.images)]
                urls.write_text("\n".join(["url\tcaption", *rows]) + "\n", encoding="utf-8")
                start = time.perf_counter()
                first = download_list(urls, Path(folder) / "ours", options)
                ours.append(chosen.images / (time.perf_counter() - start))
                second = download_list(urls, Path(folder) / "ours", options)
                at_first = sum(kind(n) in ("busy", "hang") for n in range(chosen.images))
                recovered.append((second.arrived - first.arrived) / at_first)
        # Printed at once, so that an interrupted run shows its results.
        print(
            f"round: img2dataset {theirs[-1]:.1f} URLs/s, unprompt {ours[-1]:.1f}, "
            f"recovered {recovered[-1]:.1%}",
            flush=True,
        )
    print(f"img2dataset {statistics.median(theirs):8.1f} URLs/s (median of {chosen.rounds})")
    print(f"unprompt    {statistics.median(ours):8.1f} URLs/s, table included")
    print(f"ratio       {statistics.median(ours) / statistics.median(theirs):8.3f}")
    print(f"a second call recovered {statistics.median(recovered):.1%} of the temporary failures")


if __name__ == "__main__":
    main()
