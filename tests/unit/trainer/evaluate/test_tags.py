"""Tags read to the letter or as meant, and matched with or without their camera."""

import pytest

from trainer.evaluate.tags import match_anywhere, match_strictly, meant_tags, well_formed_tags

TAG = "<c1,CAM_FRONT,800.0,450.0>"


def tags(*points):
    return well_formed_tags(" ".join(f"<c1,{camera},{x}.0,{y}.0>" for camera, x, y in points))


def test_a_well_formed_tag_is_read():
    (tag,) = well_formed_tags(f"The car {TAG}.")
    assert (tag.number, tag.camera, tag.x, tag.y, tag.text) == (1, "CAM_FRONT", 800.0, 450.0, TAG)


@pytest.mark.parametrize(
    "text",
    [
        "<c1, CAM_FRONT, 800.0, 450.0>",
        "<c1,CAM_FRONT,800,450>",
        "(c1,CAM_FRONT,800.0,450.0)",
        "[c1,CAM_FRONT,800,450.0]",
    ],
)
def test_other_forms_are_read_only_as_meant(text):
    assert well_formed_tags(text) == []
    (tag,) = meant_tags(text)
    assert (tag.camera, tag.x, tag.y) == ("CAM_FRONT", 800.0, 450.0)


@pytest.mark.parametrize("text", ["<c1,CAM_TOP,1.0,2.0>", "<c1,CAM_FRONT,1.0>", "", "CAM_FRONT"])
def test_what_is_no_tag_is_not_read(text):
    assert meant_tags(text) == []


def test_strict_matching_wants_the_camera_and_measures_l2():
    reference = tags(("CAM_FRONT", 100, 100))
    diagonal = tags(("CAM_FRONT", 110, 110))  # L1 20, L2 14.1
    elsewhere = tags(("CAM_BACK", 100, 100))
    assert len(match_strictly(diagonal, reference).pairs) == 1
    assert len(match_anywhere(diagonal, reference).pairs) == 0
    assert len(match_strictly(elsewhere, reference).pairs) == 0
    assert len(match_anywhere(elsewhere, reference).pairs) == 1


def test_numbers_beyond_all_bounds_stay_numbers():
    (tag,) = well_formed_tags(f"<c1,CAM_FRONT,{'9' * 400}.0,1.0>")
    assert tag.x == 1e9


def test_each_reference_tag_is_matched_once_and_f1_counts_the_rest():
    match = match_strictly(tags(("CAM_FRONT", 1, 1), ("CAM_FRONT", 2, 2)), tags(("CAM_FRONT", 1, 1)))
    assert match.f1 == pytest.approx(2 / 3)
    assert match_strictly([], []).f1 == 0.0
