"""Prompts: a document and a question in the chat template of a model, and both found again in plain tokens."""

import itertools
from collections.abc import Sequence

import llama_cpp
from llama_cpp import llama_chat_format

from .errors import DapqError
from .reader import Prompt
from .recall import N_SINK

# tokens at the end of a prompt among which its question is, and how many that has at least
N_QUESTION, N_SHORT = 256, 8

# tokens between the start of a message and its text: the role
N_ROLE = 6


def chat_prompt(llama: llama_cpp.Llama, document: str, question: str = "", answer_prefix: str = "") -> Prompt:
    """A user's message, a document with a question after it, in the model's own chat template.

    Control tokens of the template that occur in the message are plain text. A model without a template gets the
    message followed by "Answer:". Raises `DapqError` if the template fails.
    """
    head, tail = _template_parts(llama)
    document = document.strip()
    message = _text_tokens(llama, f"{document}\n\n{question}".strip())
    # a token can reach across the border
    same = zip(message, _text_tokens(llama, document), strict=False)
    n_body = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], same))
    bos = [llama.token_bos()] if llama_cpp.llama_vocab_get_add_bos(llama._model.vocab) else []
    start = llama.tokenize(_utf8(head), add_bos=False, special=True) if head else []
    end = llama.tokenize(_utf8(tail + answer_prefix), add_bos=False, special=True)
    # a template may spell the BOS token out
    start = (bos if start[:1] != bos else []) + start
    # the first tokens draw attention whatever they are, so that they belong to every part of the document
    n_more = min(max(0, N_SINK - len(start)), n_body)
    body, tail_tokens = message[n_more:n_body], message[n_body:] + end
    return Prompt(start + message[:n_more], body, tail_tokens, has_question=bool(question))


def longest_message(llama: llama_cpp.Llama, tokens: Sequence[int]) -> int:
    """Tokens of the longest message of a prompt, see `split_prompt`."""
    return max(stop - start for start, stop in itertools.pairwise([0, *_borders(llama, tokens), len(tokens)]))


def split_prompt(llama: llama_cpp.Llama, tokens: Sequence[int], n_question: int = N_QUESTION) -> Prompt:
    """Find the question at the end of a prompt, and what stands before the first long message.

    Messages begin with control tokens. A question is the last message, or the last paragraph of a long one. Without
    control tokens and paragraphs, the last tokens are taken. Neither part has more than `n_question` tokens.
    """
    borders = _borders(llama, tokens)
    n_head = _head_length(llama, tokens, borders, n_question)
    start = max(n_head, _question_start(llama, tokens, borders, n_question))
    return Prompt(list(tokens[:n_head]), list(tokens[n_head:start]), list(tokens[start:]))


def _borders(llama: llama_cpp.Llama, tokens: Sequence[int]) -> list[int]:
    """Where the control tokens are."""
    vocab = llama._model.vocab
    return [i for i, token in enumerate(tokens) if llama_cpp.llama_vocab_is_control(vocab, token)]


def _head_length(llama: llama_cpp.Llama, tokens: Sequence[int], borders: list[int], n_most: int) -> int:
    for start, stop in itertools.pairwise([*borders, len(tokens)]):
        if start + 1 + N_ROLE > n_most:
            break
        if stop - start > n_most:
            role = [llama.detokenize([token]) for token in tokens[start + 1 : start + 1 + N_ROLE]]
            n_role = next((i for i, piece in enumerate(role, start=1) if b"\n" in piece), 0)
            return max(start + 1 + n_role, N_SINK)
    return min(N_SINK, len(tokens))


def _question_start(llama: llama_cpp.Llama, tokens: Sequence[int], borders: list[int], n_most: int) -> int:
    n_tokens = len(tokens)
    start = next((i for i in reversed(borders) if n_tokens - i >= N_SHORT), 0)
    if n_tokens - start <= n_most:
        return start
    first = max(0, n_tokens - n_most)
    pieces = [llama.detokenize([token], special=True) for token in tokens[first : n_tokens - N_SHORT]]
    for wanted in (b"\n\n", b"\n"):
        for i in range(len(pieces) - 1, -1, -1):
            # the line break may be one token or two; it belongs to the question, which stands behind other text then
            if b"".join(pieces[i : i + 2]).rstrip(b" ").endswith(wanted):
                return first + i
    return n_tokens - min(n_most, N_QUESTION // 4)


def _text_tokens(llama: llama_cpp.Llama, text: str) -> list[int]:
    return llama.tokenize(_utf8(text), add_bos=False, special=False)


def _template_parts(llama: llama_cpp.Llama) -> tuple[str, str]:
    """What the chat template puts before and after the message of a user."""
    template = llama.metadata.get("tokenizer.chat_template")
    if template is None:
        return "", "\n\nAnswer: "
    formatter = llama_chat_format.Jinja2ChatFormatter(
        template=template,
        eos_token=_token_text(llama, llama.token_eos()),
        bos_token=_token_text(llama, llama.token_bos()),
    )
    place = "-the-message-"
    try:
        prompt = formatter(messages=[{"role": "user", "content": place}]).prompt
    except Exception as error:  # a template is a program of the model's author
        raise DapqError(f"the chat template of the model fails: {error}") from error
    head, found, tail = prompt.partition(place)
    if not found:
        raise DapqError("the chat template of the model drops the message of the user")
    return head, tail


def _token_text(llama: llama_cpp.Llama, token: int) -> str:
    return llama._model.token_get_text(token) if token != -1 else ""


def _utf8(text: str) -> bytes:
    # an argument or a PDF may hold what is no text
    return text.encode("utf-8", "replace")
