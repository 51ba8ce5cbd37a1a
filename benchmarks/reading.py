"""The exact route beside sd-parsers: accuracy, speed, and a run over 10,000 files.

    python benchmarks/reading.py [--files DIR] [--many 10000] [--rounds 9]

Installs sd-parsers 0.6 (MIT) into a temporary folder. Both readers get the same files in the same
run. Only rows that are not ambiguous count. A file is right if the prompt equals the true one or
one of its alternatives, after stripping blanks and commas; for null, if nothing is returned. For
sd-parsers the whole prompt or any one of its prompts may be right, and accuracy is measured in its
eager mode, the only one that reads hidden texts. An answer after more than 5 seconds is wrong.

Times are processor times of the first reading of each file in a fresh process with loaded modules:
the median of several processes. sd-parsers is timed in its default mode, which is faster.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PEER = "sd-parsers==0.6"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, default=HERE.parents[2] / "shared" / "metadata")
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(*options.work)
    if not (options.files / "expected.jsonl").exists():
        print(f"no samples in {options.files}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        peers = Path(folder) / "peers"
        install = ["install", "--quiet", "--no-deps", "--target", str(peers), PEER]
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
        rows = [json.loads(line) for line in (options.files / "expected.jsonl").open()]
        print(f"Python {platform.python_version()}, {len(rows)} files")
        accuracy(rows, options.files, peers)
        speed(rows, options.files, peers, options.rounds)
        hidden_texts()
        if options.many:
            many_files(rows, options.files, Path(folder), peers, options.many)
    return 0


def child(task: str, files: Path, peers: Path) -> Any:
    """Run one task of `work` in a fresh process and return its JSON output."""
    command = [sys.executable, str(HERE), "--work", task, str(files), str(peers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def work(task: str, files: str, peers: str) -> int:
    """A task of a child process: ``accuracy``, ``time`` or ``many``, of ``ours`` or ``peer``."""
    task, who = task.split("-")
    read = reader(who, peers, eager=task == "accuracy")
    folder = Path(files)
    if task == "many":
        paths = sorted(folder.iterdir())
    else:
        paths = [folder / json.loads(line)["file"] for line in (folder / "expected.jsonl").open()]
    answers: dict[str, Any] = {}
    if task == "accuracy":
        for path in paths:
            answers[str(path)] = guarded(lambda path=path: read(path))
    elif task == "time":
        for path in paths[::7]:
            guarded(lambda path=path: read(path))
        for path in paths:
            # Without an alarm against hangs, which would add to the measured time.
            start = time.process_time_ns()
            try:
                read(path)
            except Exception as error:
                print(f"{path}: {error!r}", file=sys.stderr)
            answers[str(path)] = time.process_time_ns() - start
    else:
        start = time.perf_counter()
        for path in paths:
            guarded(lambda path=path: read(path))
        seconds = time.perf_counter() - start
        answers = {"seconds": seconds, "busy": time.process_time(), "peak": peak()}
    print(json.dumps(answers))
    return 0


def reader(who: str, peers: str, eager: bool) -> Callable[[Path], list[str | None]]:
    """A function from a file to the prompts found; the first is the answer."""
    from PIL import Image

    Image.init()
    if who == "ours":
        from unprompt.reading import read

        def ours(path: Path) -> list[str | None]:
            reading = read(path)
            return [reading.prompt if reading else None]

        return ours
    sys.path.insert(0, peers)
    from sd_parsers import Eagerness, ParserManager

    manager = ParserManager(eagerness=Eagerness.EAGER if eager else Eagerness.DEFAULT)

    def peer(path: Path) -> list[str | None]:
        info = manager.parse(path)
        if info is None:
            return [None]
        whole = info.full_prompt
        return [*(whole if isinstance(whole, list) else [whole]), *map(str, info.prompts)]

    return peer


def guarded(call: Callable[[], Any]) -> Any:
    """The answer, or the name of the exception; more than 5 seconds is a TimeoutError."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(5)
    try:
        return call()
    except Exception as error:
        return {"failure": type(error).__name__}
    finally:
        signal.alarm(0)


def accuracy(rows: list[dict[str, Any]], files: Path, peers: Path) -> None:
    right: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    failures: dict[str, list[str]] = {"ours": [], "peer": []}
    for who in ("ours", "peer"):
        answers = child(f"accuracy-{who}", files, peers)
        for row in rows:
            answer = answers[str(files / row["file"])]
            if isinstance(answer, dict):
                failures[who].append(f"{row['file']}: {answer['failure']}")
                answer = [None]
            if not row["ambiguous"]:
                right[row["generator"]][who] += is_right(row, answer)
                right[row["generator"]]["of"] += who == "ours"
    print("\naccuracy, right of unambiguous rows     ours  sd-parsers")
    for generator, counts in right.items():
        print(
            f"  {generator:20} of {counts['of']:3}        {counts['ours']:3}   {counts['peer']:3}"
        )
    totals = {key: sum(counts[key] for counts in right.values()) for key in ("of", "ours", "peer")}
    print(
        f"  {'all':20} of {totals['of']:3}        {totals['ours']:3}   {totals['peer']:3}   "
        f"({100 * totals['ours'] / totals['of']:.1f} % and "
        f"{100 * totals['peer'] / totals['of']:.1f} %)"
    )
    worse = [name for name, counts in right.items() if counts["ours"] < counts["peer"]]
    print(f"  generators where sd-parsers is better: {', '.join(worse) or 'none'}")
    for who, listed in failures.items():
        print(f"  crashes and hangs, {who}: {'; '.join(listed) or 'none'}")


