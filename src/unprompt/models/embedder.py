"""The embedder: image → prompt embedding, as a backbone and a head."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from unprompt.devices import placed
from unprompt.errors import UnpromptError
from unprompt.files import atomic_path, write_json
from unprompt.models.backbones import Backbone, BackboneConfig, create_backbone
from unprompt.models.heads import HeadConfig, create_head
from unprompt.models.model_folder import (
    CONFIG_FILE,
    EMBEDDER_TYPE,
    WEIGHTS_FILE,
    damaged,
    hub_errors,
    read_json,
)
from unprompt.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class EmbedderConfig:
    """The architecture of an embedder; it suffices to build one with random weights.

    Attributes:
        backbone: name and architecture of the image tower.
        head: the head on its features.
        dim: width of the prompt embedding.
        encoder: the target encoder that the prompt embeddings come from.
    """

    backbone: BackboneConfig
    head: HeadConfig = field(default_factory=HeadConfig)
    dim: int = 384
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"


class Embedder(nn.Module):
    """A model from image to prompt embedding.

    Args:
        config: the architecture of the head, and the target encoder.
        backbone: the image tower.
        preprocessing: how images become the model's input; the backbone's own by default.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, config: EmbedderConfig, backbone: Backbone, preprocessing: Preprocessing | None = None
    ):
        super().__init__()
        # Not `config`: the Hugging Face trainer takes that for a configuration of transformers.
        self.architecture = replace(config, backbone=backbone.config)
        self.preprocessing = preprocessing or backbone.preprocessing
        self.backbone = backbone
        self.head = create_head(config.head, backbone.dim, config.dim)
        for name in ("mean", "std"):
            scale = torch.tensor(getattr(self.preprocessing, name)).view(3, 1, 1) * 255
            self.register_buffer(name, scale, persistent=False)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone features.

        Args:
            pixels: uint8 RGB of shape (batch, 3, size, size), from `Preprocessing`; they are
                normalised here, on the model's device.

        Returns:
            float tensor of shape (batch, backbone.dim).
        """
        # In place: allocating another float image costs more than the arithmetic.
        normalised = pixels.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)
        return self.backbone(normalised.contiguous(memory_format=torch.channels_last))

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Backbone features to unit-norm prompt embeddings, float32 of shape (batch, dim)."""
        return F.normalize(self.head(features).float(), dim=-1)

    def forward(self, pixels: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Pixels (see `features`) to prompt embeddings, float32 of shape (batch, dim).

        The embeddings have unit norm; with ``normalise=False`` they have any norm.
        """
        features = self.features(pixels)
        outputs: torch.Tensor = self.embed(features) if normalise else self.head(features).float()
        return outputs

    def save_pretrained(
        self,
        folder: str | Path,
        half: bool = False,
        weights: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

        Args:
            folder: made if missing.
            half: store matrices and kernels as float16, half the size. Vectors (biases, statistics
                of batch norms) stay float32: they are small and may exceed float16's range.
            weights: weights to write instead of the model's own, for a model that is spread over
                processes.

        Raises:
            OutputError: the folder cannot be written; existing files stay as they are.
        """
        folder = Path(folder)
        with atomic_path(folder / WEIGHTS_FILE) as path:
            stored = {
                name: (value.half() if half and _is_matrix(value) else value).contiguous()
                for name, value in (weights or self.state_dict()).items()
            }
            save_file(stored, path, metadata={"format": "pt"})
        self.preprocessing.save(folder)
        stated = {"model_type": EMBEDDER_TYPE} | asdict(self.architecture)
        write_json(folder / CONFIG_FILE, stated)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device: str = "cpu") -> Embedder:
        """Load from a folder written by `save_pretrained`, or from a hub repository.

        Returns:
            The embedder in evaluation mode.

        Raises:
            ModelNotFoundError: there is no such folder, and the hub has no such model or cannot be
                reached.
            UnpromptError: the folder holds another type of model, or its weights do not fit.
        """
        folder = _folder(name_or_folder)
        path = folder / CONFIG_FILE
        stated = read_json(path)
        if stated.pop("model_type", None) != EMBEDDER_TYPE:
            raise UnpromptError(f"{folder} is not an embedder (model_type is not {EMBEDDER_TYPE})")
        with damaged(path):
            parts = {
                "backbone": BackboneConfig(**stated["backbone"]),
                "head": HeadConfig(**stated["head"]),
            }
            config = EmbedderConfig(**stated | parts)
        preprocessing = Preprocessing.load(folder)
        backbone = create_backbone(config.backbone, pretrained=False, size=preprocessing.size)
        model = cls(config, backbone, preprocessing)
        try:
            model.load_state_dict(load_file(folder / WEIGHTS_FILE))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())
            raise UnpromptError(f"{folder / WEIGHTS_FILE} does not fit: {reason}") from error
        return placed(model, device)


def _is_matrix(value: torch.Tensor) -> bool:
    return value.ndim > 1 and value.is_floating_point()


def _folder(name: str | Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with hub_errors(str(name)):
        return Path(snapshot_download(str(name)))
