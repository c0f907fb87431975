"""Held-out losses and answers on two ranks under ZeRO-3 are those of one process, and training does not notice them."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_shards.asked import question_order
from data_shards.index import load_index
from data_shards.read import read_frame
from data_shards.sources.drivelm_select import references_json
from data_shards.write import write_shards
from models.vlm import load_vlm
from tests.helpers.dist import losses
from tests.helpers.forked import fork_ranks, join_ranks, train
from tests.helpers.stages import driving_frames, write_recipe
from trainer.config import load_recipe
from trainer.data import make_data
from trainer.evaluate.drivelm import score
from trainer.evaluate.judge import NoJudge
from trainer.evaluate.predict import answer_frames
from trainer.preprocessing import chat_template
from trainer.stages import make_stage

pytestmark = pytest.mark.distributed

STEPS, ANSWERED, NEW_TOKENS = 4, 3, 6


@pytest.fixture(scope="module")
def held_out(world: Path) -> Path:
    """Five frames in the test form; three of their packs make the last round uneven on two ranks."""
    tags = {"perception": (2,), "prediction": (0,), "planning": (1,), "behavior": (0,)}
    frames = [
        replace(frame, questions=tuple(replace(q, tags=tags[q.kind]) for q in frame.questions))
        for frame in driving_frames(5, 11)
    ]
    write_shards(frames, world / "held-out", source="test", licence="none")
    return world / "held-out"


def _recipe(world: Path, run_dir: Path, **changes: object) -> Path:
    return write_recipe(world, "align", run_dir, steps=STEPS, model={"drop_path": 0.0}, **changes)


def _validation(held_out: Path) -> dict[str, object]:
    return {
        "datasets": [{"path": str(held_out), "name": "unseen"}],
        "every": 2,
        "max_packs": 3,
        "answers": ANSWERED,
        "max_new_tokens": NEW_TOKENS,
        "best": "bleu_1",
    }


@pytest.fixture(scope="module")
def watched(world: Path, held_out: Path) -> Path:
    run_dir = world / "watched"
    output = train(["--recipe", str(_recipe(world, run_dir, validation=_validation(held_out)))])
    assert "validation: unseen: 3 packs of 5 frames" in output
    return run_dir


def _validated(run_dir: Path) -> dict[int, dict[str, float]]:
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["step"], {}).update({k: v for k, v in row.items() if k.startswith("validation/")})
    return found


def test_training_is_bit_identical_with_and_without_validation(world, watched):
    alone = world / "unwatched"
    train(["--recipe", str(_recipe(world, alone))])
    assert losses(alone) == losses(watched)
    assert (alone / "model" / "model.safetensors").read_bytes() == (
        watched / "model" / "model.safetensors"
    ).read_bytes()
    values = _validated(watched)
    assert sorted(step for step, found in values.items() if found) == [2, 4]
    assert values[2]["validation/loss"] != values[4]["validation/loss"]


def test_losses_are_the_exact_means_of_one_process_over_the_same_packs(world, watched, held_out):
    recipe, _ = load_recipe(watched.parent / "watched-align.yaml")
    held = replace(recipe.data, datasets=recipe.validation.datasets)
    stage = make_stage(recipe, torch.float32)
    stage.vlm.load_state_dict(load_vlm(watched / "model").state_dict())
    stage.model.eval()
    data = make_data(replace(recipe, seed=0, data=held), stage.text, None, stage.cost())
    packs = [batch for batch, _ in zip(data.first_batches(), range(3), strict=False)]
    with torch.no_grad():
        outs = [stage.loss(stage.model, batch, torch.device("cpu")) for batch in packs]
    values = _validated(watched)[STEPS]
    expected = sum(float(out.total) for out in outs) / sum(map(stage.weight, packs))
    assert values["validation/loss"] == pytest.approx(expected, rel=1e-5)
    assert values["validation/unseen/loss"] == values["validation/loss"]
    for kind in ("perception", "prediction", "planning", "behavior"):
        pairs = [out.metrics[f"type/{kind}"] for out in outs]
        expected = sum(float(s) for s, _ in pairs) / sum(float(w) for _, w in pairs)
        assert values[f"validation/type/{kind}"] == pytest.approx(expected, rel=1e-5), kind


def test_scores_are_those_of_the_finished_models_answers(watched, held_out):
    recipe, _ = load_recipe(watched.parent / "watched-align.yaml")
    stage = make_stage(recipe, torch.float32)
    index = load_index(held_out)
    frames = [read_frame(index, place) for place in range(ANSWERED)]
    orders = [question_order(frame) for frame in frames]
    answers = answer_frames(
        load_vlm(watched / "model"),
        stage.tokenizer,
        frames,
        question_ids=orders,
        template=chat_template(recipe),
        layout=recipe.data.view,
        max_new_tokens=NEW_TOKENS,
    )
    rows = [
        {"id": f"{frame.key}_{place}", "question": frame.questions[number].question, "answer": answer}
        for frame, order, own in zip(frames, orders, answers, strict=True)
        for place, (number, answer) in enumerate(zip(order, own, strict=True))
    ]
    expected = score(references_json(frames), rows, NoJudge())["ungated"]
    values = _validated(watched)[STEPS]
    assert values["validation/unseen/accuracy"] == expected["accuracy"]
    for name in ("bleu_1", "rouge_l", "cider"):
        assert values[f"validation/{name}"] == pytest.approx(expected["language"][name], rel=1e-9)


def test_a_checkpoint_is_kept_where_the_score_was_best(watched):
    found = {step: values["validation/bleu_1"] for step, values in _validated(watched).items() if values}
    kept = {int(path.name.removeprefix("step-")) for path in (watched / "checkpoints").glob("step-*")}
    assert max(found, key=lambda step: (found[step], -step)) in kept


def test_pictures_show_the_models_own_answers(watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: PLC0415

    board = EventAccumulator(str(watched / "tensorboard")).Reload()
    assert "validation/unseen" in board.Tags()["images"]
    (tag,) = [tag for tag in board.Tags()["tensors"] if tag.startswith("validation/unseen")]
    text = board.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    assert "greedy answer:" in text
    assert "reference:" in text


def _stopped_at_a_pack(rank: int) -> None:
    """Rank 1 is asked to stop before the first pack that it looks at."""
    if rank == 1:
        from trainer import validation  # noqa: PLC0415

        validation._loader = _asked_to_stop(validation._loader)


def _stopped_at_an_answer(rank: int) -> None:
    """Rank 0 is asked to stop when it has answered its first frame of two."""
    if rank == 0:
        from trainer import validation_answers  # noqa: PLC0415

        validation_answers._answer = _asked_to_stop(validation_answers._answer)


def _stopped_after_looking_again(rank: int) -> None:
    if rank == 1:
        from trainer import loop  # noqa: PLC0415

        loop._look_again = _asked_to_stop(loop._look_again)


def _asked_to_stop(act: Callable[..., object]) -> Callable[..., object]:
    """The signal comes at the end of the first call."""
    asked = False

    def stopped(*arguments: object) -> object:
        nonlocal asked
        result = act(*arguments)
        if not asked:
            asked = True
            print(f"asked to stop in {act.__name__}", flush=True)
            os.kill(os.getpid(), signal.SIGUSR1)
        return result

    return stopped


def test_a_look_that_a_stop_broke_off_is_taken_again_once(world, watched, held_out):
    run_dir = world / "broken-off"
    arguments = ["--recipe", str(_recipe(world, run_dir, validation=_validation(held_out)))]
    stops = [
        (_stopped_at_a_pack, "_loader", 2, True),
        (_stopped_at_an_answer, "_answer", 2, True),
        (_stopped_after_looking_again, "_look_again", 2, False),
        (_stopped_at_a_pack, "_loader", 4, True),
    ]
    for number, (before, where, step, look_due) in enumerate(stops):
        log = world / f"broken-off-{number}.log"
        assert join_ranks(fork_ranks(arguments, log, before=before)) == [75, 75], log.read_text()
        assert f"asked to stop in {where}\n" in log.read_text()
        assert f"stopped on a signal after step {step};" in log.read_text()
        record = json.loads((run_dir / "checkpoints" / f"step-{step:06d}" / "state.json").read_text())
        assert record["state"]["look_due"] == look_due
        assert record["score"] == (None if look_due else _validated(watched)[step]["validation/bleu_1"])
        assert bool(_validated(run_dir)[step]) != look_due
    train(arguments)
    assert _validated(run_dir) == _validated(watched)
    assert (run_dir / "metrics.jsonl").read_text().count('"validation/loss"') == 2
    assert losses(run_dir) == losses(watched)
    for file in ("model/model.safetensors", "checkpoints/best"):
        assert (run_dir / file).read_bytes() == (watched / file).read_bytes()
