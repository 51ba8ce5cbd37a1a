"""Which type a model is, and how it is loaded: this module alone decides.

The type is recognised by a file in the model's folder (`BY_FILE`), by the ``model_type`` of its
``config.json``, in a folder or on the hub (`BY_TYPE`), or by the prefix of its name (`BY_PREFIX`).
Decoders are in none of the tables: a decoder is no model of its own but lies in the folder of one,
where `unprompt.predicting.bank_or_decoder` finds it.

Each loader imports the module that runs its models, so that the light install, which has no torch,
can load exported models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from unprompt.errors import ModelNotFoundError, UnpromptError, need
from unprompt.models.model_folder import (
    CONFIG_FILE,
    EMBEDDER_TYPE,
    ENSEMBLE_FILE,
    INTERROGATOR_FILE,
    KNN_FILE,
    ONNX_FILE,
    OPEN_CLIP_CONFIG_FILE,
    OPEN_CLIP_WEIGHT_FILES,
    hub_errors,
    read_json,
)
from unprompt.models.model_names import OpenClipName
from unprompt.predicting.options import OptionFields, PredictOptions
from unprompt.predicting.public_weights import advice

if TYPE_CHECKING:
    from unprompt.predicting.embedding_model import EmbeddingModel
    from unprompt.predicting.interrogator_model import Interrogator, InterrogatorConfig

BUILTIN = "builtin"
"""Name of the model that the package carries."""


def builtin_folder() -> Path:
    """The folder of the model that the package carries."""
    return Path(__file__).parent / BUILTIN


def folder_of(name: str | Path) -> Path:
    """The folder of a model's or bank's name, whether or not it exists."""
    return builtin_folder() if str(name) == BUILTIN else Path(name)


def load_model(
    name: str | Path = BUILTIN,
    options: PredictOptions | None = None,
    **fields: Unpack[OptionFields],
) -> EmbeddingModel:
    """Load a model.

    Args:
        name: ``builtin``, the folder of a model, a hub repository, or another library's name with
            its prefix, such as ``hf_clip/ID`` or ``open_clip/NAME:TAG``.
        options: how the model is run.
        fields: fields of the options to set, such as ``device="cpu"``.

    Raises:
        ModelNotFoundError: there is no such model. If `unprompt.predicting.public_weights` lists
            it, the message states its size and how to get it.
        MissingExtraError: the model needs torch, which is not installed.
        UnpromptError: the model's files are damaged, or its type is unknown.
    """
    options = replace(options or PredictOptions(), **fields)
    folder = folder_of(name)
    with advice(str(name)):
        if folder.is_dir():
            return _loader_of_folder(folder)(folder, str(name), options)
        return _loader_of_name(str(name))(name, str(name), options)


def load_models(names: Sequence[str | Path], options: PredictOptions) -> EmbeddingModel:
    """Load one model, or several as an ensemble.

    Raises:
        UnpromptError: see `load_model` and `EnsembleModel`; or there are weights for one model.
    """
    if len(names) == 1:
        if options.weights is not None:
            raise UnpromptError("weights need two models or more, but there is one")
        return load_model(names[0], options)
    from unprompt.predicting.ensemble_model import EnsembleModel

    return EnsembleModel([load_model(name, options) for name in names], options.weights)


def load_interrogator(
    config: InterrogatorConfig, name: str, folder: Path, options: PredictOptions
) -> Interrogator:
    """Load an interrogator: its CLIP, its captioner and the embeddings of its phrases.

    Embeddings that are not in the cache are computed.

    Args:
        config: the settings.
        name: the interrogator's name in its answers.
        folder: its folder.
        options: how it and its captioner are run.

    Raises:
        ModelNotFoundError: the CLIP or the captioner cannot be found or downloaded.
        MissingExtraError: torch is not installed.
        UnpromptError: the model named as captioner writes no prompts; or see `Interrogator`.
    """
    need("train", "torch", "transformers")
    from unprompt.models.image_towers import create_image_tower
    from unprompt.models.text_towers import create_text_tower
    from unprompt.predicting.captioner import Captioner
    from unprompt.predicting.interrogator_model import Interrogator

    captioner = None if config.captioner is None else load_model(config.captioner, options)
    if captioner is not None and not isinstance(captioner, Captioner):
        raise UnpromptError(f"model {config.captioner} writes no prompts: name a captioner")
    images = create_image_tower(config.clip, options.device)
    texts = create_text_tower(config.clip, images.device)
    return Interrogator(images, texts, config, captioner, name, folder)


Loader = Callable[["str | Path", str, PredictOptions], "EmbeddingModel"]
"""Loads a model from its folder or name; the second argument is its name in its answers."""


def _exported(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    from unprompt.predicting.embedding_model import OnnxModel

    return OnnxModel(Path(place), name)


def _embedder(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    need("train", "torch", "timm")
    from unprompt.predicting.embedding_model import TorchModel

    return TorchModel.load(place, name, options)


def _ensemble(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    from unprompt.predicting.ensemble_model import EnsembleModel, read_ensemble

    names, weights = read_ensemble(place)
    return EnsembleModel([load_model(one, options) for one in names], weights, name, Path(place))


def _knn(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    need("train", "torch", "transformers")
    from unprompt.predicting.knn_model import KnnModel

    return KnnModel.load(Path(place), name, options)


def _interrogator(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    from unprompt.predicting.interrogator_model import InterrogatorConfig

    return load_interrogator(InterrogatorConfig.load(place), name, Path(place), options)


def _clip(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    """Load a CLIP, named with the prefix of its library, as an interrogator."""
    from unprompt.predicting.interrogator_model import InterrogatorConfig

    return load_interrogator(InterrogatorConfig(str(place)), name, Path(name), options)


def _image_to_text(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    need("train", "torch", "transformers")
    from unprompt.predicting.image_to_text import ImageToText

    return ImageToText.load(place, name, options)


def _coca(place: str | Path | OpenClipName, name: str, options: PredictOptions) -> EmbeddingModel:
    need("train", "torch", "transformers")
    from unprompt.predicting.coca_captioner import CoCaCaptioner

    return CoCaCaptioner.load(place, name, options)


def _open_clip(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    """Load a CoCa as a captioner, and any other model of open_clip as an interrogator."""
    need("train", "torch", "open_clip")
    from unprompt.models.backbones import open_clip_config

    model = OpenClipName.parse(f"local-dir:{place}" if Path(place).is_dir() else str(place))
    if model.source != "file" and "multimodal_cfg" not in open_clip_config(model):
        return _clip(f"open_clip/{model}", name, options)
    return _coca(model, name, options)


def _open_clip_weights(place: str | Path, name: str, options: PredictOptions) -> EmbeddingModel:
    """Load a CoCa from a folder of weights without a configuration, as in LAION's repositories."""
    file = next(file for one in OPEN_CLIP_WEIGHT_FILES if (file := Path(place) / one).is_file())
    return _open_clip(file, name, options)


