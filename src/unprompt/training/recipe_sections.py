"""The sections of a recipe; see `unprompt.training.recipe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING


@dataclass
class Data:
    """Which pairs a run uses, how they are split, and how their images are shown.

    Attributes:
        table: the pairs table, or any CSV, TSV, JSON lines or Parquet file with a column of image
            files and one of prompts; for a decoder, any file of prompts.
        image_column: the table's column of image files, if it has no common name such as ``file``,
            ``filepath``, ``file_name``, ``image_path`` or ``image``.
        prompt_column: the table's column of prompts, if it is not named ``prompt``, ``caption``,
            ``text`` or ``title``.
        separator: what separates the columns of a CSV file, if not a comma, tab or semicolon.
        val: share of pairs for validation, in whole groups, for a table without splits.
        test: share of pairs for the test, likewise.
        threshold: cosine from which on two prompts belong to one group.
        train_size: side of the training crops in pixels, if smaller than the model's input. Crops
            show things larger than whole images do, so a model performs best at a higher resolution
            than it was trained at (Touvron et al. 2019, arXiv 1906.06423); small crops also cost
            less.
        augment: ``none``, the best on held-out groups in a short run (experiments/NOTES.md);
            ``crop``: random crops of 90 to 100 % of the area, as in open_clip; ``mild``: smaller
            crops and small changes of colour; ``strong``: smaller crops, and RandAugment without
            operations that contradict the prompt (posterise, solarise, equalise, invert).
        erase: probability that a rectangle of a training image is greyed out (random erasing).
        flip: probability of a horizontal flip; 0 by default, since prompts say 'left' and images
            contain text.
        sample_by: ``pair``: an epoch shows every pair; ``prompt`` or ``group``: it shows every
            prompt or group once, with one of its pairs drawn anew in each epoch.
        weights: source to the number of times that an epoch shows each of its pairs (or prompts, or
            groups) on average; 1 for other sources, 0 leaves a source out.
        fold: validate on this fold of a table split with ``unprompt split --folds``, and train on
            the others; by default the table's own split counts.
        workers: processes that decode images; 0 decodes in the training process.
        decode_once: decode and scale each image once and cache its pixels on disk, 150 kB an image
            at 224 px (254 kB for crops); later epochs, and later runs on the same images, only read
            them. ``auto`` does so if the run shows its images more than once and they take at most
            a tenth of the disk. The model gets the same pixels either way.
    """

    table: str = MISSING
    image_column: str | None = None
    prompt_column: str | None = None
    separator: str | None = None
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
        type: ``linear``, ``mlp`` or ``classes``. By default the head of ``model.start`` is kept;
            without ``model.start`` the head is ``linear``.
        hidden: width of the ``mlp``'s hidden layer.
        dropout: probability of zeroing a feature before the head, in training.
        prior: for ``classes``, a file of prompts that people wrote. The mean of their embeddings is
            predicted before anything is known of the image.
        landmarks: for ``classes``, number of training images in the head's memory; 0 for none.
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
        start: a trained embedder to start from: ``builtin``, a folder or a hub repository. Its
            backbone replaces ``backbone``, ``checkpoint``, ``pretrained``, ``arguments``, ``mean``
            and ``std``.
        backbone: ``timm/…``, ``hf/…`` or ``open_clip/…``.
        checkpoint: file with the backbone's weights (timm only); by default the library's own.
        pretrained: start from pretrained weights; false starts from random weights.
        arguments: keyword arguments of timm's ``create_model``, or the configuration of an hf or
            open_clip model that is not pretrained.
        size: side of the input in pixels; the backbone's own by default.
        mean: per-channel mean for values in [0, 1]; the backbone's own by default.
        std: per-channel standard deviation; the backbone's own by default.
        freeze: number of first blocks of the backbone that are not trained, with the layers below
            them; their batch norms keep their statistics. -1 freezes the whole backbone.
        lora_rank: train matrices of this rank beside the linear layers of the backbone instead of
            its weights (Hu et al. 2021, arXiv 2106.09685); 0 trains the weights. Saved models have
            the matrices merged.
        patch_dropout: share of each image's patches that training leaves out at random; a step gets
            faster by nearly this share, and teaches the model less (Liu et al. 2022, arXiv
            2208.07220; Li et al. 2022, arXiv 2212.00794). Evaluation uses all patches. For timm's
            vision transformers.
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
    """The loss: a weighted sum of losses between predicted and true prompt embeddings.

    Attributes:
        cosine: weight of 1 - cosine, which is torch's ``CosineEmbeddingLoss`` of matching pairs.
        negatives: weight of the other half of that loss, over the other prompts of the batch: the
            amount by which their cosines exceed ``margin``.
        margin: see ``negatives``.
        mse: weight of the squared error of the head's output before it is brought to unit norm,
            summed over the dimensions.
        contrastive: weight of the symmetric cross-entropy of telling the batch's prompts apart
            (CLIP; Radford et al. 2021); equal prompts all count as right.
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
        warmup_steps: number of these steps, instead of ``warmup``.
        final: learning rate at the end, as a share of the peak.
        max_grad_norm: gradients are clipped to this norm; 0 does not clip.
        ema: decay of the moving average of the weights, which is evaluated and saved instead of the
            weights; 0 averages nothing. The 3rd place used 0.9998.
        ema_warmup: let the decay rise to ``ema`` as 1 - (1 + step)^(-2/3), so that the average soon
            forgets the first weights.
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
    """Length of the run, batch size, and how often it evaluates and saves.

    Attributes:
        linear_probe: before the first step, fit a linear or ``classes`` head in closed form on the
            frozen backbone's features.
        head_epochs: before the first step, train a head of any type for so many epochs on the
            frozen backbone's features; after ``linear_probe`` where that is on.
        epochs: passes over the training split; 0 only fits the head.
        max_steps: stop after this many optimiser steps; -1 leaves the length to ``epochs``.
        batch_size: pairs in a step on one device.
        accumulation: steps whose gradients are summed before the optimiser moves.
        precision: ``fp32``, ``bf16`` or ``fp16`` (mixed), or ``auto``: bf16 if the device has
            instructions for it, else fp32.
        gradient_checkpointing: recompute activations to save memory.
        compile: compile the model with ``torch.compile``.
        fsdp: spread weights, gradients and the optimiser's state over torchrun's processes (fully
            sharded data parallel), for models that are too large for one device.
        evaluations: number of evaluations on the validation split; each also saves a checkpoint.
        evaluate_every: steps between evaluations, instead of ``evaluations``.
        save_every: also save a checkpoint every so many steps.
        patience: stop after so many evaluations without a better score; 0 never stops early.
        keep: number of checkpoints to keep, in addition to the best.
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
    """The captioner to fine-tune; its presence makes the run that of a captioner.

    Attributes:
        model: folder or hub repository of a CoCa that unprompt saved; ``open_clip/NAME``, a model
            of open_clip, with ``pretrained``; or empty for random weights, with ``arguments``.
        pretrained: tag or file of the weights of an ``open_clip/`` model.
        arguments: fields of `unprompt.models.coca.CoCaConfig` for random weights.
        caption_weight: of the captioning loss.
        contrastive_weight: of the contrastive loss; at 0 its branch is not computed.
        freeze: for ``image``, ``text`` and ``decoder`` the number of first blocks that are not
            trained; -1 freezes the whole tower.
        lora_rank: train matrices of this rank beside the attention layers instead of the weights; 0
            trains the weights. The saved model has the matrices merged.
        gradient_checkpointing: recompute activations to save memory.
        num_beams: beams of the captions in the evaluation.
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
    """The decoder to train; its presence makes the run that of a decoder.

    Its texts are the prompts of ``data.table``: a text file, one prompt a line, or a pairs table.

    Attributes:
        vocab_size: tokens of the vocabulary, which is learned from the texts.
        lowercase: ignore case, as most target encoders do.
        hidden_size: width of the transformer.
        layers: its blocks.
        heads: attention heads of each.
        prefix_length: tokens that the embedding is projected to.
        context_length: most tokens of a text; longer texts are cut off.
        dropout: in training.
        start_from_encoder: initialise token embeddings from the target encoder's embeddings.
        exact: share of the training embeddings that are left as the encoder made them.
        shrinkage: the others are moved towards the mean by up to this share.
        noise: the others also get noise of up to this norm.
        num_beams: beams of the texts in the evaluation.
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
