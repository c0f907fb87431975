"""Looks of the synthetic world's cities: colours of sky, ground and road, and what stands along the horizon.

The default city is what the tiny parts were made for; the others are the same world in a dress that they never saw.
"""

from dataclasses import dataclass, field
from typing import Literal

Colour = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class City:
    """Attributes: sky: by weather; skyline: trees or houses behind the road; scenery: their colour."""

    sky: dict[str, Colour] = field(
        default_factory=lambda: {
            "sunny": (110, 180, 245),
            "cloudy": (190, 195, 200),
            "rainy": (105, 115, 130),
            "night": (14, 16, 40),
        }
    )
    ground: Colour = (96, 140, 84)
    asphalt: Colour = (92, 92, 96)
    paint: Colour = (225, 225, 215)
    skyline: Literal["trees", "houses"] = "trees"
    scenery: Colour = (50, 95, 50)


CITIES = {
    "suburb": City(),
    "downtown": City(
        ground=(158, 152, 146), asphalt=(66, 66, 72), paint=(235, 205, 90), skyline="houses", scenery=(128, 98, 88)
    ),
    "desert": City(
        sky={"sunny": (150, 200, 240), "cloudy": (205, 200, 190), "rainy": (125, 120, 120), "night": (24, 16, 34)},
        ground=(206, 178, 128),
        asphalt=(118, 108, 100),
    ),
}
DEFAULT_CITY = "suburb"
