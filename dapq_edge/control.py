"""Control of long work: somebody to tell how far it is, and to ask whether to stop."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from .errors import AbortedError

# called with what is done, and with all that there is to do
Progress = Callable[[int, int], None]


def _ignore(done: int, total: int) -> None:
    pass


def _go_on() -> bool:
    return False


@dataclass(frozen=True)
class Control:
    """Progress and interruption of one call.

    Attributes:
        progress: Called with the tokens (or jobs) that are done, and all of them.
        should_abort: Asked before each part of a prompt and each token of an answer; True ends the call.
    """

    progress: Progress = _ignore
    should_abort: Callable[[], bool] = _go_on

    def check(self) -> None:
        """Raise `AbortedError` if the caller wants to stop."""
        if self.should_abort():
            raise AbortedError("it was stopped")

    def report(self, done: int, total: int) -> None:
        """Tell how far the work is. Raises as `check` does."""
        self.check()
        self.progress(done, total)

    def of_part(self, before: int, total: int) -> "Control":
        """Return the control of a part of the work, behind `before` of `total`."""
        return replace(self, progress=lambda done, _: self.progress(before + done, total))


# for callers that neither watch nor stop
UNCONTROLLED = Control()
