"""Public weights that predict without training, with their sizes and licences.

Sizes are of the weights file, in GB of 10^9 bytes, computed from the architectures at 4 bytes a
parameter (BLIP's files hold the output layer twice). Licences are those of the model cards. The
card of OpenAI's CLIP states none, so the licence of its code is given. Only models that a user
names are downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unprompt.errors import ModelNotFoundError


@dataclass(frozen=True)
class PublicWeights:
    """Weights on the Hugging Face hub.

    Attributes:
        repository: id on the hub.
        gigabytes: size of the weights.
        licence: licence of the weights.
        library: prefix of the name for `unprompt.predicting.loading.load_model`, if it has one.
        alias: the architecture of open_clip that the weights belong to.
    """

    repository: str
    gigabytes: float
    licence: str
    library: str = ""
    alias: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that load these weights, the recommended one first."""
        if self.alias:
            tag = "mscoco_finetuned_laion2b_s13b_b90k"
            names = [f"open_clip/{self.alias}:{tag}", f"open_clip/{self.alias}", self.alias]
            return (*names, f"open_clip/hf-hub:{self.repository}", self.repository)
        if self.library:
            return f"{self.library}/{self.repository}", self.repository
        return (self.repository,)

    def local(self, folder: str) -> str:
        """The name that loads these weights from a folder."""
        return f"{self.library}/{folder}" if self.library == "hf_clip" else folder


_COCA = "laion/mscoco_finetuned_CoCa-ViT"
PUBLIC = (
    PublicWeights("openai/clip-vit-base-patch32", 0.61, "MIT", "hf_clip"),
    PublicWeights("openai/clip-vit-large-patch14-336", 1.71, "MIT", "hf_clip"),
    PublicWeights("openai/clip-vit-large-patch14", 1.71, "MIT", "hf_clip"),
    PublicWeights("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 3.94, "MIT", "hf_clip"),
    PublicWeights(f"{_COCA}-B-32-laion2B-s13B-b90k", 1.01, "MIT", "open_clip", "coca_ViT-B-32"),
    PublicWeights(f"{_COCA}-L-14-laion2B-s13B-b90k", 2.55, "MIT", "open_clip", "coca_ViT-L-14"),
    PublicWeights("Salesforce/blip-image-captioning-base", 0.99, "BSD-3-Clause"),
    PublicWeights("Salesforce/blip-image-captioning-large", 1.88, "BSD-3-Clause"),
    PublicWeights("microsoft/git-base-coco", 0.71, "MIT"),
    PublicWeights("microsoft/git-large-coco", 1.58, "MIT"),
    PublicWeights("nlpconnect/vit-gpt2-image-captioning", 0.98, "Apache-2.0"),
)


@contextmanager
def advice(name: str) -> Iterator[None]:
    """If the block cannot find weights that `PUBLIC` lists, add to the error how to download them.

    Args:
        name: name of the model. Repositories that the error names are looked up as well.

    Raises:
        ModelNotFoundError: the error of the block, with the advice.
    """
    try:
        yield
    except ModelNotFoundError as error:
        for model in PUBLIC:
            if name in model.names or model.repository in str(error):
                raise ModelNotFoundError(
                    f"{error}. The weights are {model.gigabytes} GB ({model.licence}): on a "
                    f"computer that reaches the hub run 'hf download {model.repository} "
                    f"--local-dir DIR', copy DIR here and name it {model.local('DIR')}"
                ) from error
        raise
