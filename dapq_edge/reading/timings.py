"""Tokens and seconds of one answer."""

import time
from dataclasses import dataclass, field


@dataclass
class Timings:
    """Tokens and seconds of an answer, while it is written.

    Attributes:
        n_prompt: Tokens of the prompt.
        n_cached: Those of them whose cells were there already.
        n_predicted: Tokens of the answer, without the one that ends it.
        prompt_seconds: From the start to the first token.
        predicted_seconds: From there on.
    """

    n_prompt: int = 0
    n_cached: int = 0
    n_predicted: int = 0
    prompt_seconds: float = 0.0
    predicted_seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter, repr=False)

    def note_prompt(self) -> None:
        """Note that the first token is there."""
        self.prompt_seconds = time.perf_counter() - self._start

    def note_token(self) -> None:
        """Note a token of the answer."""
        self.n_predicted += 1
        self.predicted_seconds = time.perf_counter() - self._start - self.prompt_seconds

    @property
    def usage(self) -> dict[str, object]:
        """The `usage` of OpenAI's API."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_predicted,
            "total_tokens": self.n_prompt + self.n_predicted,
            "prompt_tokens_details": {"cached_tokens": self.n_cached},
        }

    @property
    def fields(self) -> dict[str, float]:
        """The `timings` of llama-server."""
        prompt = _speed("prompt", self.n_prompt - self.n_cached, self.prompt_seconds)
        predicted = _speed("predicted", self.n_predicted, self.predicted_seconds)
        return {"cache_n": self.n_cached, **prompt, **predicted}


def _speed(name: str, n_tokens: int, seconds: float) -> dict[str, float]:
    return {
        f"{name}_n": n_tokens,
        f"{name}_ms": round(seconds * 1000, 3),
        f"{name}_per_token_ms": round(seconds * 1000 / n_tokens, 3) if n_tokens else 0.0,
        f"{name}_per_second": round(n_tokens / seconds, 3) if seconds else 0.0,
    }
