"""transformers: text, vision, audio and both at once, from their configuration classes; sizes are the classes' defaults."""

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
    """Named after their model class."""
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


def _image_and_text(config: Any) -> dict[str, torch.Tensor]:
    return _tokens(77, config="text_config")(config) | _pixels(224)(config)


_MODELS: dict[str, tuple[str, dict[str, Any], Inputs]] = {
    # text
    "BertModel": ("text", {}, _tokens()),
    "BertForSequenceClassification": ("text", {}, _tokens()),
    "DistilBertForMaskedLM": ("text", {}, _tokens()),
    "RobertaForTokenClassification": ("text", {"max_position_embeddings": 514}, _tokens()),
    "GPT2LMHeadModel": ("text", {"use_cache": False}, _tokens()),
    "T5EncoderModel": ("text", {}, _tokens()),
    # vision
    "ViTForImageClassification": ("classification", {}, _pixels(224)),
    "DeiTForImageClassification": ("classification", {}, _pixels(224)),
    "SwinForImageClassification": ("classification", {}, _pixels(224)),
    "Dinov2Model": ("features", {"image_size": 518}, _pixels(224)),
    "MobileViTForImageClassification": ("classification", {}, _pixels(256)),
    "ConvNextForImageClassification": ("classification", {}, _pixels(224)),
    "BeitForImageClassification": ("classification", {}, _pixels(224)),
    "SegformerForSemanticSegmentation": ("segmentation", {}, _pixels((128, 160))),
    "MobileViTForSemanticSegmentation": ("segmentation", {}, _pixels(256)),
    "DetrForObjectDetection": ("detection", {"use_pretrained_backbone": False}, _pixels((192, 256))),
    "YolosForObjectDetection": ("detection", {"image_size": [192, 256]}, _pixels((192, 256))),
    "DepthAnythingForDepthEstimation": ("depth", {}, _pixels(224)),
    "SamVisionModel": ("segmentation", {}, _pixels(1024)),
    # image and text
    "CLIPTextModelWithProjection": ("text", {}, _tokens(77)),
    "CLIPVisionModelWithProjection": ("features", {}, _pixels(224)),
    "CLIPModel": ("image and text", {}, _image_and_text),
    # audio
    "WhisperEncoder": ("audio", {}, lambda config: {"input_features": torch.randn(1, config.num_mel_bins, 3000)}),
    "Wav2Vec2ForCTC": ("audio", {}, _samples(16000)),
    "HubertModel": ("audio", {}, _samples(16000)),
    "ASTForAudioClassification": ("audio", {}, lambda config: {"input_values": torch.randn(1, 1024, 128)}),
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
