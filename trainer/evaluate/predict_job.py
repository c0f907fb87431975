"""A model, shards and settings in, a file of DriveLM submission rows out: resumable, and shared among ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from data_shards.coords import unparsed_tags
from data_shards.read import read_frame
from data_shards.schema import RawFrame
from models.vlm import load_vlm
from trainer.dist import Ranks, compute_device, is_main_process
from trainer.evaluate.option_order import original_letter, permute_options
from trainer.evaluate.partial_answers import AnswerLog, PartialAnswers, Row
from trainer.evaluate.predict import Answered, Asking, PredictError, answer_in_batches
from trainer.evaluate.predict_inputs import PredictInputs, PredictJob, deciding_settings, read_inputs
from trainer.evaluate.submission import write_submission
from trainer.run_lock import locked, take_away

T = TypeVar("T")

_CUT = "cut"
"""Key of kept rows whose answer has no end; it is no part of the output."""

_FRAMES_AT_ONCE = 16
"""Frames a rank holds in memory, and answers between two meetings of the ranks; batches are made within them."""


def run_job(job: PredictJob, ranks: Ranks | None = None) -> int:
    """Answer every asked question that has no answer yet, and write the output; returns its number of rows.

    Called on all ranks, each of which answers a share of the frames; `ranks` is None where this process is alone.

    Raises:
        PredictError: model, data or settings that do not go together, everything wrong at once; or what stopped
            another rank.
        PartialError: kept answers of other settings.
        LockedError: another process writes the same output.
        BadSample: a damaged shard.
    """
    inputs = read_inputs(job)
    partial = PartialAnswers(job.out)
    with ExitStack() as held:
        _on_main(ranks, lambda: _hold(partial, held))
        rows = _answer_all(job, inputs, partial, ranks)
        _on_main(ranks, lambda: _clear(partial))
    _on_main(ranks, partial.remove)
    return rows


def _hold(partial: PartialAnswers, held: ExitStack) -> None:
    partial.directory.mkdir(parents=True, exist_ok=True)
    held.enter_context(locked(partial.directory, _say, wait_s=0, setting="--out"))


def _clear(partial: PartialAnswers) -> None:
    partial.drop()
    take_away(partial.directory)


def _answer_all(job: PredictJob, inputs: PredictInputs, partial: PartialAnswers, ranks: Ranks | None) -> int:
    """Answer what is open and write the output; returns its number of rows."""
    _on_main(ranks, lambda: partial.prepare(deciding_settings(job, inputs), restart=job.restart))
    done = partial.read()
    if ranks:
        ranks.barrier()  # no rank may add answers while another still reads what is kept
    if len(done) > 0 and is_main_process():
        print(f"{partial.directory}: going on behind {len(done)} kept answers", flush=True)
    open_frames = _unanswered(inputs, done)
    rank, world_size = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    _answer_share(job, inputs, open_frames[rank::world_size], partial, ranks, done=len(done))
    if ranks:
        ranks.barrier()  # a file server shows a rank's rows to another machine once that rank has closed its file
    return _on_main(ranks, lambda: _finish(job, inputs, partial))


def _unanswered(inputs: PredictInputs, done: dict[str, Row]) -> list[tuple[int, list[int]]]:
    """Frames with questions that have no row yet, as position and places in the frame's order of ids."""
    found = []
    for position, order in inputs.questions.items():
        key = inputs.index.samples[position].key
        places = [place for place in range(len(order)) if f"{key}_{place}" not in done]
        if places:
            found.append((position, places))
    return found


def _answer_share(
    job: PredictJob,
    inputs: PredictInputs,
    share: Sequence[tuple[int, list[int]]],
    partial: PartialAnswers,
    ranks: Ranks | None,
    *,
    done: int,
) -> None:
    """Answer this rank's frames. Ranks meet after each few, so that one that fails stops all and none waits long."""
    chunks = [share[first : first + _FRAMES_AT_ONCE] for first in range(0, len(share), _FRAMES_AT_ONCE)]
    rounds = int(ranks.max([float(len(chunks))])[0]) if ranks else len(chunks)
    answerer: _Answerer | None = None
    total = sum(map(len, inputs.questions.values()))
    with (
        AnswerLog(partial, ranks.rank if ranks else 0) as log,
        tqdm(total=total, initial=min(done, total), unit="answer", disable=not is_main_process()) as bar,
    ):
        for number in range(rounds):
            problem: Exception | None = None
            answered = 0
            if number < len(chunks):
                try:
                    answerer = answerer or _Answerer(job, inputs, ranks)
                    for rows in answerer.rows(chunks[number]):
                        log.append(rows)
                        answered += len(rows)
                        bar.update(0 if ranks else len(rows))
                except (ValueError, OSError, RuntimeError) as error:
                    problem = error
            bar.update(int(_meet(ranks, answered, problem)) if ranks else 0)
            if problem:
                raise problem


