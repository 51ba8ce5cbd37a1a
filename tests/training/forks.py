"""Runs recipes in forks of one process, kills some, and writes down every step of each.

A process of its own, started with one JSON argument: a list of calls, each
``{"recipe": path, "log": path, "then": {step: what}}``. ``what`` happens after that step: ``kill``
(SIGKILL), ``term`` (SIGTERM) or ``full`` (no file may grow beyond 64 kB from then on: what a full
disk does, without filling one). With ``"seconds": s`` the call is killed after so long, wherever it
is. Under torchrun it is the process itself that runs, and each process has a log of its own;
``"shard_on_cpu": true`` lets accelerate shard a model (FSDP) over them, which it does on GPUs only,
though torch shards on any device.
Prints the exit status of each call, as `os.waitstatus_to_exitcode` gives it.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from transformers import TrainerCallback

from unprompt.errors import UnpromptError
from unprompt.training import trainer
from unprompt.training.recipe import load_recipe
from unprompt.training.run import train

ROOT = Path(__file__).parents[2]
LAZY = ("matplotlib.backends.backend_agg", "peft", "timm.data.auto_augment", "timm.optim")
"""What a run imports as it comes to it; imported once here, each fork has it already."""


class Then(TrainerCallback):
    def __init__(self, events: dict[str, str]):
        self._events = events

    def on_step_end(self, args, state, control, **kwargs) -> None:
        what = self._events.get(str(state.global_step))
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        elif what == "full":
            sys.dont_write_bytecode = True  # Python would keep modules cut short
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))


def watch(log: str, events: dict[str, str]) -> None:
    """Let the trainer write down rows and loss of each batch, and do what is to happen."""
    step, init = trainer.RunTrainer.training_step, trainer.RunTrainer.__init__

    def training_step(self, model, inputs, *further):
        rows = [int(row) for row in inputs["row"]]
        loss = step(self, model, inputs, *further)
        entry = [self.state.global_step + 1, rows, loss.item().hex()]
        with Path(log).open("a") as file:
            file.write(json.dumps(entry) + "\n")
        return loss

    def start(self, *arguments, **further):
        init(self, *arguments, **further)
        self.add_callback(Then(events))

    trainer.RunTrainer.training_step, trainer.RunTrainer.__init__ = training_step, start


def shard_on_cpu() -> None:
    """Let accelerate take a CPU for a device that it shards on; the sharding is torch's own."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    init = AcceleratorState.__init__

    def start(self, *arguments, fsdp_plugin=None, **further):
        init(self, *arguments, fsdp_plugin=fsdp_plugin, **further)
        fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = start


def run(call: dict) -> int:
    child = 0 if "RANK" in os.environ else os.fork()
    if child:
        if "seconds" in call:
            time.sleep(call["seconds"])
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 0
    try:
        watch(call["log"] + os.environ.get("RANK", ""), call.get("then", {}))
        if call.get("shard_on_cpu"):
            shard_on_cpu()
        train(load_recipe(call["recipe"]))
    except UnpromptError as error:
        sys.stderr.write(f"{error}\n")
        code = error.exit_code
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        sys.stderr.flush()
        os._exit(code)


def fork(calls: list[dict]) -> tuple[list[int], str]:
    """Have a process make the calls: what it prints, and its errors."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.forks", json.dumps(calls)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


if __name__ == "__main__":
    for name in LAZY:
        importlib.import_module(name)
    sys.stdout.write(json.dumps([run(call) for call in json.loads(sys.argv[1])]))
