"""The coordinate codec against the facts of the recipe, and as properties over points and texts."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_shards.coords import (
    CoordinateError,
    CoordinateFormat,
    DecodedText,
    decode_point,
    decode_tags,
    drivelm_text,
    encode_point,
    encode_tags,
    model_text,
    point_spans,
    unparsed_tags,
)
from data_shards.schema import CAMERAS
from tests.helpers.paths import DRIVELM_SAMPLE, needs_drivelm_sample

OFFICIAL_TAG = re.compile(r"<c\d+,CAM_(?:FRONT|BACK)(?:_LEFT|_RIGHT)?,\d+\.\d,\d+\.\d>")
CANVAS = CoordinateFormat(space="canvas", decimals=0)

cameras = st.sampled_from(CAMERAS)
points = st.tuples(st.floats(0, 1600), st.floats(0, 900))
tenths = st.tuples(st.integers(0, 16000), st.integers(0, 9000)).map(lambda p: (p[0] / 10, p[1] / 10))
formats = st.builds(
    CoordinateFormat,
    space=st.sampled_from(["pixels", "canvas", "view"]),
    decimals=st.integers(min_value=0, max_value=6),
)
words = st.text(alphabet=st.characters(exclude_characters="<>"), max_size=20)
many = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def tag(number, camera, point):
    return f"<c{number},{camera},{point[0]:.1f},{point[1]:.1f}>"


def points_of(text):
    return [tuple(map(float, pair)) for pair in re.findall(r"(\d+\.\d),(\d+\.\d)", text)]


def test_the_example_of_the_recipe():
    assert encode_tags("<c1,CAM_BACK,1088.3,497.5>", CANVAS) == "<c1,CAM_BACK,[560,776]>"
    view = CoordinateFormat(space="view", decimals=1)
    assert encode_tags("<c1,CAM_BACK,1088.3,497.5>", view) == "<c1,CAM_BACK,[680.2,552.8]>"


@pytest.mark.parametrize(
    ("camera", "corner"),
    [
        ("CAM_FRONT_LEFT", (0, 0)),
        ("CAM_FRONT", (1000 / 3, 0)),
        ("CAM_FRONT_RIGHT", (2000 / 3, 0)),
        ("CAM_BACK_LEFT", (0, 500)),
        ("CAM_BACK", (1000 / 3, 500)),
        ("CAM_BACK_RIGHT", (2000 / 3, 500)),
    ],
)
def test_each_camera_has_its_cell_of_the_canvas(camera, corner):
    assert encode_point(camera, (0, 0), "canvas") == pytest.approx(corner)
    far = encode_point(camera, (1600, 900), "canvas")
    assert far == pytest.approx((corner[0] + 1000 / 3, corner[1] + 500))


@many
@given(cameras, points, st.sampled_from(["pixels", "canvas", "view"]))
def test_decoding_a_point_inverts_encoding_it(camera, point, space):
    encoded = encode_point(camera, point, space)
    if space != "pixels":
        assert all(-1e-9 <= value <= 1000 + 1e-9 for value in encoded)
    assert decode_point(camera, encoded, space) == pytest.approx(point, abs=1e-6)


@many
@given(
    cameras,
    tenths,
    st.sampled_from(
        [
            ("canvas", 0, 2.4, 0.9),
            ("canvas", 1, 0.24, 0.1),
            ("canvas", 2, 0.0, 0.0),
            ("view", 0, 0.8, 0.5),
            ("view", 1, 0.1, 0.1),
            ("pixels", 0, 0.5, 0.5),
            ("pixels", 1, 0.0, 0.0),
        ]
    ),
)
def test_a_tag_comes_back_within_the_rounding_of_its_format(camera, point, case):
    space, decimals, error_x, error_y = case
    format = CoordinateFormat(space=space, decimals=decimals)
    decoded = decode_tags(encode_tags(tag(3, camera, point), format), format)
    assert (decoded.num_tags, decoded.unparsed) == (1, ())
    assert OFFICIAL_TAG.fullmatch(decoded.text)
    [(x, y)] = points_of(decoded.text)
    assert abs(x - point[0]) <= error_x + 1e-6
    assert abs(y - point[1]) <= error_y + 1e-6


@many
@given(st.lists(st.tuples(words, cameras, tenths), max_size=4), words, formats)
def test_text_around_tags_is_untouched(parts, tail, format):
    text = "".join(word + tag(i, camera, point) for i, (word, camera, point) in enumerate(parts)) + tail
    encoded = encode_tags(text, format)
    decoded = decode_tags(encoded, format)
    assert decoded.num_tags == len(parts)
    assert decoded.unparsed == ()
    expected = [word for word, _, _ in parts] + [tail]
    assert re.split(r"<[^<>]*>", encoded) == re.split(r"<[^<>]*>", decoded.text) == expected


@many
@given(st.text(alphabet="<>c1,CAM_BKFRONT[].0 8\nx", max_size=60), formats)
def test_every_tag_like_span_is_rewritten_or_counted(text, format):
    decoded = decode_tags(text, format)
    assert all(span in text for span in decoded.unparsed)
    left = decoded.text
    for span in decoded.unparsed:
        left = left.replace(span, "", 1)
    assert len(OFFICIAL_TAG.findall(left)) == decoded.num_tags
    assert not re.search(r"<\s*c\s*\d", OFFICIAL_TAG.sub("", left))


@pytest.mark.parametrize(
    "form", ["<c1, CAM_BACK, [560, 776]>", "<c1,CAM_BACK,560,776>", "< c1 ,CAM_BACK,[560.0,776] >"]
)
def test_spaces_and_missing_brackets_in_an_answer_are_forgiven(form):
    assert decode_tags(form, CANVAS) == DecodedText(text="<c1,CAM_BACK,1088.0,496.8>", num_tags=1, unparsed=())


@pytest.mark.parametrize(
    "span",
    [
        "<c1,CAM_TOP,[560,776]>",
        "<c1,CAM_FRONT,[560,776]>",
        "<c1,CAM_BACK,[200,776]>",
        "<c1,CAM_BACK,[560,1776]>",
        "<c1,CAM_BACK,[560,776>",
        "<c1,CAM_BACK,[560]>",
        "<c1,CAM_BACK,[560,776]",
        "<c1,cam_back,[560,776]>",
        "<c,CAM_BACK,[560,776]>",
        "<C12>",
    ],
)
def test_what_does_not_parse_is_left_and_listed(span):
    text = f"Notice {span}\nand <c2,CAM_FRONT,[500,250]>."
    decoded = decode_tags(text, CANVAS)
    assert decoded.unparsed == (span,)
    assert decoded.num_tags == 1
    assert decoded.text == f"Notice {span}\nand <c2,CAM_FRONT,800.0,450.0>."


def test_other_angle_brackets_are_no_tags():
    text = "a < b, <car>, <img>, 3 > 2 <b>CAM_FRONT</b>"
    assert decode_tags(text, CANVAS) == DecodedText(text=text, num_tags=0, unparsed=())
    assert encode_tags(text, CANVAS) == text


def test_a_source_tag_that_does_not_parse_raises_or_is_counted():
    text = "<c1,CAM_BACK,1700.0,10.0> and <c2,CAM_BACK,[5,5]> and <c3,CAM_BACK,80.0,90.0>"
    with pytest.raises(CoordinateError, match=r"got 2 tags.*1700\.0.*\[5,5\].*unparsed"):
        encode_tags(text, CANVAS)
    unparsed = []
    encoded = encode_tags(text, CANVAS, unparsed=unparsed)
    assert unparsed == ["<c1,CAM_BACK,1700.0,10.0>", "<c2,CAM_BACK,[5,5]>"]
    assert encoded.endswith("<c3,CAM_BACK,[350,550]>")


def test_rounding_over_the_border_is_moved_back_to_it():
    assert encode_tags("<c1,CAM_FRONT,0.0,900.0>", CANVAS) == "<c1,CAM_FRONT,[333,500]>"
    assert decode_tags("<c1,CAM_FRONT,[333,500]>", CANVAS).text == "<c1,CAM_FRONT,0.0,900.0>"
    assert decode_tags("<c1,CAM_FRONT,[332,500]>", CANVAS).unparsed == ("<c1,CAM_FRONT,[332,500]>",)


def test_points_outside_and_unknown_cameras_are_refused():
    with pytest.raises(CoordinateError, match=r"1601.*0 to 1600"):
        encode_point("CAM_BACK", (1601, 0), "canvas")
    with pytest.raises(CoordinateError, match="'CAM_TOP'.*CAM_FRONT_LEFT"):
        decode_point("CAM_TOP", (1, 1), "canvas")


@pytest.mark.parametrize("change", [{"space": "world"}, {"decimals": -1}, {"decimals": True}])
def test_a_format_that_cannot_be_is_refused(change):
    with pytest.raises(CoordinateError, match=next(iter(change))):
        CoordinateFormat(**change)


@needs_drivelm_sample
def test_every_tag_of_the_real_sample_survives():
    text = (DRIVELM_SAMPLE / "annotations" / "train_sample.json").read_text()
    lines = json.dumps(json.loads(text), indent=0)
    num_tags = len(OFFICIAL_TAG.findall(lines))
    assert num_tags > 100
    for format in (CoordinateFormat(space="canvas", decimals=2), CoordinateFormat(space="view", decimals=2)):
        decoded = decode_tags(encode_tags(lines, format), format)
        assert (decoded.num_tags, decoded.unparsed) == (num_tags, ())
        assert decoded.text == lines


def test_tags_that_do_not_parse_are_counted_over_texts_and_the_first_are_shown():
    sound = "<c1,CAM_BACK,1088.3,497.5> and <c2,CAM_FRONT,0.0,900.0>, a < b, <car>"
    bad = ["<c3,CAM_BACK,[560,776]>", "<c4,CAM_TOP,1.0,2.0>", "<c5,CAM_BACK,1700.0,2.0>", "<c6,CAM_BACK,5"]
    assert unparsed_tags([sound, "none"]) == ""
    said = unparsed_tags([sound, *bad, sound])
    assert said.startswith("4 of 8 object tags do not parse and stay as they were written, first ")
    assert said.endswith(", ".join(map(repr, bad[:3])))


SPOKEN = "<c1,CAM_BACK,1088.3,497.5> is left of <c2,CAM_FRONT, 3> and <c3,CAM_FRONT,1700.0,2.0>, < 5."


def test_the_default_format_leaves_every_text_to_the_letter():
    assert model_text(SPOKEN, CoordinateFormat()) == SPOKEN
    assert drivelm_text(SPOKEN, CoordinateFormat()) == SPOKEN


@pytest.mark.parametrize("space", ["canvas", "view"])
def test_a_text_for_the_model_comes_back_and_what_cannot_be_rewritten_stays(space):
    format = CoordinateFormat(space=space, decimals=2)
    written = model_text(SPOKEN, format)
    assert "1088.3" not in written
    assert written.endswith("is left of <c2,CAM_FRONT, 3> and <c3,CAM_FRONT,1700.0,2.0>, < 5.")
    assert drivelm_text(written, format) == SPOKEN


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (CoordinateFormat(), ["1088.3,497.5", "0.0,900.0"]),
        (CANVAS, ["560,776", "333,500"]),
        (CoordinateFormat(space="view", decimals=1), ["680.2,552.8", "0.0,1000.0"]),
    ],
)
def test_the_characters_of_each_point_are_found_in_every_format(format, expected):
    text = "See " + model_text("<c1,CAM_BACK,1088.3,497.5> and <c2,CAM_FRONT,0.0,900.0>.", format)
    assert [text[start:end] for start, end in point_spans(text)] == expected
    assert point_spans("no tag, 1.5, 2.5") == []
