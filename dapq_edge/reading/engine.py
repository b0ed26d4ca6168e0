"""The engine: brings prompts into a sequence within a budget, goes on from there, and reads others for themselves."""

from collections.abc import Generator
from collections.abc import Sequence as Tokens
from typing import Any

from ..cells import CHUNK, pad
from ..control import UNCONTROLLED, Control
from ..errors import DapqError, TooLongError
from ..eviction.budget import Auto, Budget
from ..eviction.policies import Policy
from ..llamacpp import native
from ..prompt import Prompt
from ..prompt.pins import fit
from ..prompt.window import window_of
from .ahead import Ahead, store_windows
from .plan import N_SKIM, Plan, ReadMode, make_plan
from .prompted import PromptedSequence
from .stats import ReadStats
from .strategies import GoesOn
from .whole import WindowAnswer, answer_windows, n_cells_of, windows_of
from .windows import N_OVERLAP, SIZES


class Engine(PromptedSequence):
    """One sequence of a model, within a budget, and prompts that are brought into it.

    `prefill` brings in prompts that may begin as the last one did; `read` reads one prompt, in a context of its own.
    Arguments are those of `PromptedSequence`.
    """

    def read(
        self,
        prompt: Prompt | Tokens[int],
        policy: Policy,
        budget: Budget,
        *,
        n_predict: int = 256,
        n_cells: int = 0,
        one_shot: bool = False,
        allow_overflow: bool = False,
        goes_on: GoesOn | None = None,
        control: Control = UNCONTROLLED,
    ) -> ReadStats:
        """Read a prompt into a new context and evict its cache to the budget, in bounded memory unless `one_shot`.

        The logits of the last token stay for `stream`, and room for `n_predict` tokens.

        Args:
            prompt: With its question known, or plain tokens.
            policy: Chooses what is kept.
            budget: Says how much.
            n_predict: Tokens of the answer at most.
            n_cells: Cells of the context; 0 for as many as are needed.
            one_shot: Read everything, then evict.
            allow_overflow: Go beyond the context length that the model was trained for.
            goes_on: Says, when a document was skimmed, whether it is read, see `Skimming.goes_on`.
            control: Watches and stops.

        Raises `DapqError` if the cells are too few or if llama.cpp fails, and as `make_plan` and `Policy.evict` do.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt.of([], list(prompt), [], has_question=False)
        policy = policy.with_heads(self.heads)
        policy.check(self._cache)
        options = {"n_predict": n_predict, "one_shot": one_shot, "allow_overflow": allow_overflow}
        prompt, plan = self._planned(prompt, policy, budget, **options)
        if 0 < n_cells < plan.n_cells:
            raise DapqError(f"reading needs {plan.n_cells:,} cells: raise `n_ctx={n_cells}` or leave it out")
        n_cells = max(n_cells, plan.n_cells)
        self.open(n_cells)
        self._keep_all(max(pad(n_cells), len(prompt) + plan.n_predict))
        stats = self._last_read = self._read_planned(prompt, policy, plan, control, goes_on)
        self.n_prompt = len(prompt)
        # bounded reading leaves no more than a chunk to give back
        if plan.mode == ReadMode.FULL and stats.cells_kept < len(prompt):
            n_needed = pad(self.cache.n_cells + plan.n_predict)
            if n_needed < stats.cells_peak:
                native.resize(self.cache.ctx, n_needed)
        self._beginning.start(can_be_foreseen=self.scores is None)
        return stats

    def fits(self, prompt: Prompt, policy: Policy, budget: Budget, *, one_shot: bool = False) -> bool:
        """Return whether `read` reads all of a prompt at once, so that its answer is from all of it."""
        try:
            _, plan = self._planned(prompt, policy.with_heads(self.heads), budget, n_predict=1, one_shot=one_shot)
        except TooLongError:
            return False
        return plan.mode == ReadMode.FULL

    def _planned(self, prompt: Prompt, policy: Policy, budget: Budget, **options: Any) -> tuple[Prompt, Plan]:
        """Return a prompt with what is pinned, and how it is read; `options` are those of `make_plan`."""
        if budget == Auto():
            budget = self.auto_budget(self.model.n_ctx_train)
        n_keep = policy.cells_to_keep(budget, len(prompt))
        # what is kept whole is read as llama.cpp would, at once
        prompt = fit(prompt, n_keep // 2) if n_keep < len(prompt) else prompt.whole()
        return prompt, make_plan(prompt, policy, budget, n_ctx_train=self.model.n_ctx_train, **options)

    def read_ahead(self, prompt: Prompt, control: Control = UNCONTROLLED) -> Ahead:
        """Read the windows of a document into the store, in a context of its own, see `store_windows`."""
        self.open(N_SKIM + CHUNK + len(window_of(prompt).head))
        return store_windows(self.cache, prompt, self._skimming, SIZES[0] + N_OVERLAP, control)

    def answer_windows(self, *prompts: Prompt, control: Control = UNCONTROLLED) -> Generator[WindowAnswer, None, None]:
        """Have each window of documents answer, in a context of its own, see `whole.answer_windows`."""
        windows = [windows_of(prompt, self.model.n_ctx_train) for prompt in prompts]
        n_done, n_all = 0, sum(len(prompt.body) for prompt in prompts)
        with self._aside(max(map(n_cells_of, prompts, windows))):
            for prompt, those in zip(prompts, windows, strict=True):
                part = control.of_part(n_done, n_all)
                yield from answer_windows(self.cache, self.model, prompt, those, self.store, part)
                n_done += len(prompt.body)
