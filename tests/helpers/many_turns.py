"""Eight conversations in turn, with memory for a few of them: each answers as if it were alone, for 1,000 turns."""

import resource
import sys

import psutil

from dapq_edge.llamacpp.log import captured_log

from .limits import limited
from .llamas import answer, opened
from .profiles import random_profile
from .tiny import Spec
from .tokens import random_tokens

MIB = 2**20

N_TALKS, N_TURNS = 8, 125


class Talk:
    """A conversation, whose user says the same things each time."""

    def __init__(self, seed):
        self.seed, self.prompt, self.answers = seed, [], []

    def turn(self, llama):
        n_tokens = 30 if self.answers else 300
        self.prompt += random_tokens(n_tokens, 1000 * self.seed + len(self.answers))
        self.answers.append(answer(llama, self.prompt, n=4))
        self.prompt += self.answers[-1]


def main(model, store):
    options = {"kv_budget": 100, "n_ctx": 8192, "serves": lambda *_: True, "heads": random_profile(Spec())}
    expected = []
    for seed in range(N_TALKS):
        with opened(model, **options) as llama:
            talk = Talk(seed)
            for _ in range(N_TURNS):
                talk.turn(llama)
        expected.append(talk.answers)
    with opened(model, store=store, cache_ram=1, **options) as llama:
        talks = [Talk(seed) for seed in range(N_TALKS)]
        talks[0].turn(llama)
        n_max = psutil.Process().memory_info().vms + llama.engine._conversations.n_max + 16 * MIB
        with limited(resource.RLIMIT_AS, n_max):
            for i in range(N_TURNS):
                for talk in talks:
                    if len(talk.answers) == i:
                        talk.turn(llama)
        assert llama.usage.faults == []
    assert [talk.answers for talk in talks] == expected
    print("same")


if __name__ == "__main__":
    with captured_log():
        main(sys.argv[1], sys.argv[2])