def is_right(row: dict[str, Any], answer: list[str | None]) -> bool:
    if row["prompt"] is None:
        return not any(bare(text) for text in answer)
    wanted = {bare(text) for text in (row["prompt"], *(row.get("prompt_alt") or ()))}
    return any(bare(text) in wanted for text in answer)


def bare(text: str | None) -> str:
    return (text or "").strip(" \t\r\n,")


def speed(rows: list[dict[str, Any]], files: Path, peers: Path, rounds: int) -> None:
    """Alternate the readers, so that other load on the machine affects both."""
    runs: dict[str, list[dict[str, int]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for who in runs:
            runs[who].append(child(f"time-{who}", files, peers))
    times = {
        who: {name: statistics.median(run[name] for run in listed) / 1e6 for name in listed[0]}
        for who, listed in runs.items()
    }
    headers = [
        str(files / row["file"])
        for row in rows
        if row["prompt"] is not None and "stealth" not in str(row.get("note", "") + row["file"])
    ]
    groups = defaultdict(list)
    for name in headers:
        groups[Path(name).parent.name].append(name)
    print(
        f"\nms a file, median of {rounds} processes, prompt in a header   ours  sd-parsers  ratio"
    )
    for group, names in [*groups.items(), ("all", headers)]:
        ours = statistics.median(times["ours"][name] for name in names)
        peer = statistics.median(times["peer"][name] for name in names)
        each = statistics.median(times["peer"][n] / times["ours"][n] for n in names)
        print(
            f"  {group:20} {len(names):3} files   {ours:.3f}  {peer:.3f}   {peer / ours:.2f}x "
            f"(median of the ratios {each:.2f}x)"
        )


def hidden_texts() -> None:
    """Time the search for hidden texts, which must not exceed the time to decode the image."""
    from PIL import Image

    from unprompt.reading import read

    noise = Image.effect_noise((1024, 1024), 60)
    pictures = {
        "RGBA, opaque": Image.merge("RGBA", [noise] * 3 + [Image.new("L", noise.size, 255)]),
        "RGBA, noise": Image.merge("RGBA", [noise] * 4),
        "RGB": Image.merge("RGB", [noise] * 3),
    }
    print("\n1024 x 1024 without a prompt, ms     ours  decoding  ratio")
    for name, image in pictures.items():
        file = io.BytesIO()
        image.save(file, "PNG")
        data = file.getvalue()

        def decode(data: bytes = data) -> None:
            Image.open(io.BytesIO(data)).load()

        ours, plain = (
            statistics.median(timed(call) for _ in range(9))
            for call in (lambda data=data: read(data), decode)
        )
        print(f"  PNG {name:14} {ours * 1e3:14.2f} {plain * 1e3:8.1f}   {plain / ours:.0f}x")


def timed(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def many_files(
    rows: list[dict[str, Any]], files: Path, folder: Path, peers: Path, many: int
) -> None:
    """Run `unprompt read DIR` on hard links to the samples: files per second and memory."""
    program = str(Path(sys.executable).with_name("unprompt"))
    sources = [folder / f"{number}{Path(row['file']).suffix}" for number, row in enumerate(rows)]
    for row, source in zip(rows, sources, strict=True):
        source.write_bytes((files / row["file"]).read_bytes())
    print(f"\n`unprompt read --format json -r DIR`, hard links to the {len(rows)} samples")
    for layout in ("flat", "nested"):
        for count in (many // 10, many, 4 * many):
            place = folder / layout / str(count)
            for number in range(count):
                source = sources[number % len(sources)]
                within = f"{number % 7}/{number % 97}" if layout == "nested" else ""
                link = place / within / f"{number:06}{source.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.hardlink_to(source)
            command = [program, "read", "--format", "json", "-r", str(place)]
            seconds, busy, peaks = watched(command)
            print(
                f"  {count:6,} files, {layout:6} {seconds:6.1f} s, {count / seconds:5.0f} files/s, "
                f"{busy:5.1f} s of processor time, peak memory: {peaks}"
            )
    for who, name in (("ours", "read() in a loop"), ("peer", "sd-parsers in a loop")):
        found = child(f"many-{who}", folder / "flat" / str(many), peers)
        print(
            f"  {many:6,} files, {name}: {many / found['seconds']:.0f} files/s, "
            f"{found['busy']:.1f} s of processor time, peak memory {found['peak']:.0f} MB"
        )


def watched(command: list[str]) -> tuple[float, float, str]:
    """Wall time in seconds, processor time in seconds, and peak memory of a command in text.

    Memory includes children: the proportional set size of all, sampled every 100 ms, which counts
    shared memory once, and the peak resident size of the first process and of the largest child.
    """
    start, most, busy = time.perf_counter(), 0.0, children_time()
    resident: dict[int, float] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            members = family(process.pid)
            most = max(most, sum(memory(pid, "smaps_rollup", "Pss:") for pid in members))
            for pid in members:
                resident[pid] = max(resident.get(pid, 0.0), memory(pid, "status", "VmHWM:"))
            time.sleep(0.1)
    if process.returncode not in (0, 1):
        raise subprocess.CalledProcessError(process.returncode, command)
    first = resident.pop(process.pid)
    shown = f"{most:.0f} MB of all, {first:.0f} of the first"
    if resident:
        shown += f", {max(resident.values()):.0f} of each of {len(resident)} more"
    return time.perf_counter() - start, children_time() - busy, shown


def children_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(one for child in children for one in family(int(child)))]


def memory(pid: int, file: str, key: str) -> float:
    """A value of /proc in MB."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # the process has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.exit(main())
