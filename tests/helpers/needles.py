"""A haystack and needles for tiny models."""

from dapq_edge.calibration.needles import Needle

HAYSTACK = "some ordinary words without any sense go on and on, and then they stop. " * 60
NEEDLES = [Needle(f" the-word-is-{word}. ", "what is the word?", "the word is", word) for word in ("XQ7Z", "KJ5W")]
