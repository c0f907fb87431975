"""A small evaluation to report on: shards, references and two files of predictions, one of them hostile."""

import json
from dataclasses import dataclass
from pathlib import Path

from data_shards.schema import Question, RawFrame
from data_shards.sources.drivelm import references_json
from data_shards.write import write_shards
from tests.helpers.frames import camera_frame

CHOICE = "What is the moving status of object <c1,CAM_FRONT,800.0,450.0>? Options: A. Going ahead. B. Turn left."
OBJECTS = "What are the important objects in the current scene? Those objects will be considered."
NOTICE = "What object should the ego vehicle notice first?"
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">&amp;'\"\x00\ud83d"


@dataclass(frozen=True, kw_only=True)
class ReportCase:
    """Paths of the files."""

    shards: Path
    references: Path
    good: Path
    bad: Path


def make_case(root: Path, *, scenes: int = 3, size: tuple[int, int] = (64, 36)) -> ReportCase:
    """Frames of five questions; `good` answers all but every second choice right, `bad` nothing but "Yes."."""
    frames = [_frame(f"scene{number}", size) for number in range(scenes)]
    write_shards(frames, root / "shards", source="test", licence="none")
    references = references_json(frames)
    (root / "references.json").write_text(json.dumps(references))
    good, bad = [], []
    for number, frame in enumerate(frames):
        for place, question in enumerate(frame.questions):
            row = {"id": f"{frame.key}_{place}", "question": question.question}
            wrong = question.question == CHOICE and number % 2
            good.append({**row, "answer": "A" if wrong else question.answer})
            bad.append({**row, "answer": HOSTILE if question.question == CHOICE else "Yes."})
    (root / "good.json").write_text(json.dumps(good))
    (root / "bad.json").write_text(json.dumps(bad))
    return ReportCase(
        shards=root / "shards", references=root / "references.json", good=root / "good.json", bad=root / "bad.json"
    )


def _frame(scene: str, size: tuple[int, int]) -> RawFrame:
    frame = camera_frame(scene, "frame0", width=size[0], height=size[1])
    tags = "<c1,CAM_FRONT,800.0,450.0> and <c2,CAM_BACK,100.0,200.0>"
    objects = f"There is a red car to the front of the ego vehicle, and a bus to the back of the ego vehicle. {tags}."
    questions = (
        Question(question=OBJECTS, answer=objects, kind="perception", tags=(2,)),
        Question(question=CHOICE, answer="B", kind="perception", tags=(0,)),
        Question(question=NOTICE, answer=f"Notice {tags}.", kind="prediction", tags=(3,)),
        Question(question="Will it move?", answer="Yes.", kind="prediction", tags=(0,)),
        Question(question="What are safe actions?", answer="Brake gently.", kind="planning", tags=(1,)),
    )
    return RawFrame(**(vars(frame) | {"questions": questions}))
