"""Public weights that predict without training: what to download, how large, under which licence.

Sizes are of the weights file that is loaded, in GB of 10^9 bytes: 4 bytes a parameter, counted on
the architectures (BLIP's files hold its output layer once more). Licences are those that the model
cards state; of OpenAI's CLIP that of its code. Nothing is downloaded that was not named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from unprompt.errors import ModelNotFoundError


@dataclass(frozen=True)
class Public:
    """Weights on the Hugging Face hub.

    Attributes:
        repository: on the hub.
        gigabytes: of the weights.
        licence: of the weights.
        library: prefix with which `unprompt.predicting.loading.load_model` takes it, or none.
        alias: the architecture of open_clip that the weights belong to.
    """

    repository: str
    gigabytes: float
    licence: str
    library: str = ""
    alias: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """What it is loaded by, the name to give first."""
        if self.alias:
            tag = "mscoco_finetuned_laion2b_s13b_b90k"
            names = [f"open_clip/{self.alias}:{tag}", f"open_clip/{self.alias}", self.alias]
            return (*names, f"open_clip/hf-hub:{self.repository}", self.repository)
        if self.library:
            return f"{self.library}/{self.repository}", self.repository
        return (self.repository,)

    def local(self, folder: str) -> str:
        """What it is loaded by when it stands in a folder."""
        return f"{self.library}/{folder}" if self.library == "hf_clip" else folder


_COCA = "laion/mscoco_finetuned_CoCa-ViT"
PUBLIC = (
    Public("openai/clip-vit-base-patch32", 0.61, "MIT", "hf_clip"),
    Public("openai/clip-vit-large-patch14-336", 1.71, "MIT", "hf_clip"),
    Public("openai/clip-vit-large-patch14", 1.71, "MIT", "hf_clip"),
    Public("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", 3.94, "MIT", "hf_clip"),
    Public(f"{_COCA}-B-32-laion2B-s13B-b90k", 1.01, "MIT", "open_clip", "coca_ViT-B-32"),
    Public(f"{_COCA}-L-14-laion2B-s13B-b90k", 2.55, "MIT", "open_clip", "coca_ViT-L-14"),
    Public("Salesforce/blip-image-captioning-base", 0.99, "BSD-3-Clause"),
    Public("Salesforce/blip-image-captioning-large", 1.88, "BSD-3-Clause"),
    Public("microsoft/git-base-coco", 0.71, "MIT"),
    Public("microsoft/git-large-coco", 1.58, "MIT"),
    Public("nlpconnect/vit-gpt2-image-captioning", 0.98, "Apache-2.0"),
)


@contextmanager
def advice(name: str) -> Iterator[None]:
    """Say what to download, and how large it is, where weights that are named here cannot be had.

    Args:
        name: what is being loaded; what an error names counts as well.

    Raises:
        ModelNotFoundError: the block's own, the advice added.
    """
    try:
        yield
    except ModelNotFoundError as error:
        for model in PUBLIC:
            if name in model.names or model.repository in str(error):
                raise ModelNotFoundError(
                    f"{error}. It takes {model.gigabytes} GB ({model.licence}): on a machine that "
                    f"reaches the hub run 'hf download {model.repository} --local-dir DIR', bring "
                    f"DIR here and name it {model.local('DIR')}"
                ) from error
        raise
