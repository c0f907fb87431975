"""What is recorded of frozen weights, and what a digest of view settings depends on."""

import dataclasses
import hashlib
from pathlib import Path

from data_shards.view_layout import ViewLayout
from trainer.hashes import view_sha256, weights_record

OTHER_VIEWS = {
    "tile_size": 224,
    "mode": "canvas",
    "max_tiles": 3,
    "thumbnail": False,
    "dynamic_resolution": False,
    "draw_camera_names": False,
    "exact": True,
    "camera_max_tiles": {"CAM_FRONT": 2},
}


class _Files:
    def __init__(self, *files: Path) -> None:
        self.files = files


def test_frozen_weights_are_recorded_by_names_and_bytes(tmp_path):
    one, two = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    one.write_bytes(b"abc")
    two.write_bytes(b"")
    record = weights_record({"model.teacher": _Files(one, two), "model.vision": _Files()})
    expected = hashlib.sha256(b"a.safetensors\0abcb.safetensors\0").hexdigest()
    assert record == {"model.teacher": {"from": str(tmp_path), "files": [one.name, two.name], "sha256": expected}}


def test_every_setting_of_a_view_changes_its_digest():
    assert OTHER_VIEWS.keys() == {field.name for field in dataclasses.fields(ViewLayout)}
    views = [ViewLayout(), *(ViewLayout(**{name: value}) for name, value in OTHER_VIEWS.items())]
    assert len({view_sha256(view) for view in views}) == len(views)
    assert view_sha256(ViewLayout()) == view_sha256(ViewLayout())
