"""`dapq_edge.Llama` and `llama_cpp.Llama` side by side, greedy."""

from contextlib import contextmanager
from itertools import islice

import llama_cpp

from dapq_edge import Llama

OPTIONS = {"n_threads": 1, "n_threads_batch": 1, "verbose": False}


@contextmanager
def opened(path, **options):
    llama = Llama(path, **OPTIONS, **{"kv_budget": 100, "n_ctx": 4096, **options})
    yield llama
    llama.close()


@contextmanager
def stock(path, **options):
    llama = llama_cpp.Llama(str(path), **OPTIONS, **{"n_ctx": 4096, **options})
    yield llama
    llama.close()


def complete(llama, tokens, n=12, **options):
    return llama.create_completion(tokens, max_tokens=n, temperature=0, **options)["choices"][0]["text"]


def answer(llama, tokens, n=12):
    """Greedy tokens."""
    return list(islice(llama.generate(tokens, temp=0), n))


def set_decode(monkeypatch, decode):
    """In our calls and in those of llama-cpp-python."""
    for module in (llama_cpp, llama_cpp.llama_cpp):
        monkeypatch.setattr(module, "llama_decode", decode)


class Evaluated:
    """Counts the tokens that llama.cpp decodes, without those of look-aheads: batches of one token."""

    def __init__(self, monkeypatch):
        self.n = 0
        decode = llama_cpp.llama_decode

        def counted(ctx, batch):
            self.n += batch.n_tokens if batch.n_tokens > 1 else 0
            return decode(ctx, batch)

        set_decode(monkeypatch, counted)

    def take(self):
        n, self.n = self.n, 0
        return n
