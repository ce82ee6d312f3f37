"""transformers: text, vision, audio and both at once, from their configuration classes; sizes are the classes'
defaults, but for the decoders that would have billions of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from .entry import Entry, Example, alive

__all__ = ["transformers_models"]

Inputs = Callable[[Any], dict[str, torch.Tensor]]  # from the model's configuration


def transformers_models() -> Iterator[Entry]:
    """Named after their model class.

    Left out, for a check on random inputs and weights says nothing of them: RT-DETR (of its 2100 proposals many score alike,
    and which of them come first is rounding: PyTorch's own float32 is off from float64 by half), LayoutLM (its boxes must
    not be drawn at random).
    """
    for name, (task, options, inputs) in _MODELS.items():
        yield Entry(f"transformers:{name}", task, partial(_example, name, options, inputs))


def _tokens(length: int = 128, batch: int = 2, config: str = "") -> Inputs:
    """Token ids, and a mask in which the second sequence is padded at its end."""

    def make(whole: Any) -> dict[str, torch.Tensor]:
        vocabulary = (getattr(whole, config) if config else whole).vocab_size
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[1, length - 37 :] = 0
        return {"input_ids": torch.randint(0, vocabulary, (batch, length)), "attention_mask": mask}

    return make


def _pixels(size: int | tuple[int, int]) -> Inputs:
    height, width = (size, size) if isinstance(size, int) else size
    return lambda config: {"pixel_values": torch.randn(1, 3, height, width)}


def _samples(count: int) -> Inputs:
    return lambda config: {"input_values": torch.randn(1, count)}


def _spectrum(config: Any) -> dict[str, torch.Tensor]:
    """30 s of log-mel features."""
    return {"input_features": torch.randn(1, config.num_mel_bins, 3000)}


def _image_and_text(config: Any) -> dict[str, torch.Tensor]:
    return _tokens(77, config="text_config")(config) | _pixels(224)(config)


def _decoder_input(encoder: Inputs) -> Inputs:
    return lambda config: encoder(config) | {"decoder_input_ids": torch.randint(3, 1000, (_batch(encoder(config)), 20))}


def _batch(inputs: dict[str, torch.Tensor]) -> int:
    return len(next(iter(inputs.values())))


def _series(config: Any) -> dict[str, torch.Tensor]:
    return {"past_values": torch.randn(2, config.context_length, config.num_input_channels)}


_Model = tuple[str, dict[str, Any], Inputs]


def _all(task: str, options: dict[str, Any], inputs: Inputs, *names: str) -> dict[str, _Model]:
    return dict.fromkeys(names, (task, options, inputs))


_SMALL = {  # the defaults are models of billions of parameters
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1000,
    "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_SMALL, "num_key_value_heads": 2}  # grouped-query attention
_WIDE_HEADS = {**_GROUPED, "head_dim": 64}
_BLOOM = {"hidden_size": 256, "n_layer": 4, "n_head": 4, "vocab_size": 1000, "use_cache": False}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 32}
_FORECAST = {"num_input_channels": 7, "context_length": 96, "prediction_length": 24}
_MODELS: dict[str, _Model] = {
    **_all("text", {}, _tokens(), "BertModel", "BertForSequenceClassification", "DistilBertForMaskedLM", "T5EncoderModel"),
    **_all("text", {}, _tokens(), "AlbertModel", "ElectraModel", "MPNetModel", "MobileBertModel", "SqueezeBertModel"),
    **_all("text", {"max_position_embeddings": 514}, _tokens(), "RobertaForTokenClassification", "XLMRobertaModel"),
    "DebertaV2Model": ("text", _SMALL | _DEBERTA, _tokens()),
    "FNetModel": ("text", {}, lambda config: {"input_ids": torch.randint(3, config.vocab_size, (2, 512))}),
    "ModernBertModel": ("text", {"num_hidden_layers": 4}, _tokens()),
    # decoders of text, and encoders with decoders
    **_all("text", {"use_cache": False}, _tokens(), "GPT2LMHeadModel", "OPTForCausalLM"),
    **_all("text", _GROUPED, _tokens(64), "LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM", "Phi3ForCausalLM"),
    **_all("text", _WIDE_HEADS, _tokens(64), "Qwen3ForCausalLM", "GemmaForCausalLM", "Gemma3ForCausalLM"),
    **_all("text", _SMALL, _tokens(64), "PhiForCausalLM", "GPTNeoXForCausalLM"),
    "BloomForCausalLM": ("text", _BLOOM, _tokens(64)),
    **_all(
        "text", {"use_cache": False}, _decoder_input(_tokens(64)), "BartModel", "T5ForConditionalGeneration", "MarianMTModel"
    ),
    # vision
    **_all("classification", {}, _pixels(224), "ViTForImageClassification", "DeiTForImageClassification"),
    **_all("classification", {}, _pixels(224), "SwinForImageClassification", "BeitForImageClassification"),
    **_all("classification", {}, _pixels(224), "ConvNextForImageClassification", "ConvNextV2ForImageClassification"),
    **_all("classification", {}, _pixels(224), "ResNetForImageClassification", "RegNetForImageClassification"),
    **_all("classification", {}, _pixels(224), "MobileNetV1ForImageClassification", "MobileNetV2ForImageClassification"),
    **_all("classification", {}, _pixels(224), "LevitForImageClassification", "PvtForImageClassification"),
    **_all("classification", {}, _pixels(224), "CvtForImageClassification", "PoolFormerForImageClassification"),
    **_all("classification", {}, _pixels(224), "FocalNetForImageClassification", "HieraForImageClassification"),
    **_all("classification", {}, _pixels(224), "Data2VecVisionForImageClassification", "BitForImageClassification"),
    "EfficientNetForImageClassification": ("classification", {"image_size": 224}, _pixels(224)),
    **_all("classification", {}, _pixels(256), "MobileViTForImageClassification", "Swinv2ForImageClassification"),
    **_all("features", {}, _pixels(224), "Dinov2WithRegistersModel", "SiglipVisionModel"),
    "Dinov2Model": ("features", {"image_size": 518}, _pixels(224)),
    "SegformerForSemanticSegmentation": ("segmentation", {}, _pixels((128, 160))),
    "MobileViTForSemanticSegmentation": ("segmentation", {}, _pixels(256)),
    "SamVisionModel": ("segmentation", {}, _pixels(1024)),
    **_all("detection", {}, _pixels((192, 256)), "DetrForObjectDetection", "ConditionalDetrForObjectDetection"),
    **_all("detection", {}, _pixels((192, 256)), "DeformableDetrForObjectDetection", "DabDetrForObjectDetection"),
    **_all("detection", {}, _pixels((192, 256)), "TableTransformerForObjectDetection"),
    "YolosForObjectDetection": ("detection", {"image_size": [192, 256]}, _pixels((192, 256))),
    **_all("depth", {}, _pixels(224), "DepthAnythingForDepthEstimation"),
    **_all("depth", {}, _pixels(384), "DPTForDepthEstimation"),
    **_all("depth", {}, _pixels((128, 160)), "GLPNForDepthEstimation"),
    "Swin2SRForImageSuperResolution": ("super-resolution", {}, _pixels(64)),
    "VideoMAEForVideoClassification": ("video", {}, lambda config: {"pixel_values": torch.randn(1, 16, 3, 224, 224)}),
    # image and text
    "CLIPTextModelWithProjection": ("text", {}, _tokens(77)),
    "CLIPVisionModelWithProjection": ("features", {}, _pixels(224)),
    "CLIPModel": ("image and text", {}, _image_and_text),
    "BlipVisionModel": ("features", {}, _pixels(384)),
    # audio and time series
    "WhisperEncoder": ("audio", {}, _spectrum),
    "WhisperForConditionalGeneration": ("audio", {"use_cache": False}, _decoder_input(_spectrum)),
    **_all("audio", {}, _samples(16000), "Wav2Vec2ForCTC", "HubertModel", "WavLMModel", "SEWModel"),
    **_all("audio", {}, _samples(16000), "UniSpeechSatModel", "Data2VecAudioModel", "Wav2Vec2ConformerModel"),
    "ASTForAudioClassification": ("audio", {}, lambda config: {"input_values": torch.randn(1, 1024, 128)}),
    **_all("time series", _FORECAST, _series, "PatchTSTForPrediction", "PatchTSMixerForPrediction"),
}


def _example(name: str, options: dict[str, Any], inputs: Inputs) -> Example:
    cls = _class(name)
    config = cls.config_class(**options)
    model = alive(lambda: cls(config))
    return Example(model, [], inputs(model.config))


def _class(name: str) -> type[nn.Module]:
    import transformers
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    return WhisperEncoder if name == "WhisperEncoder" else getattr(transformers, name)  # type: ignore[no-any-return]
