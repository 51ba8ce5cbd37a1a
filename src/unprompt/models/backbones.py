"""Image backbones of three libraries with one interface: normalised pixels in, features out.

The names of backbones:

- ``timm/NAME``: any timm model.
- ``hf/ID_OR_DIR``: any vision model of transformers, or the image tower of a CLIP or SigLIP.
- ``hf_clip/ID_OR_DIR``: CLIP's image tower with its projection into the space shared with texts.
- ``open_clip/NAME``: an open_clip image tower with its projection; see
  `unprompt.models.model_names`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unprompt.errors import ModelNotFoundError, UnpromptError
from unprompt.models.class_token import only_class_token
from unprompt.models.model_folder import OPEN_CLIP_CONFIG_FILE, damaged, hub_errors, read_json
from unprompt.models.model_names import OpenClipName, split_library
from unprompt.models.positions import at_size
from unprompt.models.preprocessing import Preprocessing
from unprompt.models.pretrained import load_pretrained


@dataclass(frozen=True)
class BackboneConfig:
    """The name and architecture of a backbone; they suffice to build it with random weights.

    Attributes:
        name: ``timm/…``, ``hf/…``, ``hf_clip/…`` or ``open_clip/…``.
        arguments: for timm, the keyword arguments of ``create_model``; for the other libraries, the
            model's own configuration, which is filled in when the pretrained model is loaded.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


