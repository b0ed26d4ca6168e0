"""A conversation of any length, about documents of any length, in bounded memory."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..documents.document import Document
from ..errors import AbortedError
from ..llama import Llama
from ..reading.ahead import Ahead
from .asking import Found, Messages, ask_all, choose
from .whole import WholeMode, WholeQuestion

# tokens of the chat template for each message, about
N_TEMPLATE = 16

# when the text is too long, so much of it is left at most, so that this is rare
MAX_LEFT = 0.5


@dataclass
class Turn:
    """A message of the user, with the documents that were added before it, and the answer."""

    user: str
    answer: str = ""
    documents: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        return "\n\n".join([*self.documents, self.user])


class Chat:
    """A conversation with a `Llama`.

    turns: from the oldest that is remembered. documents: those that belong to the next turn. is_cut: whether the last
    answer ended after `n_predict` tokens. n_forgotten: turns that had no room beside the last one, and were forgotten.
    whole: the last question, if all windows of documents were asked; None otherwise.
    """

    def __init__(self, llama: Llama, *, system: str = "", n_predict: int = 256, **sampling: Any) -> None:
        self.llama = llama
        self.system = system
        self.n_predict = n_predict
        self._sampling = sampling
        self._n_history = llama.n_ctx()
        self.turns: list[Turn] = []
        self.documents: list[str] = []
        self.is_cut = False
        self.n_forgotten = 0
        self.whole: WholeQuestion | None = None

    def add_document(self, text: str) -> int:
        """Add a document to the next turn; returns its number of tokens."""
        self.documents.append(text.strip())
        return self._n_tokens(text)

    def has_document(self, text: str) -> bool:
        """Return whether a document is in what is remembered, or added to the next turn."""
        return text.strip() in [*self.documents, *(document for turn in self.turns for document in turn.documents)]

    def ask(
        self, text: str, mode: WholeMode = WholeMode.OFF, document: Document | None = None
    ) -> Iterator[str | Found]:
        """Yield pieces of the answer. If it is stopped in between, the answer so far is remembered.

        Args:
            text: The question.
            mode: Says when it is asked of all windows of the documents.
            document: What the conversation has of documents, with this question, if it has any.

        Raises as `Llama.generate` does: the turn is then forgotten, but its documents are kept for the next one.
        """
        self.turns.append(Turn(text, documents=self.documents))
        self.is_cut, self.whole = False, None
        self._make_room()
        try:
            self.documents, messages = [], self.messages
            for piece in self._answer(messages, mode, document):
                self.turns[-1].answer += piece.text if isinstance(piece, Found) else piece
                yield piece
        except Exception as error:
            if isinstance(error, AbortedError) and self.turns[-1].answer:
                return
            self.documents = self.turns.pop().documents
            raise

    def _answer(self, messages: Messages, mode: WholeMode, document: Document | None) -> Iterator[str | Found]:
        if document is None:
            return self._written(messages)
        return choose(
            self.llama,
            mode,
            messages,
            self.turns[-1].user,
            lambda: self._written(messages),
            lambda: self._from_all(messages, document),
        )

    def _written(self, messages: Messages) -> Iterator[str]:
        options = {"max_tokens": self.n_predict, **self._sampling}
        for chunk in self.llama.create_chat_completion(messages, stream=True, **options):
            self.is_cut = chunk["choices"][0]["finish_reason"] == "length"
            yield chunk["choices"][0]["delta"].get("content") or ""

    def _from_all(self, messages: Messages, document: Document) -> Iterator[str | Found]:
        question = self.turns[-1].user
        self.whole = WholeQuestion(self.llama.engine.model, document, question)
        return ask_all(self.llama, self.whole, question, messages, self._written)

    def read_ahead(self) -> Ahead:
        """Read the documents before the next question, see `Llama.read_ahead`; `Llama.control` watches and stops."""
        if not self.documents and not any(turn.documents for turn in self.turns):
            return Ahead()
        self._extend(self.documents)
        return self.llama.read_ahead([*self.messages, {"role": "user", "content": "\n\n".join(self.documents)}])

    @property
    def messages(self) -> Messages:
        """The conversation as messages of OpenAI's API."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages += [{"role": "user", "content": turn.message}, {"role": "assistant", "content": turn.answer}]
        return messages[:-1] if self.turns and not self.turns[-1].answer else messages

    def reset(self) -> None:
        """Forget everything."""
        self.turns, self.documents, self.whole = [], [], None
        self.llama.reset()

    def state(self) -> dict[str, Any]:
        """Return what belongs to a session, as JSON."""
        return {"system": self.system, "documents": self.documents, "turns": [asdict(turn) for turn in self.turns]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.system, self.documents = state["system"], state["documents"]
        self.turns = [Turn(**turn) for turn in state["turns"]]
        self.whole = None

    def _n_tokens(self, text: str) -> int:
        return len(self.llama.tokenize(text.encode("utf-8", "replace"), add_bos=False))

    def _extend(self, more: Sequence[str] = ()) -> None:
        """Make room for all documents beside the conversation."""
        documents = [document for turn in self.turns for document in turn.documents]
        self.llama.extend(sum(map(self._n_tokens, [*documents, *more])) + self._n_history)

    def _make_room(self) -> None:
        """Forget the oldest turns of a long conversation; documents move on to the next turn."""
        self._extend()
        counts = [self._n_tokens(turn.user) + self._n_tokens(turn.answer) + 2 * N_TEMPLATE for turn in self.turns]
        n_needed, self.n_forgotten = self._n_tokens(self.system) + N_TEMPLATE + self.n_predict, 0
        if n_needed + sum(counts) <= self._n_history:
            return
        while len(counts) > 1 and n_needed + sum(counts) > MAX_LEFT * self._n_history:
            counts.pop(0)
            forgotten = self.turns.pop(0)
            self.turns[0].documents = forgotten.documents + self.turns[0].documents
            self.n_forgotten += 1
