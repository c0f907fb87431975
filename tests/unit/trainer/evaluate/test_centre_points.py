"""Errors of points in pixels, by camera and by distance of the object, against pairs worked out by hand."""

import numpy as np
import pytest

from trainer.evaluate.centre_points import centre_points, distance_group, point_errors
from trainer.evaluate.drivelm import GradedQuestion
from trainer.evaluate.submission import ReferenceQuestion
from trainer.evaluate.tags import meant_tags

OBJECTS = "<c1,CAM_FRONT,100.0,100.0> <c2,CAM_FRONT,500.0,100.0> <c3,CAM_BACK,800.0,400.0>"


def graded(answer, reference, *, index=0, tags=(2,), frame="f"):
    question = ReferenceQuestion(
        id=f"s_{frame}_{index}",
        scene="s",
        frame=frame,
        index=index,
        kind="perception",
        question="What are the important objects in the current scene?",
        answer=reference,
        tags=tags,
    )
    return GradedQuestion(question=question, answer=answer, eligible=True)


def references(distances):
    infos = {tag.text: {"Distance": metres} for tag, metres in zip(meant_tags(OBJECTS), distances, strict=True)}
    return {"s": {"key_frames": {"f": {"QA": {}, "key_object_infos": infos}, "g": {"QA": {}}}}}


def test_the_nearest_pair_of_a_camera_goes_first_and_every_point_has_one_partner():
    predicted = meant_tags("<c1,CAM_FRONT,490.0,100.0> <c2,CAM_FRONT,520.0,100.0> <c3,CAM_FRONT,800.0,400.0>")
    errors = [error for _, error in point_errors(predicted, meant_tags(OBJECTS))]
    assert errors == [420.0, 10.0, None]  # c2 first; then c1 gets 520; CAM_BACK has no partner


def test_errors_are_counted_by_camera_and_by_distance():
    answer = "<c1,CAM_FRONT,103.0,104.0> <c2,CAM_FRONT,500.0,130.0>"
    result = centre_points([graded(answer, OBJECTS)], references([8.0, 12.5, 19.9]))
    assert result["all"] == {"points": 3, "paired": 2, "within": 1 / 3, "median": 17.5, "mean": 17.5, "p90": 27.5}
    assert {name: row["points"] for name, row in result["by_camera"].items() if row["points"]} == {
        "CAM_FRONT": 2,
        "CAM_BACK": 1,
    }
    assert {group: row["median"] for group, row in result["by_distance"].items()} == {
        "0-10 m": 5.0,
        "10-15 m": 30.0,
        "15-20 m": None,
    }
    assert result["by_distance"]["15-20 m"] == {
        "points": 1, "paired": 0, "within": 0.0, "median": None, "mean": None, "p90": None,
    }  # fmt: skip


def test_only_answers_that_name_objects_count_and_frames_without_distances_are_unknown():
    others = graded("<c1,CAM_FRONT,0.0,0.0>", OBJECTS, index=4, tags=(1,))
    named = graded("<c1,CAM_BACK,800.0,415.9>", OBJECTS, index=5, tags=(3,), frame="g")
    result = centre_points([others, named], references([1, 2, 3]))
    assert list(result["by_distance"]) == ["unknown"]
    assert result["all"]["points"] == 3
    assert result["all"]["within"] == pytest.approx(1 / 3)


def test_without_points_nothing_is_measured():
    result = centre_points([graded("nothing", "no tags")], references([1, 2, 3]))
    assert result["all"] == {"points": 0, "paired": 0, "within": None, "median": None, "mean": None, "p90": None}


@pytest.mark.parametrize(
    ("metres", "group"),
    [(0, "0-10 m"), (9.9, "0-10 m"), (10, "10-15 m"), (29, "20-30 m"), (30, "30 m and more"), (-1, "unknown"),
     (float("nan"), "unknown"), (True, "unknown"), ("8", "unknown"), (None, "unknown")],
)  # fmt: skip
def test_groups_of_distance(metres, group):
    assert distance_group(metres) == group


def test_ten_megabytes_of_tags_do_not_take_long():
    answer = "<c1,CAM_FRONT,800.0,450.0>" * 400_000
    assert centre_points([graded(answer, OBJECTS)], references([1, 2, 3]))["all"]["paired"] == 2


def test_a_constant_shift_is_measured_as_its_length():
    rng = np.random.default_rng(0)
    points = [(200.0 * i, round(float(rng.uniform(100, 800)), 1)) for i in range(1, 7)]
    tags = [" ".join(f"<c1,CAM_BACK,{x + dx:.1f},{y + dy:.1f}>" for x, y in points) for dx, dy in ((0, 0), (3, 4))]
    row = centre_points([graded(tags[1], tags[0])], references([1, 2, 3]))["by_camera"]["CAM_BACK"]
    assert row["points"] == row["paired"] == 6
    assert row["mean"] == pytest.approx(5.0)
    assert row["p90"] == pytest.approx(5.0)