class Backbone(nn.Module):
    """An image tower. Of its network's outputs, only the pooled features may be used.

    `unprompt.models.class_token` explains why.

    Attributes:
        config: builds the same architecture again.
        preprocessing: the input that the pretrained weights expect.
        dim: width of the features.
    """

    def __init__(
        self,
        network: nn.Module,
        pool: Callable[[Any], torch.Tensor],
        config: BackboneConfig,
        preprocessing: Preprocessing,
    ):
        super().__init__()
        only_class_token(network)
        self.network = network
        self.config = config
        self.preprocessing = preprocessing
        self._pool = pool
        self.dim = self._probe()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels of shape (batch, 3, size, size) to features (batch, dim)."""
        return self._pool(self.network(pixels))

    @torch.no_grad()
    def _probe(self) -> int:
        training = self.network.training
        size = self.preprocessing.size
        width = self.eval()(torch.zeros(1, 3, size, size)).shape[1]
        self.train(training)
        return int(width)


def create_backbone(
    config: BackboneConfig,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    size: int | None = None,
) -> Backbone:
    """Build a backbone by name.

    Args:
        config: name and arguments.
        pretrained: load the weights of that name from the local hub cache or the hub; otherwise
            the weights are random.
        checkpoint: a file to load the weights from instead (``.safetensors``, or ``.pt``/``.bin``
            read with ``weights_only=True``), for timm only. Its classifier is not loaded.
        size: side of the input in pixels; by default that of the pretrained model.

    Raises:
        ModelNotFoundError: the library does not know the name, or the weights cannot be found or
            downloaded.
        UnpromptError: the name has no known prefix, or the checkpoint does not fit.
    """
    library, name = split_library(config.name)
    if library not in _LIBRARIES or not name:
        known = ", ".join(f"{prefix}/…" for prefix in _LIBRARIES)
        raise UnpromptError(f"backbone '{config.name}': must be one of {known}")
    if checkpoint is not None:
        if library != "timm":
            raise UnpromptError(
                f"backbone '{config.name}': a checkpoint file works with timm/… only; "
                f"give {library}/ the folder of the model instead"
            )
        if not Path(checkpoint).is_file():
            raise ModelNotFoundError(f"backbone checkpoint {checkpoint}: no such file")
    with _library_errors(config.name, checkpoint):
        return _LIBRARIES[library](_Wanted(name, config, pretrained, checkpoint, size))


def load_classifier(
    config: BackboneConfig, pretrained: bool = True, checkpoint: str | Path | None = None
) -> nn.Linear:
    """Load the linear classifier, from features to logits, that a timm backbone was trained with.

    Args:
        config: name and arguments of the backbone.
        pretrained: load timm's weights; otherwise they are random.
        checkpoint: a file to load the weights from instead; it holds backbone and classifier.

    Raises:
        ModelNotFoundError: there are no such weights.
        UnpromptError: the backbone is not from timm, or it has no linear classifier.
    """
    import timm

    library, name = split_library(config.name)
    if library != "timm":
        raise UnpromptError(f"backbone '{config.name}': only backbones of timm have a classifier")
    with _library_errors(config.name, checkpoint):
        network: Any = timm.create_model(
            name, pretrained=pretrained and checkpoint is None, **config.arguments
        )
        if checkpoint is not None:
            _load_checkpoint(network, checkpoint)
    classifier = network.get_classifier()
    if not isinstance(classifier, nn.Linear):
        raise UnpromptError(f"backbone '{config.name}' has no linear classifier")
    return classifier


@dataclass(frozen=True)
class _Wanted:
    """The arguments of `create_backbone`, with the name without its library."""

    name: str
    config: BackboneConfig
    pretrained: bool
    checkpoint: str | Path | None
    size: int | None


def _timm(wanted: _Wanted) -> Backbone:
    import timm
    from timm.data import resolve_model_data_config

    name, checkpoint, size = wanted.name, wanted.checkpoint, wanted.size
    arguments = dict(wanted.config.arguments)
    if not timm.is_model(name.split(".")[0]):
        raise _unknown(wanted.config.name, name, timm.list_models())
    stated = timm.get_pretrained_cfg(name)
    if size is not None and stated is not None and stated.fixed_input_size:
        arguments.setdefault("img_size", size)
    network = timm.create_model(
        name, pretrained=wanted.pretrained and checkpoint is None, num_classes=0, **arguments
    )
    if checkpoint is not None:
        _load_checkpoint(network, checkpoint)
    data = resolve_model_data_config(network)
    preprocessing = Preprocessing(
        size=size or data["input_size"][1],
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
    )
    return Backbone(network, _first, replace(wanted.config, arguments=arguments), preprocessing)


def _load_checkpoint(network: nn.Module, checkpoint: str | Path) -> None:
    """Load a checkpoint of timm, or one that timm can rename and resize.

    timm's own loading leaves missing weights random; here a missing weight is an error.
    """
    from timm.models import load_state_dict

    weights = load_state_dict(str(checkpoint), weights_only=True)
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    if adapt is not None:
        weights = adapt(weights, network)
    missing = network.load_state_dict(weights, strict=False).missing_keys
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing:
        raise UnpromptError(
            f"{checkpoint} does not fit {type(network).__name__}: it lacks {len(missing)} of "
            f"{len(network.state_dict())} tensors, {missing[0]} for example; name the backbone "
            "that the file was made for"
        )


def _hf(wanted: _Wanted) -> Backbone:
    from transformers import MODEL_MAPPING, AutoConfig, AutoModel

    size, settings = wanted.size, _stated_settings(wanted)
    if settings is None:
        settings = AutoConfig.from_pretrained(wanted.name)
        settings = getattr(settings, "vision_config", settings)
    if wanted.pretrained:
        architecture: Any = MODEL_MAPPING[type(settings)]
        network = architecture.from_pretrained(wanted.name, config=settings)
        if size not in (None, getattr(settings, "image_size", None)):
            network = at_size(network, size)
            settings = network.config
    else:
        if size is not None and hasattr(settings, "image_size"):
            settings.image_size = size
        network = AutoModel.from_config(settings)
    return _hf_backbone(network, _pooled, settings, wanted)


def _hf_clip(wanted: _Wanted) -> Backbone:
    from transformers import AutoConfig, CLIPVisionModelWithProjection

    name, settings = wanted.name, _stated_settings(wanted)
    if settings is None:
        whole = AutoConfig.from_pretrained(name)
        if whole.model_type != "clip":
            raise UnpromptError(
                f"backbone 'hf_clip/{name}' is a {whole.model_type}, not a CLIP; name it hf/{name}"
            )
        settings = whole.vision_config
        settings.projection_dim = whole.projection_dim
    if wanted.pretrained:
        network = load_pretrained(
            CLIPVisionModelWithProjection, name, config=settings, dtype=torch.float32
        )
    else:
        settings.image_size = wanted.size or settings.image_size
        network = CLIPVisionModelWithProjection(settings)
    return _hf_backbone(network, _projected, settings, wanted)


def _stated_settings(wanted: _Wanted) -> Any:
    """The configuration of transformers in the arguments, or None."""
    from transformers import AutoConfig

    stated = dict(wanted.config.arguments)
    return AutoConfig.for_model(stated.pop("model_type"), **stated) if stated else None


def _hf_backbone(
    network: Any, pool: Callable[[Any], torch.Tensor], settings: Any, wanted: _Wanted
) -> Backbone:
    from transformers import AutoImageProcessor

    arguments = settings.to_diff_dict() | {"model_type": settings.model_type}
    side = wanted.size or int(getattr(settings, "image_size", None) or 224)
    preprocessing = Preprocessing(size=side)
    # A repository without a processor gets ImageNet's values.
    with suppress(OSError, ValueError):
        if wanted.pretrained:
            processor = AutoImageProcessor.from_pretrained(wanted.name)
            mean = getattr(processor, "image_mean", None) or preprocessing.mean
            std = getattr(processor, "image_std", None) or preprocessing.std
            preprocessing = replace(preprocessing, mean=tuple(mean), std=tuple(std))
    return Backbone(network, pool, replace(wanted.config, arguments=arguments), preprocessing)


def _open_clip(wanted: _Wanted) -> Backbone:
    import open_clip
    from open_clip.transformer import QuickGELU

    parsed, config, size = OpenClipName.parse(wanted.name), wanted.config, wanted.size
    if parsed.source == "architecture" and not config.arguments:
        open_clip_config(parsed)  # its error names the architectures with similar names
    if wanted.pretrained:
        visual: nn.Module = open_clip.create_model(
            parsed.model,
            pretrained=parsed.weights,
            force_image_size=size,
            require_pretrained=True,
        ).visual
        stated = open_clip_config(parsed)
    else:
        stated = config.arguments or open_clip_config(parsed)
        vision = dict(stated["vision_cfg"]) | ({"image_size": size} if size else {})
        visual = open_clip.CLIP(
            embed_dim=stated["embed_dim"],
            vision_cfg=open_clip.CLIPVisionCfg(**vision),
            text_cfg=open_clip.CLIPTextCfg(vocab_size=8, width=8, heads=1, layers=1),
            quick_gelu=stated.get("quick_gelu", False),
        ).visual
    image_size: Any = visual.image_size
    side = int(image_size[0] if isinstance(image_size, tuple) else image_size)
    arguments = {
        "embed_dim": stated["embed_dim"],
        "vision_cfg": dict(stated["vision_cfg"]) | {"image_size": side},
        "quick_gelu": any(isinstance(module, QuickGELU) for module in visual.modules()),
    }
    preprocessing = Preprocessing(
        size=side,
        mean=tuple(getattr(visual, "image_mean", None) or open_clip.OPENAI_DATASET_MEAN),
        std=tuple(getattr(visual, "image_std", None) or open_clip.OPENAI_DATASET_STD),
    )
    return Backbone(visual, _first, replace(config, arguments=arguments), preprocessing)


def open_clip_config(name: OpenClipName) -> dict[str, Any]:
    """Read a model's configuration from open_clip, a folder or a hub repository.

    Args:
        name: names an architecture, a folder or a hub repository.

    Raises:
        ModelNotFoundError: open_clip knows no such architecture, or there is no such folder or
            repository.
        UnpromptError: the configuration is damaged.
    """
    import open_clip
    from huggingface_hub import hf_hub_download

    if name.source == "architecture":
        stated: dict[str, Any] | None = open_clip.get_model_config(name.place)
        if stated is None:
            raise _unknown(f"open_clip/{name}", name.place, open_clip.list_models())
        return stated
    file = Path(name.place) / OPEN_CLIP_CONFIG_FILE
    if name.source == "hf-hub":
        with hub_errors(f"open_clip/{name}"):
            file = Path(hf_hub_download(name.place, OPEN_CLIP_CONFIG_FILE))
    with damaged(file):
        return dict(read_json(file)["model_cfg"])


_LIBRARIES = {"timm": _timm, "hf": _hf, "hf_clip": _hf_clip, "open_clip": _open_clip}


def _first(output: Any) -> torch.Tensor:
    """The features of a tower that may also return its tokens."""
    features: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return features


def _projected(output: Any) -> torch.Tensor:
    features: torch.Tensor = output.image_embeds
    return features


def _pooled(output: Any) -> torch.Tensor:
    """The features of a transformers model: those of its pooler, else of its class token."""
    pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
    return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)


def _unknown(backbone: str, name: str, known: list[str]) -> UnpromptError:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; near: {', '.join(close)}" if close else ""
    return ModelNotFoundError(f"backbone '{backbone}': the library knows no such model{hint}")


@contextmanager
def _library_errors(name: str, checkpoint: str | Path | None) -> Iterator[None]:
    """Turn the libraries' errors, of many types, into ones that name backbone and checkpoint."""
    try:
        yield
    except UnpromptError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2]) if lines else type(error).__name__
        if checkpoint:
            raise UnpromptError(
                f"{checkpoint} does not fit the backbone '{name}': {reason}"
            ) from error
        raise ModelNotFoundError(
            f"backbone '{name}' could not be loaded: {reason}; check its name, arguments and size, "
            "and that its weights are on disk or the hub can be reached"
        ) from error
