"""The sections of a recipe; see `unprompt.training.recipe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING


@dataclass
class Data:
    """Which pairs, and how they are split when the table does not say.

    Attributes:
        table: the pairs table (Parquet or JSON lines).
        val: share of pairs for validation, in groups, when the table has no split.
        test: share of pairs for the test.
        threshold: cosine at and above which two prompts belong to one group.
        train_size: side of the training crops in pixels, where smaller than the model's input.
            Crops show things larger than whole images do, so a model tests best at a higher
            resolution than it trains at (Touvron et al. 2019, arXiv 1906.06423); training on small
            crops is also cheap.
        augment: ``none``: changes lose on held-out groups in a short run
            (experiments/NOTES.md); ``crop``: random crops of 90 to 100 % of the area, as open_clip
            trains; ``mild``: smaller crops and small changes of colour; or ``strong``: the smaller
            crops, and RandAugment without what changes a picture's look beyond its prompt
            (posterise, solarise, equalise, invert).
        erase: probability that a rectangle of a training image is greyed out (random erasing).
        flip: probability of a horizontal flip. None by default: prompts say 'left', and pictures
            hold text.
        sample_by: what an epoch passes over: every ``pair``; or every ``prompt`` or every ``group``
            once, with one of its pairs drawn anew in each epoch.
        weights: for a source, how often an epoch shows a pair (or prompt, or group) of it on
            average; 1 for those not named, 0 leaves a source out.
        fold: validate on this fold of a table split with ``unprompt split --folds``, and train on
            the others; by default the table's own split stands.
        workers: processes that decode images; 0 decodes in the training process.
        decode_once: decode and scale each image once and keep its pixels in the cache, 150 kB an
            image at 224 px (254 kB where crops are cut from it); later epochs, and later runs on
            the same images, only read them. ``auto`` does so where the run shows its images more
            than once and they take no more than a tenth of the disk; the pixels that the model
            sees are the same in any case.
    """

    table: str = MISSING
    val: float = 0.05
    test: float = 0.1
    threshold: float = 0.7
    train_size: int | None = None
    augment: Literal["none", "crop", "mild", "strong"] = "none"
    erase: float = 0.0
    flip: float = 0.0
    sample_by: Literal["pair", "prompt", "group"] = "pair"
    weights: dict[str, float] = field(default_factory=dict)
    fold: int | None = None
    workers: int = 2
    decode_once: Literal["auto", True, False] = "auto"


@dataclass
class Head:
    """The head of the embedder; see `unprompt.models.heads.HeadConfig`.

    Attributes:
        type: ``linear``, ``mlp`` or ``classes``. Where it is not said, the head of the embedder
            that the run goes on from is kept, and without one it is ``linear``.
        hidden: width of the ``mlp``'s hidden layer.
        dropout: probability of zeroing a feature before the head, in training.
        prior: for ``classes``, a text file of prompts that people wrote, one a line, whose mean
            is the answer before anything is known of the picture.
        landmarks: for ``classes``, how many training pictures the head remembers; 0 for none.
    """

    type: Literal["linear", "mlp", "classes"] | None = None
    hidden: int = 16_384
    dropout: float = 0.0
    prior: str | None = None
    landmarks: int = 0


@dataclass
class Model:
    """The embedder to fine-tune.

    Attributes:
        start: a trained embedder to go on from, ``builtin``, a folder or a hub repository; its
            backbone and input size then stand in place of the keys below that say them.
        backbone: ``timm/…``, ``hf/…`` or ``open_clip/…``.
        checkpoint: file with the backbone's weights (timm only); the library's own otherwise.
        pretrained: start from pretrained weights; false starts from random ones.
        arguments: keyword arguments of timm's ``create_model``, or the configuration of an hf or
            open_clip model that is not pretrained.
        size: side of the input in pixels; the backbone's own by default.
        mean: per-channel mean for values in [0, 1]; the backbone's own by default.
        std: per-channel standard deviation; the backbone's own by default.
        freeze: the first so many blocks of the backbone, with all that lies below them, do not
            learn, and their batch norms keep their statistics; -1 freezes the whole backbone.
        lora_rank: adapt the linear layers of the backbone by matrices of this rank instead of its
            weights (Hu et al. 2021, arXiv 2106.09685); 0 does not. Saved models have them merged.
        patch_dropout: share of each image's patches that training leaves out at random, and with
            them nearly as large a share of a step's time; evaluation sees all. For timm's vision
            transformers. It is another computation, which trades something of what a step teaches
            for its time (Liu et al. 2022, arXiv 2208.07220; Li et al. 2022, arXiv 2212.00794).
        head: the head.
        encoder: the target encoder.
    """

    start: str | None = None
    backbone: str = "timm/vit_base_patch16_clip_224.openai"
    checkpoint: str | None = None
    pretrained: bool = True
    arguments: dict[str, Any] = field(default_factory=dict)
    size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    freeze: int = 0
    lora_rank: int = 0
    patch_dropout: float = 0.0
    head: Head = field(default_factory=Head)
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Loss:
    """What is minimised: a weighted sum of losses between predicted and true prompt embeddings.

    Attributes:
        cosine: weight of 1 - cosine, which is torch's ``CosineEmbeddingLoss`` of matching pairs.
        negatives: weight of that loss's other half, over the other prompts of the batch: by how
            much their cosines exceed ``margin``.
        margin: see ``negatives``.
        mse: weight of the squared error of the head's output before it is brought to unit norm,
            summed over the dimensions.
        contrastive: weight of the symmetric cross-entropy of telling the batch's prompts apart
            (CLIP; Radford et al. 2021), where equal prompts count as right answers alike.
        temperature: of the contrastive loss.
    """

    cosine: float = 1.0
    negatives: float = 0.0
    margin: float = 0.5
    mse: float = 0.0
    contrastive: float = 0.0
    temperature: float = 0.07


@dataclass
class Optimiser:
    """The optimiser, with a cosine schedule.

    Attributes:
        name: ``adamw``, ``lion``, ``madgrad`` or any other name of timm's; ``adamw8bit`` and
            ``lion8bit`` need bitsandbytes and a GPU.
        learning_rate: peak learning rate of the backbone's last block.
        head_learning_rate: peak learning rate of the head.
        layer_decay: factor by which the rate falls from each block to the one below (Clark et al.
            2020, ELECTRA); 1 gives every block the same.
        weight_decay: of weight matrices; biases and norms have none.
        betas: decay rates of the optimiser's running means; its own by default.
        warmup: share of the steps in which the rate rises from zero.
        warmup_steps: the same as a number of steps, which then goes before the share.
        final: learning rate at the end, as a share of the peak.
        max_grad_norm: gradients are clipped to this norm; 0 does not clip.
        ema: decay of the moving average of the weights, which is then what is evaluated and
            saved; 0 averages nothing. 0.9998 is the 3rd place's.
        ema_warmup: let the decay rise to ``ema`` as 1 - (1 + step)^(-2/3), so that the first
            weights are soon forgotten.
        frozen_statistics: batch norms keep the running statistics of the pretrained weights.
    """

    name: str = "adamw"
    learning_rate: float = 3e-5
    head_learning_rate: float = 1e-3
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    betas: list[float] | None = None
    warmup: float = 0.1
    warmup_steps: int | None = None
    final: float = 0.0
    max_grad_norm: float = 1.0
    ema: float = 0.0
    ema_warmup: bool = True
    frozen_statistics: bool = False


@dataclass
class Schedule:
    """How long, how much at a time, and how often to look and to save.

    Attributes:
        linear_probe: before the first step, fit the head, linear or of classes, on the frozen
            backbone's features.
        head_epochs: before the first step, train the head, of whatever kind, for so many epochs on
            the frozen backbone's features; from the fitted head where ``linear_probe`` is on.
        epochs: passes over the training split; 0 leaves the model with its fitted head.
        max_steps: stop after this many optimiser steps; -1 goes by ``epochs``.
        batch_size: pairs in a step on one device.
        accumulation: steps whose gradients are summed before the optimiser moves.
        precision: ``fp32``, ``bf16`` or ``fp16`` (mixed), or ``auto``: bf16 where the device has
            instructions for it, else fp32.
        gradient_checkpointing: recompute activations to save memory.
        compile: compile the model with ``torch.compile``.
        fsdp: spread weights, gradients and the optimiser's state over torchrun's processes (fully
            sharded data parallel), for models that do not fit one device.
        evaluations: looks at the validation split; each also saves a checkpoint.
        evaluate_every: the same as a number of steps from look to look, which then goes before
            ``evaluations``.
        save_every: save a checkpoint after every so many steps besides.
        patience: stop after so many looks without a better score; 0 never stops early.
        keep: checkpoints to keep, the best one besides.
    """

    linear_probe: bool = False
    head_epochs: int = 0
    epochs: float = 4
    max_steps: int = -1
    batch_size: int = 64
    accumulation: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    compile: bool = False
    fsdp: bool = False
    evaluations: int = 4
    evaluate_every: int | None = None
    save_every: int | None = None
    patience: int = 0
    keep: int = 2


@dataclass
class Captioner:
    """The captioner to fine-tune; its presence in a recipe makes the run a captioner's.

    Attributes:
        model: folder or hub repository of a CoCa saved by unprompt; or ``open_clip/NAME``, a model
            of open_clip, with ``pretrained``; or empty for random weights of ``arguments``.
        pretrained: tag or file of the weights of an ``open_clip/`` model.
        arguments: fields of `unprompt.models.coca.CoCaConfig` for random weights.
        caption_weight: of the captioning loss.
        contrastive_weight: of the contrastive loss; at 0 its branch is not computed.
        freeze: for ``image``, ``text`` and ``decoder`` the number of first blocks that do not
            learn; -1 freezes the whole tower.
        lora_rank: adapt attention by matrices of this rank instead of the weights; 0 does not.
            The saved model has them merged.
        gradient_checkpointing: recompute activations to save memory.
        num_beams: beams of the captions that are evaluated.
    """

    model: str = ""
    pretrained: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    caption_weight: float = 1.0
    contrastive_weight: float = 0.0
    freeze: dict[str, int] = field(default_factory=dict)
    lora_rank: int = 0
    gradient_checkpointing: bool = False
    num_beams: int = 4


@dataclass
class Decoder:
    """The decoder to train; its presence in a recipe makes the run a decoder's.

    Its texts are ``data.table``: a text file, one prompt a line, or a pairs table.

    Attributes:
        vocab_size: tokens of the vocabulary, which is learned from the texts.
        lowercase: leave case out of it; right where the target encoder does not tell case.
        hidden_size: width of the transformer.
        layers: its blocks.
        heads: attention heads of each.
        prefix_length: tokens that the embedding is projected to.
        context_length: tokens of a text at most; longer ones are cut off.
        dropout: in training.
        start_from_encoder: begin with the target encoder's own embeddings of the tokens.
        exact: share of the training embeddings that are as the encoder made them.
        shrinkage: the others are drawn towards the mean by up to this share,
        noise: and get noise of up to this norm.
        num_beams: beams of the texts that are evaluated.
    """

    vocab_size: int = 6144
    lowercase: bool = True
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    prefix_length: int = 4
    context_length: int = 64
    dropout: float = 0.0
    start_from_encoder: bool = True
    exact: float = 0.3
    shrinkage: float = 0.7
    noise: float = 0.6
    num_beams: int = 4
