"""An encoder's network on torch, in fp32 or bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from unprompt.devices import one_core_a_thread
from unprompt.encoding.encoder_config import EncoderConfig, EncoderError
from unprompt.errors import MissingExtraError
from unprompt.parallel import Item, Result, cores, in_order

if TYPE_CHECKING:
    import torch

MAX_TOKENS_CPU = 2048
"""Most tokens in a batch; each core runs its own batches, and small ones keep all cores busy."""

MAX_TOKENS_CUDA = 65_536


def load_network(config: EncoderConfig, dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Load the transformer of a model folder, in evaluation mode.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        EncoderError: the weights cannot be loaded, or the model needs code from the hub.
    """
    try:
        import torch
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtraError("torch and transformers", "train") from error

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        network = AutoModel.from_pretrained(
            config.weights_folder,
            dtype=dtype or torch.float32,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise EncoderError(
            f"{config.weights_folder}: the weights cannot be loaded ({error})"
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    return network.eval()


def multiplies_in_bf16(device: str) -> bool:
    """Whether a device has instructions for products in bf16. Without them bf16 is slow.

    On x86 these are AVX512-BF16 and AMX; CUDA needs compute capability 8.0.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # In the oldest supported torch, these checks have only private names.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in checks)


class TorchNetwork:
    """Token ids to pooled embeddings, not yet normalised, on torch.

    Args:
        config: the encoder.
        precision: ``fp32`` or ``bf16``.
        device: a torch device.
    """

    def __init__(self, config: EncoderConfig, precision: str, device: str):
        import torch

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self._device = torch.device(device)
        self._network: Any = load_network(config, dtype).to(self._device)
        self._pooling = config.pooling
        on_cpu = self._device.type == "cpu"
        self.max_tokens = MAX_TOKENS_CPU if on_cpu else MAX_TOKENS_CUDA
        self._workers = cores() if on_cpu else 1

    def in_order(self, task: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results of ``task``, one batch a core on a CPU."""
        with one_core_a_thread() as setup:
            yield from in_order(task, items, self._workers, setup)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Token ids, int64 of shape (n, length), to float32 of shape (n, dim)."""
        import torch

        with torch.inference_mode():
            tokens = torch.from_numpy(ids).to(self._device)
            hidden = self._network(input_ids=tokens).last_hidden_state
            pooled = hidden[:, 0].float() if self._pooling == "cls" else hidden.float().mean(1)
            return np.asarray(pooled.cpu().numpy())
