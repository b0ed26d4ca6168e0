"""Options of an answer."""

from dataclasses import dataclass

from .arguments import not_negative, option, positive_or


@dataclass(frozen=True)
class Sampling:
    """Length of an answer, and choice of its tokens."""

    predict: int = option(
        "-n",
        "--predict",
        type=positive_or(),
        default=256,
        metavar="N",
        help="tokens of the answer at most (default: 256)",
    )
    temp: float = option("--temp", type=not_negative, default=0.0, metavar="T", help="temperature (default: 0, greedy)")
    seed: int = option(
        "-s", "--seed", type=int, default=-1, metavar="N", help="seed of the sampler (default: -1, random)"
    )
