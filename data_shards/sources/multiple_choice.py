"""Multiple choice as DriveLM does it: a question and its answer in, the question with four options and a letter out."""

from collections.abc import Sequence

import numpy as np

MOTIONS = ("Going ahead.", "Turn right.", "Turn left.", "Stopped.", "Back up.", "Reverse parking.", "Drive backward.")
_STEERINGS = (
    "going straight",
    "steering to the left",
    "steering to the right",
    "slightly steering to the left",
    "slightly steering to the right",
)
_SPEEDS = ("driving slowly", "driving with normal speed", "driving fast", "driving very fast")
BEHAVIOURS = (
    "The ego vehicle is going straight. The ego vehicle is not moving.",
    *(f"The ego vehicle is {steering}. The ego vehicle is {speed}." for steering in _STEERINGS for speed in _SPEEDS),
)
LETTERS = "ABCD"


def multiple_choice(question: str, answer: str, rng: np.random.Generator, pool: Sequence[str] = ()) -> tuple[str, str]:
    """Append four shuffled options, three of them drawn from the motions or the behaviours.

    Args:
        question: DriveLM question whose answer is a motion or a behaviour of the ego vehicle.
        answer: the right option's text.
        rng: draws the distractors and the order.
        pool: options to draw from instead of DriveLM's.

    Returns:
        The question with its options, and the letter of the right one.
    """
    published = BEHAVIOURS if answer.startswith("The ego vehicle") else MOTIONS
    distractors = [option for option in pool or published if option != answer]
    chosen = [distractors[i] for i in rng.choice(len(distractors), size=len(LETTERS) - 1, replace=False)]
    options = [*chosen, answer]
    order = rng.permutation(len(options))
    listed = " ".join(f"{letter}. {options[i]}" for letter, i in zip(LETTERS, order, strict=True))
    letter = LETTERS[int(np.flatnonzero(order == len(options) - 1)[0])]
    return f"{question} Please select the correct answer from the following options: {listed}", letter
