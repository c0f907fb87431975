"""Camera geometry of the synthetic world: six pinhole cameras mounted like nuScenes', ego coordinates to pixels.

Ego coordinates are metres: x forward, y left, z up, origin on the road below the rear axle. Camera coordinates:
x right, y down, z along the optical axis. Pixels refer to the 1600x900 view.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_shards.schema import VIEW_SIZE

NEAR_PLANE = 0.3  # metres


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        name: one of `CAMERAS`.
        yaw: direction of the optical axis in degrees, counter-clockwise from straight ahead.
        mount: position (x, y, z) in ego coordinates, metres.
        focal: focal length in pixels.
    """

    name: str
    yaw: float
    mount: tuple[float, float, float]
    focal: float

    @cached_property
    def rotation(self) -> np.ndarray:
        """3x3 matrix from ego to camera axes."""
        cos, sin = np.cos(np.radians(self.yaw)), np.sin(np.radians(self.yaw))
        return np.array([[sin, -cos, 0.0], [0.0, 0.0, -1.0], [cos, sin, 0.0]])

    def to_camera(self, points: np.ndarray) -> np.ndarray:
        """Ego points [N, 3] in metres to camera coordinates [N, 3]."""
        return (np.asarray(points, dtype=float) - self.mount) @ self.rotation.T

    def to_pixels(self, camera_points: np.ndarray) -> np.ndarray:
        """Camera points [N, 3] beyond the near plane to pixels [N, 2] of the 1600x900 view."""
        centre = np.array([VIEW_SIZE[0] / 2, VIEW_SIZE[1] / 2])
        return camera_points[:, :2] / camera_points[:, 2:3] * self.focal + centre

    def project_polygon(self, points: np.ndarray) -> np.ndarray:
        """Ego polygon [N, 3] to pixels [M, 2], cut at the near plane; empty where it lies behind the camera."""
        clipped = _clip_near(self.to_camera(points))
        return self.to_pixels(clipped) if len(clipped) else np.empty((0, 2))

    def project_polygons(self, polygons: np.ndarray) -> list[np.ndarray]:
        """Ego polygons [P, N, 3] to one array of pixels [M, 2] each, as `project_polygon` gives them."""
        local = self.to_camera(polygons.reshape(-1, 3)).reshape(polygons.shape)
        depths = local[..., 2]
        whole, hidden = depths.min(axis=1) >= NEAR_PLANE, depths.max(axis=1) < NEAR_PLANE
        pixels = iter(self.to_pixels(local[whole].reshape(-1, 3)).reshape(-1, polygons.shape[1], 2))
        return [
            next(pixels) if whole[i] else np.empty((0, 2)) if hidden[i] else self.to_pixels(_clip_near(local[i]))
            for i in range(len(polygons))
        ]

    def project_point(self, point: np.ndarray) -> tuple[float, float] | None:
        """Pixel of an ego point [3], or None where it is behind the camera or outside the view."""
        local = self.to_camera(np.asarray(point)[None])
        if local[0, 2] < NEAR_PLANE:
            return None
        u, v = self.to_pixels(local)[0]
        return (float(u), float(v)) if 0 <= u < VIEW_SIZE[0] and 0 <= v < VIEW_SIZE[1] else None


RIG = {
    camera.name: camera
    for camera in (
        Camera("CAM_FRONT_LEFT", 55.0, (1.5, 0.5, 1.5), 1266.0),
        Camera("CAM_FRONT", 0.0, (1.7, 0.0, 1.5), 1266.0),
        Camera("CAM_FRONT_RIGHT", -55.0, (1.5, -0.5, 1.5), 1266.0),
        Camera("CAM_BACK_LEFT", 110.0, (1.0, 0.5, 1.55), 1257.0),
        Camera("CAM_BACK", 180.0, (0.0, 0.0, 1.55), 809.0),
        Camera("CAM_BACK_RIGHT", -110.0, (1.0, -0.5, 1.55), 1257.0),
    )
}
"""Intrinsics and mounting angles close to nuScenes': 65 degree views, 90 to the back, overlapping at borders."""


def _clip_near(polygon: np.ndarray) -> np.ndarray:
    """Sutherland-Hodgman against z = NEAR_PLANE; polygon and result in camera coordinates."""
    kept = []
    for current, following in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if current[2] >= NEAR_PLANE:
            kept.append(current)
        if (current[2] >= NEAR_PLANE) != (following[2] >= NEAR_PLANE):
            share = (NEAR_PLANE - current[2]) / (following[2] - current[2])
            kept.append(current + share * (following - current))
    return np.array(kept)
