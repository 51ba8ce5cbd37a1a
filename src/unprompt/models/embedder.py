"""The embedder: image → prompt embedding, as a backbone and a head."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.files import atomic_open, atomic_path
from unprompt.models.backbones import Backbone, BackboneConfig, create_backbone
from unprompt.models.devices import placed
from unprompt.models.heads import HeadConfig, create_head
from unprompt.models.preprocessing import Preprocessing

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "unprompt-embedder"


@dataclass(frozen=True)
class EmbedderConfig:
    """All that rebuilds an embedder, up to its weights.

    Attributes:
        backbone: name and architecture of the image tower.
        head: what stands on it.
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
        config: architecture of the head, and what the target is.
        backbone: the image tower.
        preprocessing: how images become its input; the backbone's own by default.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, config: EmbedderConfig, backbone: Backbone, preprocessing: Preprocessing | None = None
    ):
        super().__init__()
        # Not `config`: the Hugging Face trainer takes that for a transformers configuration.
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
            pixels: uint8 RGB of shape (batch, 3, size, size), as `Preprocessing` makes them;
                normalised here, on the model's device.

        Returns:
            float tensor of shape (batch, backbone.dim).
        """
        # In place, as a fresh float image costs more than the arithmetic: the system has to find
        # its memory page by page.
        normalised = pixels.to(self.mean.dtype, copy=True).sub_(self.mean).div_(self.std)
        return self.backbone(normalised.contiguous(memory_format=torch.channels_last))

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """Backbone features to unit-norm prompt embeddings, float32 of shape (batch, dim)."""
        return F.normalize(self.head(features).float(), dim=-1)

    def forward(self, pixels: torch.Tensor, normalise: bool = True) -> torch.Tensor:
        """Pixels as in `features` to prompt embeddings, float32 of shape (batch, dim).

        They have unit norm, unless ``normalise`` is false: then they are what the head gives.
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
            folder: made where missing.
            half: store matrices and kernels as float16, half the size; vectors (biases,
                statistics of batch norms) would save little and may leave float16's range.
            weights: written instead of the model's own, which are spread over processes.

        Raises:
            OutputError: the folder cannot be written; files there before stay as they were.
        """
        folder = Path(folder)
        with atomic_path(folder / WEIGHTS_FILE) as path:
            stored = {
                name: (value.half() if half and _is_matrix(value) else value).contiguous()
                for name, value in (weights or self.state_dict()).items()
            }
            save_file(stored, path, metadata={"format": "pt"})
        self.preprocessing.save(folder)
        with atomic_open(folder / CONFIG_FILE) as file:
            json.dump({"model_type": MODEL_TYPE} | asdict(self.architecture), file, indent=2)
            file.write("\n")

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path, device: str = "cpu") -> Embedder:
        """Load from a folder written by `save_pretrained`, or from a hub repository.

        Returns:
            The embedder in evaluation mode.

        Raises:
            ModelNotFoundError: no such folder, nor a hub repository within reach.
            UnpromptError: the folder holds another kind of model, or its weights do not fit.
        """
        folder = _folder(name_or_folder)
        try:
            stated = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ModelNotFoundError(f"{folder / CONFIG_FILE} is missing: not a model") from None
        except ValueError as error:
            raise UnpromptError(f"{folder / CONFIG_FILE} is damaged: {error}") from error
        if not isinstance(stated, dict) or stated.pop("model_type", None) != MODEL_TYPE:
            raise UnpromptError(f"{folder}: not an embedder (model_type is not '{MODEL_TYPE}')")
        try:
            parts = {
                "backbone": BackboneConfig(**stated["backbone"]),
                "head": HeadConfig(**stated["head"]),
            }
            config = EmbedderConfig(**stated | parts)
        except (KeyError, TypeError) as error:
            raise UnpromptError(f"{folder / CONFIG_FILE}: not a whole embedder: {error}") from error
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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"model '{name}': no such folder, and not to be had from the hub "
            f"({type(error).__name__})"
        ) from error