BY_FILE: dict[str, Loader] = {
    ONNX_FILE: _exported,
    ENSEMBLE_FILE: _ensemble,
    KNN_FILE: _knn,
    INTERROGATOR_FILE: _interrogator,
    OPEN_CLIP_CONFIG_FILE: _open_clip,
    **dict.fromkeys(OPEN_CLIP_WEIGHT_FILES, _open_clip_weights),
}
"""Loaders by a file in the model's folder; the first file that exists decides."""

BY_TYPE: dict[str, Loader] = {
    EMBEDDER_TYPE: _embedder,
    "coca": _coca,
    "blip": _image_to_text,
    "blip-2": _image_to_text,
    "git": _image_to_text,
    "vision-encoder-decoder": _image_to_text,
    "clip": lambda place, name, options: _clip(f"hf_clip/{place}", name, options),
    "siglip": lambda place, name, options: _clip(f"hf/{place}", name, options),
}
"""Loaders by the ``model_type`` of ``config.json``."""

BY_PREFIX: dict[str, Loader] = {
    "open_clip/": _open_clip,
    "coca_": _open_clip,
    "hf_clip/": _clip,
    "hf/": _clip,
}
"""Loaders by the prefix of a name that is not a folder."""


def _loader_of_folder(folder: Path) -> Loader:
    for file, loader in BY_FILE.items():
        if (folder / file).is_file():
            return loader
    if not (folder / CONFIG_FILE).is_file():
        raise ModelNotFoundError(
            f"{folder} is not a model: it holds none of {', '.join(BY_FILE)}, {CONFIG_FILE}"
        )
    return _loader_of_config(folder / CONFIG_FILE, str(folder))


def _loader_of_name(name: str) -> Loader:
    for prefix, loader in BY_PREFIX.items():
        if name.startswith(prefix):
            return loader
    from huggingface_hub import hf_hub_download

    with hub_errors(name):
        file = Path(hf_hub_download(name, CONFIG_FILE))
    return _loader_of_config(file, name)


def _loader_of_config(file: Path, name: str) -> Loader:
    model_type = read_json(file).get("model_type")
    if model_type not in BY_TYPE:
        raise UnpromptError(
            f"{name}: a model of type '{model_type}' predicts no prompts; the types that do are "
            f"{', '.join(BY_TYPE)}"
        )
    return BY_TYPE[model_type]
