"""Made texts with several questions each, in the shapes of SCBench (arXiv 2412.10319, section 3.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .made import made_questions
from .ruler import KEYS

# facts of a text, and how many of them are asked for
N_FACTS, N_ASKED = 8, 4

# groups of words for examples, and names that say nothing about them
GROUPS = (
    ("walnut", "cherry", "lemon", "plum", "melon", "fig", "peach", "grape", "apricot", "quince"),
    ("otter", "badger", "falcon", "salmon", "weasel", "heron", "lizard", "donkey", "beetle", "moose"),
    ("hammer", "chisel", "pliers", "drill", "shovel", "rake", "anvil", "wrench", "saw", "ladder"),
    ("violin", "trumpet", "cello", "flute", "drum", "banjo", "harp", "oboe", "tuba", "lute"),
)
NAMES = "dax", "zorb", "plim", "quat", "wug", "brek"

# words of a group that are asked for, and not among the examples
N_NEW = 2


@dataclass(frozen=True)
class Turn:
    """A question about a text, the first words of its answer, and what it must contain."""

    question: str
    answer_prefix: str
    answer: str


@dataclass(frozen=True)
class SharedText:
    """Lines that stand in order among filler, and questions about them, in the order in which they are asked."""

    lines: Sequence[str]
    turns: Sequence[Turn]


def keys(rng: np.random.Generator) -> SharedText:
    """Values of keys, some of which are asked for (Retr.KV)."""
    names = rng.choice(KEYS, N_FACTS, replace=False).tolist()
    values = rng.choice(np.arange(10_000, 100_000), N_FACTS, replace=False).tolist()
    lines = [f"The code of {name} is {value}." for name, value in zip(names, values, strict=True)]
    asked = rng.choice(N_FACTS, N_ASKED, replace=False).tolist()
    turns = [Turn(f"What is the code of {names[i]}?", f"The code of {names[i]} is", str(values[i])) for i in asked]
    return SharedText(lines, turns)


def repeated(rng: np.random.Generator) -> SharedText:
    """Facts about towns, two of which are asked for, and then again."""
    facts = made_questions(rng)[:N_FACTS]
    asked = rng.choice(N_FACTS, N_ASKED // 2, replace=False).tolist()
    turns = [
        Turn(facts[i].question, facts[i].fact.partition(facts[i].answer)[0].strip(), facts[i].answer) for i in asked
    ]
    return SharedText([fact.fact for fact in facts], turns * 2)


def shots(rng: np.random.Generator) -> SharedText:
    """Words of two groups that have new names, and other words that belong to one of them (ICL.ManyShot)."""
    names, groups = (rng.choice(n, 2, replace=False).tolist() for n in (len(NAMES), len(GROUPS)))
    examples, new = [], []
    for name, group in zip((NAMES[i] for i in names), (GROUPS[i] for i in groups), strict=True):
        words = rng.permutation(group).tolist()
        examples += [(word, name) for word in words[N_NEW:]]
        new += [(word, name) for word in words[:N_NEW]]
    lines = [f"The word {word} is a {name}." for word, name in rng.permutation(examples).tolist()]
    asked = [new[i] for i in rng.choice(len(new), N_ASKED, replace=False).tolist()]
    turns = [Turn(f"What is the word {word}?", f"The word {word} is a", name) for word, name in asked]
    return SharedText(lines, turns)


SHAPES: dict[str, Callable[[np.random.Generator], SharedText]] = {"keys": keys, "repeated": repeated, "shots": shots}
