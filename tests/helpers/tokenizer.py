"""A tiny tokenizer trained on sentences in DriveLM wording, for tests."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from data_shards.tokenizer import tokenizer_from_sentencepiece, train_sentencepiece

SIDES = ("front", "front left", "front right", "back", "back left", "back right")
OBJECTS = ("black sedan", "white truck", "red bus", "pedestrian", "cyclist", "traffic cone", "green light")


def drivelm_sentences() -> list[str]:
    """A few dozen questions and answers as DriveLM words them."""
    lines = [
        "What are the important objects in the current scene? Those objects will be considered for the future "
        "reasoning and driving decision.",
        "What object should the ego vehicle notice first when the ego vehicle is getting to the next location?",
        "In this scenario, what are safe actions to take for the ego vehicle?",
        "Predict the behavior of the ego vehicle.",
        "The ego vehicle is going straight. The ego vehicle is driving slowly.",
        "Yes.",
        "No.",
    ]
    for i, side in enumerate(SIDES):
        camera = "CAM_" + side.upper().replace(" ", "_")
        for j, thing in enumerate(OBJECTS):
            tag = f"<c{j + 1},{camera},{700 + 37 * i + 11.3 * j:.1f},{400 + 13.7 * j:.1f}>"
            lines.append(f"There is a {thing} to the {side} of the ego vehicle. The IDs of these objects are {tag}.")
            lines.append(f"What is the moving status of object {tag}? Going ahead.")
    return lines


def tiny_tokenizer(tmp_dir: Path, *, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """Train (well under two seconds) and convert; `tmp_dir/tokenizer.model` holds the sentencepiece model."""
    model = train_sentencepiece(drivelm_sentences(), tmp_dir / "tokenizer.model", vocab_size=vocab_size)
    return tokenizer_from_sentencepiece(model)
