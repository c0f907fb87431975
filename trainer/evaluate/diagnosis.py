"""An evaluation in, DriveLM's known failure modes out, each with counts and the ids of its first examples."""

from collections.abc import Mapping
from typing import Any

from trainer.evaluate.centre_points import centre_points
from trainer.evaluate.contradictions import contradictions
from trainer.evaluate.drivelm import Evaluation
from trainer.evaluate.failures_attributes import attribute_errors
from trainer.evaluate.failures_syntax import syntax_drift
from trainer.evaluate.failures_tags import camera_confusion, copied_tags, invented_and_left_out
from trainer.evaluate.named_objects import named_objects


def diagnose(evaluation: Evaluation, references: Mapping[str, Any]) -> dict[str, Any]:
    """Failure modes that need neither a judge nor another prediction, over all questions, gated or not."""
    graded = evaluation.graded
    return {
        "syntax": syntax_drift(graded),
        "camera_confusion": camera_confusion(graded),
        "centre_points": centre_points(graded, references),
        "named_objects": named_objects(graded, references),
        "objects": invented_and_left_out(graded),
        "attributes": attribute_errors(graded, references),
        "contradictions": contradictions(graded),
        "copied_tags": copied_tags(graded),
    }
