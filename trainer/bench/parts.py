"""A stage in; which modules its parts are, in the order of a step, and the FLOPs that its loss needs, out."""

from typing import NamedTuple

from torch import nn

from data_shards.collate import Batch
from trainer.bench.packs import without_padding
from trainer.stages.base import Stage
from trainer.stages.distill import DistillStage
from trainer.stages.vlm import VlmStage


class Part(NamedTuple):
    """Name, first and last module, and what precedes the gradient of its output in the backward pass."""

    name: str
    first: nn.Module
    last: nn.Module
    before: str


def parts_of(stage: Stage) -> list[Part]:
    """The parts that are timed apart."""
    if isinstance(stage, DistillStage):
        student = stage.exported()
        parts = [Part("student", student.embeddings, student.layernorm, "loss backward")]
        teacher = stage.teacher
        return parts if teacher is None else [*parts, Part("teacher", teacher.embeddings, teacher.layernorm, "")]
    assert isinstance(stage, VlmStage)
    model = stage.vlm.model
    return [
        Part("vision", model.vision_tower, model.vision_tower, "projector backward"),
        Part("projector", model.multi_modal_projector, model.multi_modal_projector, "language backward"),
        Part("language", model.language_model, model.language_model, "loss backward"),
    ]


def last_backward(stage: Stage) -> str:
    """The part that ends the backward pass."""
    if isinstance(stage, DistillStage):
        return "student backward"
    assert isinstance(stage, VlmStage)
    trained = any(parameter.requires_grad for parameter in stage.vlm.model.vision_tower.parameters())
    return "vision backward" if trained else "projector backward"


def useful_flops(stage: Stage, batch: Batch) -> float:
    """FLOPs that the loss of a batch needs: nothing filled up, masked or computed twice."""
    return stage.flops(without_padding(batch)).useful
