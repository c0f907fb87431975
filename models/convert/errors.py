"""What is wrong with a conversion in, one message out."""


class ConvertError(ValueError):
    """A checkpoint that cannot be converted as asked; the message names file, field, got, expected and fix."""