def _meet(ranks: Ranks, answered: int, problem: Exception | None) -> float:
    """Answers of all ranks in this round.

    Raises:
        PredictError: another rank has failed.
    """
    messages = ranks.gather(None if problem is None else str(problem))
    failed = [f"rank {rank}: {message}" for rank, message in enumerate(messages) if message is not None]
    if failed and problem is None:
        raise PredictError("\n".join(failed))
    return ranks.sum([float(answered)])[0] if not failed else 0.0


class _Answerer:
    """A loaded model that answers frames of one dataset."""

    def __init__(self, job: PredictJob, inputs: PredictInputs, ranks: Ranks | None) -> None:
        device = ranks.device() if ranks else compute_device()
        self._model = load_vlm(job.model, torch.bfloat16 if device.type == "cuda" else torch.float32)
        self._model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` untyped
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(job.model, local_files_only=True)
        self._inputs = inputs
        self._permute = job.permute_options
        self._asking = Asking(
            template=inputs.preprocessing.chat(),
            layout=inputs.preprocessing.view,
            max_new_tokens=job.max_new_tokens,
            perturbation=job.perturbation,
            sampling=job.sampling,
            batch_rows=job.batch_rows,
        )

    def rows(self, chunk: Sequence[tuple[int, list[int]]]) -> Iterator[list[Row]]:
        """Rows of the asked places of some frames, a list a batch."""
        frames = [read_frame(self._inputs.index, position) for position, _ in chunk]
        orders = [self._inputs.questions[position] for position, _ in chunk]
        asked = [[order[place] for place in places] for order, (_, places) in zip(orders, chunk, strict=True)]
        shown, letters = zip(*(self._shown(frame) for frame in frames), strict=True)
        for batch in answer_in_batches(self._model, self._tokenizer, shown, asked, self._asking):
            yield [
                row
                for part in batch
                for row in _rows(frames[part.frame], orders[part.frame], part, letters[part.frame])
            ]

    def _shown(self, frame: RawFrame) -> tuple[RawFrame, list[Mapping[str, str]]]:
        """The frame as it is asked, and for each question the letters shown to the original ones."""
        if self._permute is None:
            return frame, [{}] * len(frame.questions)
        permuted = [
            permute_options(question.question, seed=self._permute, name=f"{frame.key}/{number}")
            for number, question in enumerate(frame.questions)
        ]
        questions = tuple(
            replace(question, question=new.question) for question, new in zip(frame.questions, permuted, strict=True)
        )
        return replace(frame, questions=questions), [new.letters for new in permuted]


def _finish(job: PredictJob, inputs: PredictInputs, partial: PartialAnswers) -> int:
    """Put the rows into the order of the data, and write them.

    Raises:
        PredictError: rows that ranks have written are not to be seen here.
    """
    kept = partial.read()
    names = [
        f"{inputs.index.samples[position].key}_{place}"
        for position, order in inputs.questions.items()
        for place in range(len(order))
    ]
    if missing := [name for name in names if name not in kept]:
        raise PredictError(
            f"{partial.directory}: got no answer to {len(missing)} questions, such as {missing[0]}, though every rank "
            "is done; put --out on a disk that all machines share, and run the same command again"
        )
    rows = [kept[name] for name in names]
    num_cut = sum(row.pop(_CUT, False) for row in rows)
    write_submission(rows, job.out, job.header)
    if num_cut:
        print(f"{job.out}: {num_cut} answers were cut at --max-new-tokens {job.max_new_tokens}", flush=True)
    if problem := unparsed_tags(str(row["answer"]) for row in rows):
        print(f"{job.out}: {problem}; `python -m trainer.evaluate lint` lists them", flush=True)
    return len(rows)


def _rows(frame: RawFrame, order: Sequence[int], part: Answered, letters: Sequence[Mapping[str, str]]) -> list[Row]:
    """Submission rows, the id being `<scene>_<frame>_<place>`; of permuted options the letters are mapped back."""
    rows: list[Row] = []
    for number, answer, is_cut in zip(part.question_ids, part.answers, part.is_cut, strict=True):
        row: Row = {
            "id": f"{frame.key}_{order.index(number)}",
            "question": frame.questions[number].question,
            "answer": original_letter(answer, letters[number]),
        }
        if letters[number]:
            row["option_letters"] = dict(letters[number])
        rows.append({**row, _CUT: True} if is_cut else row)
    return rows


def _say(text: str) -> None:
    print(text, flush=True)


def _on_main(ranks: Ranks | None, act: Callable[[], T]) -> T:
    return ranks.on_main(act) if ranks else act()
