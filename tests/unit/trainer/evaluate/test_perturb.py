"""Spoilt views: what each perturbation does to pixels, that it repeats, and that it leaves its input alone."""

import numpy as np
import pytest

from data_shards.schema import CAMERAS
from trainer.evaluate.perturb import CORRUPTIONS, Perturbation, PerturbError, parse_perturbation, perturb


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {name: rng.integers(0, 256, (36, 64, 3), dtype=np.uint8) for name in CAMERAS}


def spoil(images, text, key="s_f"):
    return perturb(images, parse_perturbation(text), key=key)


EVERY = ["black", "shuffle-views", "drop-view:CAM_BACK", *(f"{name}:0.7" for name in CORRUPTIONS)]


@pytest.mark.parametrize("text", EVERY)
def test_names_sizes_and_the_input_stay(images, text):
    before = {name: image.copy() for name, image in images.items()}
    after = spoil(images, text)
    assert list(after) == list(images)
    assert all(after[name].shape == image.shape and after[name].dtype == np.uint8 for name, image in images.items())
    assert all((images[name] == before[name]).all() for name in images)
    assert any((after[name] != images[name]).any() for name in images)


@pytest.mark.parametrize("text", EVERY)
def test_the_same_frame_is_spoilt_the_same_way_again(images, text):
    first, again = spoil(images, text), spoil(images, text)
    assert all((first[name] == again[name]).all() for name in images)


@pytest.mark.parametrize("text", ["shuffle-views", "fog", "dark", "rain"])
def test_frames_are_spoilt_differently(images, text):
    keys = [spoil(images, text, key=f"s_{number}") for number in range(4)]
    assert any((keys[0][name] != other[name]).any() for other in keys[1:] for name in images)


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_strength_0_changes_nothing_and_more_changes_more(kind):
    ramp = np.linspace(20, 230, 64).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :, None], (36, 64, 3)).copy()
    changes = [
        np.abs(spoil({"CAM_FRONT": image}, f"{kind}:{s}")["CAM_FRONT"].astype(float) - image).mean()
        for s in (0, 0.5, 1)
    ]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


def test_shuffled_views_are_all_there_and_none_in_its_place(images):
    for key in ("a", "b", "c"):
        after = spoil(images, "shuffle-views", key)
        assert all((after[name] != images[name]).any() for name in images)
        assert sorted(image.tobytes() for image in after.values()) == sorted(i.tobytes() for i in images.values())


def test_only_the_named_view_is_dropped(images):
    after = spoil(images, "drop-view:CAM_BACK")
    assert not after.pop("CAM_BACK").any()
    assert all((image == images[name]).all() for name, image in after.items())


def test_motion_blur_is_the_mean_of_its_neighbours_in_the_row():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (3, 100, 3), dtype=np.uint8)
    after = spoil({"CAM_FRONT": image}, "motion-blur:1")["CAM_FRONT"]
    padded = np.pad(image.astype(float), ((0, 0), (3, 3), (0, 0)), mode="edge")
    expected = np.mean([padded[:, i : i + 100] for i in range(7)], axis=0)
    assert np.abs(after - expected).max() <= 0.5 + 1e-9


def test_fog_is_thicker_at_the_horizon_than_near_the_car():
    grey = np.zeros((90, 160, 3), dtype=np.uint8)
    after = spoil({"CAM_FRONT": grey}, "fog:1")["CAM_FRONT"].mean(axis=(1, 2))
    assert after[40] > 1.5 * after[-1]


def test_dark_at_full_strength_is_nearly_black(images):
    assert np.mean([image.mean() for image in spoil(images, "dark:1").values()]) < 16


@pytest.mark.parametrize(
    "text", ["", "snow", "fog:2", "fog:-1", "fog:nan", "fog:", "black:1", "drop-view", "drop-view:CAM_TOP", "rain:x"]
)
def test_unknown_perturbations_are_refused_with_the_known_ones(text):
    with pytest.raises(PerturbError, match="drop-view:CAMERA with one of CAM_FRONT_LEFT.*fog, dark, motion-blur, rain"):
        parse_perturbation(text)


def test_frames_that_do_not_fit_are_refused_by_key(images):
    del images["CAM_BACK"]
    with pytest.raises(PerturbError, match="s_f.*expected CAM_BACK"):
        spoil(images, "drop-view:CAM_BACK")
    with pytest.raises(PerturbError, match="s_f.*got 1 images"):
        perturb({"IMAGE_0": images["CAM_FRONT"]}, Perturbation(kind="shuffle-views"), key="s_f")
