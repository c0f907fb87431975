"""A directory or address of teacher targets and the dataset they are of in, the targets of one frame after the other
out, by the same validated reads as the frames themselves."""

from dataclasses import dataclass
from pathlib import Path

from data_shards.dataset_file import DATASET_FILE, read_dataset_file
from data_shards.entries import SampleEntry, ShardError
from data_shards.index import DatasetIndex
from data_shards.read import BadSample, read_members
from data_shards.remote import CacheSettings, open_dataset
from data_shards.teacher_targets import FEATURES, TargetsRecord, TileTargets, decode

_MOST_BYTES = 16 << 30
"""A longer member is refused before it is read; features of one layer of 13 tiles of a 6B teacher have 85 MB."""


@dataclass(frozen=True, kw_only=True)
class TargetSource:
    """Targets of every frame of a dataset, in the order of its index.

    Attributes:
        record: what they were made with.
        suffixes: members that are read.
    """

    index: DatasetIndex
    record: TargetsRecord
    suffixes: tuple[str, ...]

    def read(self, position: int, entry: SampleEntry, num_tiles: int) -> TileTargets:
        """Targets of the tiles of a frame.

        Args:
            position: of the frame in its dataset's index.
            entry: of the frame there.
            num_tiles: that it has now.

        Raises:
            BadSample: they are damaged or of another frame, or could not be made; with place and key of the targets.
            Unreachable: a remote store does not answer.
        """
        own = self.index.samples[position]
        try:
            if own.key != entry.key:
                raise ShardError(f"got those of frame {own.key}; write the targets again")
            wanted = ["json", *(suffix for suffix in self.suffixes if suffix in own.members)]
            members = read_members(self.index, position, wanted, _MOST_BYTES)
            return decode(members, entry, num_tiles, self.record, self.suffixes)
        except BadSample as error:
            raise BadSample(
                f"teacher targets: {error.reason}", shard=error.shard, offset=error.offset, key=entry.key
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            offset = own.members["json"].offset if "json" in own.members else -1
            raise BadSample(f"teacher targets: {error}", shard=own.shard, offset=offset, key=entry.key) from error

    def zeros(self, num_tiles: int) -> TileTargets:
        """Targets that say nothing, for tiles that count nothing."""
        return self.record.zeros(num_tiles, self.suffixes)


def open_targets(location: Path, cache: CacheSettings, data: DatasetIndex, *, features: bool) -> TargetSource:
    """The targets of a dataset.

    Args:
        location: directory, or http(s) or s3 address.
        cache: for those at an address.
        data: the index of the dataset.
        features: hidden states are wanted too.

    Raises:
        ShardError: no finished targets there, or those of another dataset, or none of features.
    """
    index = open_dataset(location, cache)
    info = read_dataset_file(index.root)
    record = TargetsRecord.of_build(info.build) if info else None
    if record is None:
        raise ShardError(
            f"{location}: {DATASET_FILE} is not of teacher targets; correct the path, or write them with "
            "`python -m data_shards teacher-targets`"
        )
    counts = [[part.num_samples for part in one.samples.parts] for one in (index, data)]
    if counts[0] != counts[1]:
        raise ShardError(
            f"{location}: got targets of {sum(counts[0])} frames in {len(counts[0])} shards, expected {sum(counts[1])} "
            f"in {len(counts[1])} as {data.root} has; they are of another dataset: write them again"
        )
    if features and not record.layers:
        raise ShardError(
            f"{location}: holds no features, which distill.features or distill.answer_logits needs; write the targets "
            "again with that weight set, or set it to 0"
        )
    wanted = [suffix for suffix in record.shapes(0) if features or suffix != FEATURES]
    return TargetSource(index=index, record=record, suffixes=tuple(wanted))
