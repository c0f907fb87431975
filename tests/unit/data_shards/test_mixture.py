"""The smallest limits of a pack that lose nothing, against what larger and smaller ones lose."""

from data_shards.mixture import MixtureEntry, PackLimits, SampleSize, SizeTable, least_limits, oversized

LIMITS = PackLimits(max_tokens=300, max_tiles=10)
WIDE = SampleSize(prefix_tokens=10, question_tokens=(5,), tiles=11)
LONG = SampleSize(prefix_tokens=100, question_tokens=(50, 201, 140), tiles=1)
USUAL = SampleSize(prefix_tokens=40, question_tokens=(7, 9), tiles=3)
SILENT = SampleSize(prefix_tokens=0, question_tokens=(), tiles=7)


def mixture(*samples: SampleSize) -> list[MixtureEntry]:
    return [MixtureEntry(sizes=SizeTable.of([sample])) for sample in samples]


def test_the_least_limits_leave_out_what_the_given_ones_do_and_smaller_ones_more():
    for samples in ((WIDE, LONG, USUAL), (USUAL, WIDE), (SILENT,), (LONG, SILENT)):
        mixed = mixture(*samples)
        least = least_limits(mixed, LIMITS)
        assert oversized(mixed, least) == oversized(mixed, LIMITS)
        fewer_tiles = PackLimits(max_tokens=least.max_tokens, max_tiles=least.max_tiles - 1)
        assert len(oversized(mixed, fewer_tiles)) > len(oversized(mixed, LIMITS))
        if samples != (SILENT,):
            fewer_tokens = PackLimits(max_tokens=least.max_tokens - 1, max_tiles=least.max_tiles)
            assert len(oversized(mixed, fewer_tokens)) > len(oversized(mixed, LIMITS))


def test_they_are_the_largest_question_with_its_prefix_and_the_most_tiles():
    assert least_limits(mixture(WIDE, LONG, USUAL), LIMITS) == PackLimits(max_tokens=240, max_tiles=3)
