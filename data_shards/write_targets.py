"""A dataset and a teacher in, shards of its targets out: one beside each shard of the dataset, whole or not there.

The work can be cut into parts that run side by side; each leaves the shards alone that are there, and the one that
ends last writes `dataset.json`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_shards.atomic import TEMPORARY_SUFFIX
from data_shards.dataset_file import DATASET_FILE, DatasetInfo, read_dataset_file, write_dataset_file
from data_shards.decode import ImageError
from data_shards.entries import SampleEntry, ShardError
from data_shards.index import DatasetIndex, index_path, shard_info, shard_is_whole, write_index
from data_shards.read import BadSample, read_frame
from data_shards.scan import index_members
from data_shards.teacher_targets import KIND, TargetsRecord, TileTargets, encode
from data_shards.tiling import tile_jpegs
from data_shards.view_layout import LayoutError, ViewLayout
from data_shards.write import write_tar

Teach = Callable[[np.ndarray], TileTargets]
"""Tiles, uint8 [T, S, S, 3], to what a teacher makes of them."""


@dataclass(frozen=True, kw_only=True)
class TargetsJob:
    """Targets to write.

    Attributes:
        index: of the dataset.
        out_dir: where; made if missing.
        record: what they are made with.
        layout: how images become tiles.
        max_tiles: that the teacher is shown at a time.
        part: which of how many parts of the shards, the first is 0.
    """

    index: DatasetIndex
    out_dir: Path
    record: TargetsRecord
    layout: ViewLayout
    max_tiles: int
    part: tuple[int, int] = (0, 1)

    def tar(self, shard: int) -> Path:
        """The targets of a shard, which have its name."""
        return self.out_dir / self.index.samples.parts[shard].tar.name

    @property
    def own_shards(self) -> range:
        """The shards of this part."""
        return range(self.part[0], len(self.index.samples.parts), self.part[1])


@dataclass(frozen=True, kw_only=True)
class TargetsWritten:
    """What a call did.

    Attributes:
        reasons: frame and reason, of those for which there are no targets.
        missing: shards of other parts that are not there yet; the directory is finished where there are none.
    """

    num_frames: int
    reasons: Sequence[str]
    missing: int


def write_targets(job: TargetsJob, teach: Teach, *, show_progress: bool = True) -> TargetsWritten:
    """Write the shards of a part that are not whole yet, and finish the directory if no part is missing.

    Raises:
        ShardError: the directory holds something else, or targets made otherwise; the message has both.
    """
    _prepare(job)
    parts = job.index.samples.parts
    todo = [s for s in job.own_shards if not shard_is_whole(job.tar(s), parts[s].num_samples)]
    total, left = (sum(parts[s].num_samples for s in some) for some in (job.own_shards, todo))
    reasons: list[str] = []
    with tqdm(
        total=total, initial=total - left, unit="frame", desc=str(job.out_dir), disable=None if show_progress else True
    ) as bar:
        for shard in todo:
            _write_shard(job, shard, teach, bar, reasons)
    missing = sum(not index_path(job.tar(shard)).is_file() for shard in range(len(parts)))
    if not missing:
        tars = [job.tar(shard) for shard in range(len(parts))]
        write_dataset_file(job.out_dir, _info(job, complete=True, tars=tars))
    return TargetsWritten(num_frames=left, reasons=reasons, missing=missing)


def _prepare(job: TargetsJob) -> None:
    job.out_dir.mkdir(parents=True, exist_ok=True)
    old = read_dataset_file(job.out_dir)
    if old is None:
        found = sorted(path.name for path in job.out_dir.iterdir() if not path.name.endswith(TEMPORARY_SUFFIX))
        if found and DATASET_FILE not in found:
            raise ShardError(
                f"{job.out_dir}: got a directory that holds {found[0]!r} and no {DATASET_FILE}, expected an empty or "
                "new one; name another directory"
            )
        if not found:
            write_dataset_file(job.out_dir, _info(job, complete=False))
    else:
        expected = job.record.build()
        wrong = [name for name, value in expected.items() if old.build.get(name) != value]
        if wrong:
            listed = "; ".join(f"{name}: got {old.build.get(name)}, expected {expected[name]}" for name in wrong)
            raise ShardError(
                f"{job.out_dir / DATASET_FILE}: holds targets made otherwise: {listed}; name another directory, or "
                "remove this one"
            )
    for shard in job.own_shards:
        for leftover in job.out_dir.glob(f".{job.tar(shard).name}.*{TEMPORARY_SUFFIX}"):
            leftover.unlink()


def _info(job: TargetsJob, *, complete: bool, tars: Sequence[Path] = ()) -> DatasetInfo:
    shards = tuple(shard_info(tar) for tar in tars)
    return DatasetInfo(source=KIND, licence="as the frames", shards=shards, complete=complete, build=job.record.build())


def _write_shard(job: TargetsJob, shard: int, teach: Teach, bar: tqdm, reasons: list[str]) -> None:
    tar = job.tar(shard)
    index_path(tar).unlink(missing_ok=True)

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for entry, targets in _taught(job, shard, teach):
            if isinstance(targets, str):
                reasons.append(f"{entry.shard}: frame {entry.key}: {targets}")
            yield entry.key, encode(entry, targets)
            bar.update(1)

    write_tar(samples(), tar)
    write_index(tar, index_members(tar))


def _taught(job: TargetsJob, shard: int, teach: Teach) -> Iterator[tuple[SampleEntry, TileTargets | str | None]]:
    """The frames of a shard with their targets; the teacher is shown several at a time."""
    parts = job.index.samples.parts
    first = sum(part.num_samples for part in parts[:shard])
    waiting: list[tuple[SampleEntry, np.ndarray | str]] = []
    num_tiles = 0
    for position in range(first, first + parts[shard].num_samples):
        tiles = _tiles(job, position)
        if waiting and num_tiles + len(tiles) > job.max_tiles:
            yield from _teach_waiting(waiting, teach)
            waiting, num_tiles = [], 0
        waiting.append((job.index.samples[position], tiles))
        num_tiles += 0 if isinstance(tiles, str) else len(tiles)
    yield from _teach_waiting(waiting, teach)


def _tiles(job: TargetsJob, position: int) -> np.ndarray | str:
    """The tiles of a frame, or why there are none."""
    try:
        return tile_jpegs(read_frame(job.index, position).images, job.layout)[0]
    except BadSample as error:
        return error.reason
    except (ImageError, LayoutError) as error:
        return str(error)


def _teach_waiting(
    waiting: Sequence[tuple[SampleEntry, np.ndarray | str]], teach: Teach
) -> Iterator[tuple[SampleEntry, TileTargets | str | None]]:
    shown = [tiles for _, tiles in waiting if not isinstance(tiles, str) and len(tiles)]
    made = iter(teach(np.concatenate(shown)).split([len(tiles) for tiles in shown]) if shown else ())
    for entry, tiles in waiting:
        if isinstance(tiles, str):
            yield entry, tiles
        else:
            yield entry, next(made) if len(tiles) else None
