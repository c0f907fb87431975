"""The synthetic world: geometry against hand computation, cues in pixels, answers against the scene."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_shards.schema import CAMERAS
from data_shards.sources.synthetic import driving_frames, general_frames, position_frames, scene_frames
from data_shards.sources.synthetic.cameras import RIG
from data_shards.sources.synthetic.cities import CITIES, DEFAULT_CITY
from data_shards.sources.synthetic.describe import scene_cells
from data_shards.sources.synthetic.driver import important_objects, is_in_path, right_driving, seen_objects
from data_shards.sources.synthetic.objects import CLASSES, Scene, WorldObject, road_offset
from data_shards.sources.synthetic.positions import position_questions
from data_shards.sources.synthetic.questions import scene_questions
from data_shards.sources.synthetic.render import render_scene
from data_shards.sources.synthetic.visibility import hidden_share, main_camera, object_box, shown_share, visible_faces
from data_shards.sources.synthetic.wording import plural
from data_shards.sources.synthetic.world import is_clear, make_scene

TAG = re.compile(r"<c(\d+),(CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?),(\d+\.\d),(\d+\.\d)>")


def car(position, *, status="Stopped", colour="red", kind="car", heading=0.0):
    return WorldObject(CLASSES[kind], colour, status, position, heading)


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def frames():
    return list(driving_frames(seed=3, scenes=range(40), frames_per_scene=2, image_width=160))


def test_a_point_ahead_lands_where_the_pinhole_equation_says():
    ahead, left, up = 11.7, 1.0, 2.5
    u, v = RIG["CAM_FRONT"].project_point(np.array([ahead, left, up]))
    assert u == pytest.approx(800 - 1266 * 1.0 / 10.0)
    assert v == pytest.approx(450 - 1266 * 1.0 / 10.0)


def test_the_back_camera_sees_the_left_on_its_right():
    u, _ = RIG["CAM_BACK"].project_point(np.array([-10.0, 2.0, 1.0]))
    assert u > 800


def test_a_vehicle_at_a_border_shows_in_two_cameras():
    bearing = np.radians(27.5)
    item = car((12 * np.cos(bearing), 12 * np.sin(bearing)))
    showing = {name for name, camera in RIG.items() if object_box(item, camera) is not None}
    assert {"CAM_FRONT", "CAM_FRONT_LEFT"} <= showing


def test_the_same_seed_gives_the_same_frames(frames):
    again = list(driving_frames(seed=3, scenes=range(1), frames_per_scene=2, image_width=160))
    other = list(driving_frames(seed=4, scenes=range(1), frames_per_scene=2, image_width=160))
    assert again == frames[:2]
    assert other[0] != frames[0]


def test_a_scene_does_not_depend_on_the_range_it_is_made_in(frames):
    assert list(driving_frames(seed=3, scenes=range(7, 8), frames_per_scene=2, image_width=160)) == frames[14:16]


def test_a_frame_has_60_to_100_questions_on_average_and_six_views(frames):
    assert 60 <= np.mean([len(frame.questions) for frame in frames]) <= 100
    assert all(tuple(frame.images) == CAMERAS for frame in frames)


def test_images_have_the_nuscenes_size_by_default_ratio():
    frame = next(driving_frames(seed=0, scenes=range(1), frames_per_scene=1, image_width=1600))
    assert Image.open(io.BytesIO(frame.images["CAM_BACK"])).size == (1600, 900)


def test_every_tag_of_a_question_names_an_important_object(frames):
    for frame in frames:
        for question in frame.questions:
            for match in TAG.finditer(question.question + question.answer):
                assert match.group(0) in frame.objects


def test_the_important_objects_answer_names_each_key_object_once(frames):
    for frame in frames:
        (answer,) = [q.answer for q in frame.questions if q.tags == (2,)]
        assert [match.group(0) for match in TAG.finditer(answer)] == list(frame.objects)


def test_the_colour_at_a_tag_is_the_objects_colour():
    for colour, channel in (("red", 0), ("green", 1), ("blue", 2)):
        scene = Scene("straight", "sunny", (car((12.0, 0.0), colour=colour, status="Going ahead", kind="bus"),))
        (entry,) = seen_objects(scene)
        view = pixels(render_scene(scene, np.random.default_rng(0), width=1600)[entry.camera])
        column, row = int(entry.centre[0]), int(entry.centre[1] + 40)
        patch = view[row - 3 : row + 4, column - 3 : column + 4].mean((0, 1))
        assert patch.argmax() == channel


@pytest.mark.parametrize("kind", ["car", "truck", "bus", "pedestrian", "cyclist"])
def test_every_moving_status_is_drawn_differently(kind):
    statuses = ["Going ahead", "Stopped"] + (["Turn left", "Turn right"] if CLASSES[kind].is_vehicle else [])
    views = []
    for status in statuses:
        scene = Scene("straight", "sunny", (car((10.0, 1.0), status=status, kind=kind),))
        views.append(pixels(render_scene(scene, np.random.default_rng(0), width=400)["CAM_FRONT"]))
    for i, first in enumerate(views):
        for second in views[i + 1 :]:
            assert (abs(first - second).sum(-1) > 60).sum() > 30


def test_weather_and_road_show_in_the_front_view():
    scenes = [
        Scene(road, weather, ()) for road in ("straight", "left", "right") for weather in ("sunny", "rainy", "night")
    ]
    views = [pixels(render_scene(scene, np.random.default_rng(0), width=200)["CAM_FRONT"]) for scene in scenes]
    for i, first in enumerate(views):
        for second in views[i + 1 :]:
            assert (abs(first - second).sum(-1) > 40).mean() > 0.01


def test_yes_and_no_are_balanced_in_the_test_form(frames):
    answers = [q.answer for frame in frames for q in frame.questions if q.tags == (0,) and q.answer in ("Yes.", "No.")]
    assert len(answers) > 200
    assert 0.35 < np.mean([answer == "Yes." for answer in answers]) < 0.65


def test_multiple_choice_letters_are_balanced_and_point_to_the_answer(frames):
    letters = []
    for frame in frames:
        status = {tag: info["Status"] for tag, info in frame.objects.items()}
        for question in frame.questions:
            match = re.match(r"What is the moving status of object (<[^>]*>)\?", question.question)
            if match:
                letters.append(question.answer)
                offered = re.findall(r"[A-D]\. ([^.]*)\.", question.question)
                assert sorted(offered) == ["Going ahead", "Stopped", "Turn left", "Turn right"]
                assert f"{question.answer}. {status[match.group(1)]}." in question.question
    assert min(letters.count(letter) for letter in "ABCD") > 0.15 * len(letters)


def test_counts_agree_with_the_scene():
    for seed in range(30):
        scene = make_scene(np.random.default_rng(seed))
        seen = seen_objects(scene)
        answers = {q.question: q.answer for q in scene_questions(scene, np.random.default_rng(0))}
        behind = sum(main_camera(item) == "CAM_BACK" for item in scene.objects)
        words = ["None.", "One.", "Two.", "Three.", "Four."]
        assert answers["How many objects are to the back of the ego car?"] == words[behind]
        assert len(seen) >= len(important_objects(seen))


def test_the_ego_vehicle_stops_for_a_red_light_and_for_what_stands_close_ahead():
    light = car((15.0, 2.0), kind="traffic light", colour="red")
    for blocker in (light, car((10.0, 0.0)), car((9.0, 0.5), kind="pedestrian")):
        scene = Scene("straight", "sunny", (blocker,))
        assert right_driving(scene, seen_objects(scene)).speed == "not moving"
    green = Scene("straight", "sunny", (replace(light, colour="green"),))
    assert right_driving(green, seen_objects(green)).speed == "normal"


def test_in_the_path_follows_the_bend_of_the_road():
    item = car((18.0, 0.022 * 18**2 / 2), kind="pedestrian")
    for road, expected in (("left", True), ("right", False)):
        scene = Scene(road, "sunny", (item,))
        assert [is_in_path(scene, entry) for entry in seen_objects(scene)] == [expected]


def test_cells_name_an_object_where_its_centre_is():
    compared = 0
    for seed in range(20):
        scene = make_scene(np.random.default_rng(seed))
        cells = scene_cells(scene, 4)
        nearest = min(scene.objects, key=lambda item: item.distance, default=None)
        for entry in important_objects(seen_objects(scene))[:1]:
            if entry.item is nearest:
                box = entry.box
                column, row = int((box[0] + box[2]) / 2 // 400), int((box[1] + box[3]) / 2 // 225)
                assert entry.item.colour in cells[entry.camera][row * 4 + column].words
                compared += 1
    assert compared >= 5


def test_general_questions_are_answered_by_the_picture():
    frames = list(general_frames(seed=1, scenes=range(30), frames_per_scene=1, image_width=112))
    assert {frame.source for frame in frames} == {"synthetic-general"}
    for frame in frames:
        answers = {q.question: q.answer for q in frame.questions}
        circles = sum(answer.endswith("circle.") for q, answer in answers.items() if q.startswith("What is at"))
        assert (
            answers["How many circles are there in the image?"] == ["Zero.", "One.", "Two.", "Three.", "Four."][circles]
        )


@pytest.fixture(scope="module")
def moments():
    return [scene for number in range(40) for scene, _ in scene_frames(11, number, 2)]


def test_an_object_is_clearly_in_a_view_or_not_in_it_and_never_hidden(moments):
    num_at_borders = 0
    for scene in moments:
        for item in scene.objects:
            shares = [shown_share(item, camera) for camera in RIG.values()]
            assert main_camera(item) is not None
            assert all(share == 0.0 or share > 0.25 for share in shares)
            num_at_borders += sum(share > 0.0 for share in shares) > 1
            nearer = [other for other in scene.objects if other.distance < item.distance]
            assert all(hidden_share(item, other, camera) <= 0.3 for other in nearer for camera in RIG.values())
    assert num_at_borders > 10


def test_a_view_is_said_to_show_every_object_that_it_shows(moments):
    for scene in moments:
        answers = {q.question: q.answer for q in scene_questions(scene, np.random.default_rng(0))}
        for name, camera in RIG.items():
            answer = answers[f"What does {name} show?"]
            shown = [item for item in scene.objects if object_box(item, camera) is not None]
            assert all(item.name in answer for item in shown)
            assert ("no objects" in answer) == (not shown)


def test_a_turning_vehicle_shows_amber_on_the_side_it_turns_to(moments):
    num_turning = 0
    for scene in moments:
        turning = [item for item in scene.objects if item.is_turning]
        for item in turning:
            view = pixels(
                render_scene(replace(scene, objects=(item,)), np.random.default_rng(0), width=800)[main_camera(item)]
            )
            amber = (abs(view - (255, 170, 0)).sum(-1) < 60).sum()
            assert amber > 15, item
        num_turning += len(turning)
    assert num_turning > 20


def test_a_turn_looks_alike_to_both_sides_where_only_a_side_is_seen_and_the_world_has_no_such_turn(moments):
    left, right = (
        car((12.0, 0.0), status=status, heading=heading)
        for status, heading in (("Turn left", np.pi / 2), ("Turn right", -np.pi / 2))
    )
    views = [
        pixels(render_scene(Scene("straight", "sunny", (item,)), np.random.default_rng(0), width=800)["CAM_FRONT"])
        for item in (left, right)
    ]
    assert (abs(views[0] - views[1]).sum(-1) > 60).sum() == 0
    assert not is_clear(left, [])
    assert is_clear(replace(left, position=(14.0, 3.0)), [])
    turning = [item for scene in moments for item in scene.objects if item.is_turning]
    for item in turning:
        shown = {name for name, _ in visible_faces(RIG[main_camera(item)], item.corners(item.kind.body_height))}
        assert shown & {"front", "back"}, item


def test_nothing_ahead_is_at_the_edge_of_the_lane_or_at_the_stopping_distance():
    in_path = []
    for scene in (scene for number in range(60) for scene, _ in scene_frames(5, number, 2)):
        for item in scene.objects:
            if item.position[0] <= 0 or item.kind.name == "traffic light":
                continue
            aside = abs(item.position[1] - road_offset(scene.road, item.position[0]))
            assert abs(aside - 2.0) >= 0.3
            in_path += [item.distance] if aside < 2.0 else []
    assert len(in_path) > 20
    assert all(abs(distance - 13.0) >= 0.5 for distance in in_path)


def test_what_stands_at_the_border_of_a_view_is_not_asked_for_in_vain():
    at_border, asked = 0, 0
    for number in range(60):
        scene = make_scene(np.random.default_rng(number))
        questions = scene_questions(scene, np.random.default_rng(number))
        for item in scene.objects:
            for name, camera in RIG.items():
                if object_box(item, camera) is None:
                    continue
                at_border += main_camera(item) != name
                direction = name.removeprefix("CAM_").lower().replace("_", " ")
                here = [q for q in questions if f" to the {direction} of the ego" in q.question]
                near = item in [entry.item for entry in important_objects(seen_objects(scene))]
                for question in here:
                    is_presence = question.question.startswith(f"Are there {plural(item.kind.name)} ")
                    is_effect = near and question.question.startswith(f"Will a {item.kind.name} ")
                    asked += is_presence or is_effect
                    assert question.answer == "Yes." or not (is_presence or is_effect), question
    assert at_border > 8
    assert asked > 80


def test_two_of_a_kind_are_counted_together_with_the_verb_in_the_plural():
    first, second = car((-12.0, -3.0)), car((-14.0, 4.0), colour="blue")
    cases = {
        (first, second): "two cars to the back",
        (first, second, car((-18.0, 12.0), kind="bus")): "two cars and one bus to the back",
        (first, car((-14.0, 4.0), kind="bus")): "one car and one bus to the back",
    }
    for objects, words in cases.items():
        scene = Scene("straight", "sunny", objects)
        answers = {q.question: q.answer for q in scene_questions(scene, np.random.default_rng(0))}
        verb = "are" if words.startswith("two") else "is"
        assert answers["What are objects to the back of the ego car?"] == f"There {verb} {words} of the ego car."
        split = words.replace(" and", " to the back and")
        assert answers["Please describe the current scene."].endswith(f" There {verb} {split}.")


def test_what_the_ego_vehicle_should_do_is_the_same_in_every_answer(moments):
    actions = {"not moving": "should stop", "slowly": "should slow down", "normal": "should continue at the same speed"}
    said = 0
    for scene in moments:
        speed = right_driving(scene, seen_objects(scene)).speed
        (notice,) = [q.answer for q in scene_questions(scene, np.random.default_rng(0)) if q.tags == (3,)]
        said += notice.count("so the ego vehicle ")
        assert notice.count("so the ego vehicle ") == notice.count(actions[speed])
    assert said >= len(moments) / 2


def test_every_behaviour_is_also_a_wrong_option():
    right, wrong = set(), set()
    for number in range(200):
        scene = make_scene(np.random.default_rng(number))
        answers = scene_questions(scene, np.random.default_rng(number))
        (choice,) = [q for q in answers if q.kind == "behavior" and q.tags]
        options = dict(
            re.findall(r"([A-D])\. (The ego vehicle is .*?\. The ego vehicle is .*?)\.(?: |$)", choice.question)
        )
        right.add(options.pop(choice.answer))
        wrong |= set(options.values())
    assert right == wrong
    assert len(right) == 7


@pytest.mark.parametrize("city", [name for name in CITIES if name != DEFAULT_CITY])
def test_another_city_looks_otherwise_and_has_the_same_scenes(frames, city):
    (elsewhere,) = driving_frames(seed=3, scenes=range(1), frames_per_scene=1, image_width=160, city=city)
    assert elsewhere.questions == frames[0].questions
    assert elsewhere.objects == frames[0].objects
    for name, image in elsewhere.images.items():
        assert (abs(pixels(image) - pixels(frames[0].images[name])).sum(-1) > 40).mean() > 0.2


def test_a_position_is_asked_of_every_object_that_lies_in_the_view_and_answered_by_its_tag():
    asked = list(position_frames(seed=3, scenes=range(40), frames_per_scene=1, image_width=160))
    for number, frame in enumerate(asked):
        (camera,) = frame.images
        scene, _ = next(scene_frames(3, number, 1))
        expected = {leftmost.name: leftmost for leftmost in shown(scene, camera) if main_camera(leftmost) == camera}
        assert len(frame.questions) == len(expected) >= 1
        for question in frame.questions:
            _, named, x, y = TAG.fullmatch(question.answer.rstrip(".")).groups()
            (item,) = [item for name, item in expected.items() if f" {name} to the " in question.question]
            u, v = RIG[camera].project_point(item.centre)
            assert (named, x, y) == (camera, f"{u:.1f}", f"{v:.1f}")
            assert question.tags == (3,)
            assert frame.objects[question.answer.rstrip(".")]["Distance"] == round(item.distance, 1)
    assert len({camera for frame in asked for camera in frame.images}) > 3


def shown(scene, camera):
    """The leftmost of each name that has a box in the view."""
    boxes = [(object_box(item, RIG[camera]), item) for item in scene.objects]
    found = sorted(((box[0] + box[2], item) for box, item in boxes if box is not None), key=lambda pair: -pair[0])
    return {item.name: item for _, item in found}.values()


def test_of_two_alike_in_a_view_the_position_of_the_leftmost_is_asked_and_at_a_border_in_its_own_view():
    scene = Scene(road="straight", weather="sunny", objects=(car((12.0, -2.0)), car((12.0, 3.0))))
    (question,) = position_questions(scene, seen_objects(scene), "CAM_FRONT")
    assert question.question == "Where is the leftmost red car to the front of the ego vehicle?"
    assert float(TAG.match(question.answer)[3]) < 800
    bearing = np.radians(29.0)
    border = car((12 * np.cos(bearing), 12 * np.sin(bearing)))
    assert main_camera(border) == "CAM_FRONT_LEFT"
    assert object_box(border, RIG["CAM_FRONT"]) is not None
    scene = replace(scene, objects=(car((12.0, -2.0)), border))
    assert position_questions(scene, seen_objects(scene), "CAM_FRONT") == ()
    assert len(position_questions(scene, seen_objects(scene), "CAM_FRONT_LEFT")) == 1
