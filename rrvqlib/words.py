"""Numbers of things, in words."""


def number_of(count: int, thing: str) -> str:
    """1, "image" -> "1 image"; 2000, "image" -> "2,000 images"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
