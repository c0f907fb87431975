"""A checkpoint of OpenGVLab, CLIP or transformers in, the same weights in another layout out."""

from models.convert.converter import convert
from models.convert.errors import ConvertError

__all__ = ["ConvertError", "convert"]
