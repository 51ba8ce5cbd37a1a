"""Names of the widgets of known nodes, in the order in which a workflow lists their values."""

from __future__ import annotations

_TABLE = """
KSampler: seed control_after_generate steps cfg sampler_name scheduler denoise
KSamplerAdvanced: add_noise noise_seed control_after_generate steps cfg sampler_name scheduler \
start_at_step end_at_step
SamplerCustom: add_noise noise_seed control_after_generate cfg
RandomNoise: noise_seed control_after_generate
KSamplerSelect: sampler_name
BasicScheduler: scheduler steps denoise
Flux2Scheduler: steps width height
SDTurboScheduler: steps denoise
AlignYourStepsScheduler: model_type steps denoise
KarrasScheduler: steps sigma_max sigma_min rho
LTXVScheduler: steps max_shift base_shift stretch terminal
CheckpointLoaderSimple: ckpt_name
CheckpointLoader: config_name ckpt_name
UNETLoader: unet_name weight_dtype
VAELoader: vae_name
LoraLoader: lora_name strength_model strength_clip
LoraLoaderModelOnly: lora_name strength_model
CLIPSetLastLayer: stop_at_clip_layer
CFGGuider: cfg
FluxGuidance: guidance
ModelSamplingFlux: max_shift base_shift width height
Efficient Loader: ckpt_name vae_name clip_skip lora_name lora_model_strength lora_clip_strength \
positive negative
CLIPTextEncode: text
CLIPTextEncodeFlux: clip_l t5xxl guidance
CLIPTextEncodeSD3: clip_l clip_g t5xxl empty_padding
CLIPTextEncodeSDXL: width height crop_w crop_h target_width target_height text_g text_l
CLIPTextEncodeSDXLRefiner: ascore width height text
CLIPTextEncodeLumina2: system_prompt user_prompt
CLIPTextEncodeHiDream: clip_l clip_g t5xxl llama
CLIPTextEncodeHunyuanDiT: bert mt5xl
CLIPTextEncodePixArtAlpha: width height text
CLIPTextEncodeControlnet: text
CLIPTextEncodeKandinsky5: clip_l qwen25_7b
GLIGENTextBoxApply: text width height x y
PhotoMakerEncode: text
TextEncodeQwenImageEdit: prompt
TextEncodeQwenImageEditPlus: prompt
TextEncodeHunyuanVideo_ImageToVideo: prompt image_interleave
TextEncodeZImageOmni: prompt auto_resize_images
TextEncodeAceStepAudio: tags lyrics lyrics_strength
TextEncodeAceStepAudio1.5: tags lyrics seed control_after_generate
smZ CLIPTextEncode: text parser mean_normalization multi_conditioning \
use_old_emphasis_implementation with_SDXL ascore width height crop_w crop_h target_width \
target_height text_g text_l smZ_steps
BNK_CLIPTextEncodeAdvanced: text token_normalization weight_interpretation
RegionalConditioningColorMask //Inspire: mask_color strength set_cond_area prompt
RegionalConditioningSimple //Inspire: strength set_cond_area prompt
RegionalPromptSimple //Inspire: cfg sampler_name scheduler wildcard_prompt
RegionalPromptColorMask //Inspire: mask_color cfg sampler_name scheduler wildcard_prompt
PrimitiveNode: value control_after_generate
PrimitiveString: value
PrimitiveStringMultiline: value
PrimitiveInt: value control_after_generate
PrimitiveFloat: value
PrimitiveBoolean: value
ComfySwitchNode: switch
CustomCombo: choice
StringConcatenate: string_a string_b delimiter
StringSubstring: string start end
CaseConverter: string mode
StringTrim: string mode
StringReplace: string find replace
StringContains: string substring case_sensitive
StringCompare: string_a string_b mode case_sensitive
RegexMatch: string regex_pattern case_insensitive multiline dotall
RegexExtract: string regex_pattern mode case_insensitive multiline dotall group_index
RegexReplace: string regex_pattern replace case_insensitive multiline dotall count
StringFormat: f_string
JsonExtractString: json_string key
ImpactWildcardProcessor: wildcard_text populated_text mode seed control_after_generate
ImpactWildcardEncode: wildcard_text populated_text mode
SDXLPromptStyler: text_positive text_negative style log_prompt style_positive style_negative
SDXLPromptStylerAdvanced: text_positive_g text_positive_l text_negative style negative_prompt_to \
log_prompt
StringFunction|pysssss: action tidy_tags text_a text_b text_c
ttN text3BOX_3WAYconcat: text1 text2 text3 delimiter
ttN text7BOX_concat: text1 text2 text3 text4 text5 text6 text7 delimiter
Text Concatenate/1: linebreak_addition
Text Concatenate: delimiter clean_whitespace text_a text_b text_c text_d
Text String: text text_b text_c text_d
Text Multiline: text
Text Find and Replace: text find replace
JoinStrings: delimiter string1 string2
StringConstant: string
StringConstantMultiline: string strip_newlines
CR Text Concatenate: text1 text2 separator
CR Text Replace: text find1 replace1 find2 replace2 find3 replace3
CR Prompt Text: prompt
CR Text: text
easy positive: positive
easy negative: negative
easy promptConcat: prompt1 prompt2 separator
easy promptReplace: prompt find1 replace1 find2 replace2 find3 replace3
easy showAnything: text_0
ttN text: text
ttN concat: text1 text2 text3 delimiter
ttN textDebug: text
Text Prompt (JPS): text
String Literal: string
Textbox: text
Simple String: string
OpenAIGPTImage1: prompt seed control_after_generate quality background size n model
GeminiImage2Node: prompt model seed control_after_generate aspect_ratio resolution \
response_modalities system_prompt
ByteDanceSeedreamNode: model prompt size_preset width height
IdeogramV1: prompt turbo aspect_ratio magic_prompt_option seed control_after_generate \
negative_prompt num_images
IdeogramV2: prompt turbo aspect_ratio resolution magic_prompt_option seed \
control_after_generate style_type negative_prompt num_images
"""
_PARTNERS = """
prompt negative_prompt: KlingTextToVideoNode KlingImage2VideoNode KlingCameraControlT2VNode \
KlingCameraControlI2VNode KlingImageGenerationNode PikaTextToVideoNode2_2 \
PikaImageToVideoNode2_2 PikaScenesV2_2 Pikadditions Pikaswaps PikaStartEndFrameNode2_2 \
TripoTextToModelNode Veo3FirstLastFrameNode
model prompt negative_prompt: WanTextToVideoApi WanImageToVideoApi WanTextToImageApi \
WanImageToImageApi
model prompt: ByteDanceImageNode ByteDanceImageEditNode ByteDanceTextToVideoNode \
ByteDanceImageToVideoNode ByteDanceFirstLastFrameNode ByteDanceImageReferenceNode OpenAIVideoSora2 \
ViduTextToVideoNode ViduImageToVideoNode ViduReferenceVideoNode ViduStartEndToVideoNode \
LtxvApiTextToVideo LtxvApiImageToVideo MeshyTextToModelNode GrokImageNode GrokVideoNode
prompt aspect_ratio negative_prompt: VeoVideoGenerationNode Veo3VideoGenerationNode
prompt: OpenAIDalle2 OpenAIDalle3 OpenAIGPTImageNodeV2 GeminiImageNode GeminiNanoBanana2 \
FluxProUltraImageNode FluxProImageNode FluxKontextProImageNode FluxKontextMaxImageNode \
FluxProFillNode FluxProExpandNode FluxProCannyNode FluxProDepthNode Flux2ProImageNode \
Flux2MaxImageNode IdeogramV3 RecraftTextToImageNode RecraftTextToVectorNode \
RecraftImageToImageNode RecraftImageInpaintingNode RecraftReplaceBackgroundNode \
RunwayTextToImageNode RunwayImageToVideoNodeGen3a RunwayImageToVideoNodeGen4 \
RunwayFirstLastFrameNode LumaImageNode LumaImageModifyNode LumaVideoNode LumaImageToVideoNode \
MinimaxTextToVideoNode MinimaxImageToVideoNode MinimaxSubjectToVideoNode MinimaxHailuoVideoNode \
PixverseTextToVideoNode PixverseImageToVideoNode PixverseTransitionVideoNode \
StabilityStableImageUltraNode StabilityStableImageSD_3_5Node StabilityUpscaleConservativeNode \
StabilityUpscaleCreativeNode MoonvalleyTxt2VideoNode MoonvalleyImg2VideoNode \
MoonvalleyVideo2VideoNode
"""
"""The first widgets of nodes that ask a service; what follows differs between versions."""
KNOWN = {
    name: tuple(widgets.split())
    for name, _, widgets in (line.rpartition(": ") for line in _TABLE.strip().split("\n"))
}
"""Names of widgets in order by class; with ``/N`` those of a node with N values."""
KNOWN |= {
    name: tuple(widgets.split())
    for widgets, _, names in (line.partition(": ") for line in _PARTNERS.strip().split("\n"))
    for name in names.split()
}
