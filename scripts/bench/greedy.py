"""An answer of any length, to measure decoding: the end of the text does not end it."""

from collections.abc import Iterator

from dapq_edge import Engine


def answer(engine: Engine) -> Iterator[int]:
    """Yield the most probable tokens after what was read, each before it is evaluated."""
    sampler = engine.model.sampler(temp=0)
    while True:
        token = engine.model.sample(sampler)
        yield token
        engine.append([token])
