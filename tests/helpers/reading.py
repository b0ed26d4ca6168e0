"""Prompts by chance, and plans of how to read them."""

from dapq_edge.eviction.budget import parse_budget
from dapq_edge.eviction.policies import get_policy
from dapq_edge.prompt import Prompt
from dapq_edge.reading import plan

from .tokens import random_tokens


def make_prompt(n_body: int, n_head: int = 5, n_tail: int = 20, has_question: bool = True) -> Prompt:
    tokens = random_tokens(n_head + n_body + n_tail, 7)
    return Prompt.of(tokens[:n_head], tokens[n_head : n_head + n_body], tokens[n_head + n_body :], has_question)


def make_plan(prompt, policy="dapq", budget="100", **options):
    return plan.make_plan(
        prompt, get_policy(policy), parse_budget(budget), **{"n_predict": 16, "n_ctx_train": 8192, **options}
    )
