"""Callbacks of a run: the log, evaluations and checkpoints, seeds, and a stop by a signal."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State

from unprompt.files import atomic_open
from unprompt.training.data.sampling import EpochSampler
from unprompt.training.recipe_sections import Schedule

_CHECK_EVERY = 10
"""Steps between the checks of a distributed run whether one of its processes got a signal."""


class RunLog(TrainerCallback):
    """Appends every logged value to ``metrics.jsonl`` and prints evaluations to standard error."""

    def __init__(self, path: Path):
        self._path = path

    def on_train_begin(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Drop what a killed call logged after its last checkpoint; those steps are repeated."""
        if not state.is_world_process_zero or not self._path.exists():
            return
        with atomic_open(self._path) as file:
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # The kill may have cut off the last line.
                if line.endswith("\n") and json.loads(line)["step"] <= state.global_step:
                    file.write(line)

    def on_log(self, args: Any, state: State, control: Control, logs: Any = None, **_: Any) -> None:
        """One JSON object a line: step, epoch and the values."""
        if not state.is_world_process_zero:
            return
        entry = {"step": state.global_step, **(logs or {})}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if logs and "eval_cosine" in logs:
            sys.stderr.write(
                f"step {state.global_step}/{state.max_steps}: "
                f"cosine on val {logs['eval_cosine']:.4f}\n"
            )


class Evaluations(TrainerCallback):
    """Evaluates after the last step too, saves every ``save_every`` steps, and stops early."""

    def __init__(self, schedule: Schedule):
        self._schedule = schedule

    def on_step_end(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Evaluate and save; log with each checkpoint, so that a resumed run has the same log."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        every = self._schedule.save_every
        if every and state.global_step % every == 0:
            control.should_save = True
        if control.should_save:
            control.should_log = True

    def on_save(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Stop early where the recipe says so; the evaluation before is in the state by now."""
        if stopped_improving(state, self._schedule.patience, args.eval_steps):
            control.should_training_stop = True


def stopped_improving(state: State, patience: int, interval: float | None) -> bool:
    """Whether none of the last ``patience`` evaluations, ``interval`` steps apart, was the best."""
    if not patience or not interval or state.best_global_step is None:
        return False
    return state.global_step - state.best_global_step >= patience * interval


class Seeds(TrainerCallback):
    """Makes the randomness of each step a function of the seed, the step and the process.

    So a resumed run draws the same random numbers as an unbroken one.
    """

    def __init__(self, seed: int, sampler: EpochSampler, steps_per_epoch: int):
        self._seed = seed
        self._sampler = sampler
        self._steps_per_epoch = steps_per_epoch

    def on_epoch_begin(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Set the epoch of the sampler, and the seed of samplers that use torch's generator.

        The trainer itself does not set the epoch if a distributed run resumes within an epoch.
        """
        epoch = state.global_step // self._steps_per_epoch
        # The same in all processes.
        _seed(self._seed, -1 - epoch, 0)
        self._sampler.set_epoch(epoch)

    def on_step_begin(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Set the seed of dropout and other random layers."""
        _seed(self._seed, state.global_step, args.process_index)


def _seed(*words: int) -> None:
    # An odd multiplier for each word spreads neighbours over all seeds (Knuth 1997, 6.4).
    factors = torch.tensor([-7046029254386353131, -4417276706812531889, 1609587929392839161])
    torch.manual_seed(int((torch.tensor(words) * factors).sum()))


class StopOnSignal(TrainerCallback):
    """Ends a run on SIGTERM or Ctrl-C, after the current step and with a checkpoint.

    A second Ctrl-C stops at once.

    Attributes:
        received: the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Install the handlers; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.release()

    def release(self) -> None:
        """Restore the former handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_step_end(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Save and stop after a signal, in all processes after the same step."""
        received = self.received
        if args.world_size > 1:
            if state.global_step % _CHECK_EVERY:
                return
            asked = torch.tensor(received, device=args.device)
            distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
            received = self.received = int(asked)
        if received:
            control.should_save = control.should_log = control.should_training_stop = True

    def on_train_end(self, args: Any, state: State, control: Control, **_: Any) -> None:
        """Restore the former handlers."""
        self.release()
