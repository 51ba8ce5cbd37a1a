"""What happens between a run's steps: log, looks, seeds, and a stop that loses nothing."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState

from unprompt.files import atomic_open
from unprompt.training.data.sampling import PairSampler
from unprompt.training.recipe_sections import Schedule

LOG_FILE = "metrics.jsonl"
_PROCESSES_ASK_EVERY = 10
"""Steps after which the processes of a distributed run ask each other whether to stop."""


class RunLog(TrainerCallback):
    """Appends every logged value to ``metrics.jsonl`` and prints evaluations to standard error."""

    def __init__(self, path: Path):
        self._path = path

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Drop what a killed call logged after its last checkpoint: those steps come again."""
        if not state.is_world_process_zero or not self._path.exists():
            return
        with atomic_open(self._path) as file:
            for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
                # The kill may have cut off the last line.
                if line.endswith("\n") and json.loads(line)["step"] <= state.global_step:
                    file.write(line)

    def on_log(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
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
    """Evaluates after the last step too, saves as often as asked, and ends what gains no more."""

    def __init__(self, schedule: Schedule):
        self._schedule = schedule

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Look and save; log with each checkpoint, so that a run that goes on logs the same."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        every = self._schedule.save_every
        if every and state.global_step % every == 0:
            control.should_save = True
        if control.should_save:
            control.should_log = True

    def on_save(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stop early where the recipe says so; a look has just been judged."""
        if stopped_improving(state, self._schedule.patience, args.eval_steps):
            control.should_training_stop = True


def stopped_improving(state: TrainerState, patience: int, interval: float | None) -> bool:
    """Whether the last ``patience`` looks, ``interval`` steps apart, were none of them the best."""
    if not patience or not interval or state.best_global_step is None:
        return False
    return state.global_step - state.best_global_step >= patience * interval


class Seeds(TrainerCallback):
    """Makes the randomness of each step a function of the seed, the step and the process.

    So a run that goes on from a checkpoint draws what it would have drawn, whatever was drawn
    elsewhere in between.
    """

    def __init__(self, seed: int, sampler: PairSampler | None, steps_per_epoch: int):
        self._seed = seed
        self._sampler = sampler
        self._steps_per_epoch = steps_per_epoch

    def on_epoch_begin(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """The order of this epoch, for samplers that draw from torch's generator, and for ours.

        The trainer itself forgets to tell a sampler its epoch in one case: distributed, and going
        on in the middle of an epoch.
        """
        epoch = state.global_step // self._steps_per_epoch
        # All processes draw the same order.
        _seed(self._seed, -1 - epoch, 0)
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def on_step_begin(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Dropout and the like."""
        _seed(self._seed, state.global_step, args.process_index)


def _seed(*words: int) -> None:
    # An odd multiplier for each word spreads neighbours over all seeds (Knuth 1997, 6.4).
    factors = torch.tensor([-7046029254386353131, -4417276706812531889, 1609587929392839161])
    torch.manual_seed(int((torch.tensor(words) * factors).sum()))


class StopOnSignal(TrainerCallback):
    """Ends a run after the step under way, with a checkpoint, on SIGTERM or Ctrl-C.

    A second Ctrl-C stops at once.

    Attributes:
        received: the signal, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Listen; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.release()

    def release(self) -> None:
        """Give the signals back to whom they belonged."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def on_step_end(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Save and stop where a signal came, in all processes after the same step."""
        received = self.received
        if args.world_size > 1:
            if state.global_step % _PROCESSES_ASK_EVERY:
                return
            asked = torch.tensor(received, device=args.device)
            distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
            received = self.received = int(asked)
        if received:
            control.should_save = control.should_log = control.should_training_stop = True

    def on_train_end(
        self,
        args: transformers.TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Stop listening."""
        self.release()
