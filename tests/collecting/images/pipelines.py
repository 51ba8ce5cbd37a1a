"""Small text-to-image pipelines of diffusers' real classes, with random weights."""

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with letters for a vocabulary; 77 tokens at most."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = json.dumps({word: number for number, word in enumerate(words)})
    (folder / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def _text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )


def _vae(channels: int, shift: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        use_quant_conv=channels == 4,
        use_post_quant_conv=channels == 4,
        shift_factor=shift,
        scaling_factor=0.18215,
    )


def _unet(**named: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **named,
    )


def _ddim() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_sd(folder: Path, checker: StableDiffusionSafetyChecker | None = None):
    """A Stable Diffusion of 16 x 16 latents and 32 x 32 pixels; its tokenizer goes to a folder."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder)
    side = {"height": 30, "width": 30}
    extractor = CLIPImageProcessor(size={"shortest_edge": 30}, crop_size=side)
    return StableDiffusionPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=32),
        scheduler=_ddim(),
        safety_checker=checker,
        feature_extractor=extractor if checker is not None else None,
        requires_safety_checker=checker is not None,
    )


def build_checker(flags: bool) -> StableDiffusionSafetyChecker:
    """The real safety checker, small and random, that flags every image or none."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 30,
        "patch_size": 15,
    }
    config = CLIPConfig(vision_config=vision, projection_dim=8)
    checker = StableDiffusionSafetyChecker(config).eval()
    # A concept is found where the cosine exceeds its weight.
    checker.concept_embeds_weights.data.fill_(-2.0 if flags else 2.0)
    checker.special_care_embeds_weights.data.fill_(2.0)
    return checker


def save_sd(folder: Path) -> Path:
    """Save `build_sd` without a safety checker; returns the folder."""
    build_sd(folder.with_name(f"{folder.name}-tokenizer")).save_pretrained(folder)
    return folder


def build_sdxl(folder: Path) -> StableDiffusionXLPipeline:
    """A Stable Diffusion XL, with two text encoders."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder)
    unet = _unet(
        cross_attention_dim=64,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=_ddim(),
        add_watermarker=False,
    )


def _t5() -> tuple[T5EncoderModel, PreTrainedTokenizerFast]:
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    config = T5Config(vocab_size=8, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    return T5EncoderModel(config).eval(), tokenizer


def build_flux(folder: Path) -> FluxPipeline:
    """A FLUX, a transformer of packed latents with CLIP and T5."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder)
    encoder, words = _t5()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, 0.0609),
        text_encoder=CLIPTextModel(_text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=words,
        transformer=transformer,
    )


def build_pixart(folder: Path) -> PixArtAlphaPipeline:
    """A PixArt alpha, a transformer with T5."""
    del folder
    torch.manual_seed(0)
    encoder, words = _t5()
    transformer = PixArtTransformer2DModel(
        sample_size=16,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        use_additional_conditions=False,
    )
    return PixArtAlphaPipeline(
        tokenizer=words,
        text_encoder=encoder,
        vae=_vae(4),
        transformer=transformer,
        scheduler=_ddim(),
    )


def build_sd3(folder: Path) -> StableDiffusion3Pipeline:
    """A Stable Diffusion 3, a transformer with flow matching; its tokenizer goes to a folder."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder)
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(16, 0.0609),
        text_encoder=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer)),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )
