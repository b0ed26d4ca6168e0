"""A document and a question in the chat template of a model."""

import itertools

from ..cells import N_SINK
from ..errors import DapqError
from ..llamacpp.model import Model
from .prompt import Kind, Prompt
from .request import split_prompt
from .turns import Message


def chat_prompt(model: Model, document: str, question: str = "", answer_prefix: str = "") -> Prompt:
    """Put a document, with a question after it, into a message of a user in the model's own chat template.

    Control tokens of the template that occur in the message are plain text. A model without a template gets the
    message followed by "Answer:".

    Args:
        model: An opened model.
        document: Text of any length.
        question: What is wanted of it; empty if the document says that itself.
        answer_prefix: The first words of the answer.

    Raises `DapqError` if the template fails.
    """
    before, behind = _template_parts(model)
    document = document.strip()
    message = model.tokenize(f"{document}\n\n{question}".strip())
    # a token can reach across the border
    same = zip(message, model.tokenize(document), strict=False)
    n_body = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], same))
    start = model.tokenize(before, special=True) if before else []
    end = model.tokenize(behind + answer_prefix, special=True)
    # a template may spell the BOS token out
    if start[:1] != model.start_tokens:
        start = model.start_tokens + start
    # the first tokens draw attention whatever they are, so that they belong to every part of the document
    n_more = min(max(0, N_SINK - len(start)), n_body)
    head = start + message[:n_more]
    if not question:
        # the document may say itself what is wanted
        whole = Message("user", len(start), len(start) + len(message))
        prompt = split_prompt(model, [*start, *message, *end], [whole])
        if any(part.level for part in prompt.of_kind(Kind.REQUEST)):
            return prompt
    body, tail = message[n_more:n_body], message[n_body:] + end
    return Prompt.of(head, body, tail, has_question=bool(question), n_end=len(end))


def next_turn(model: Model, question: str, answer_prefix: str = "") -> list[int]:
    """Return the tokens of one more question, from the end of the answer before it to the start of the next one.

    Args:
        model: An opened model; one without a template gets the question followed by "Answer:".
        question: Of the user.
        answer_prefix: The first words of the answer.

    Raises `DapqError` if the template fails.
    """
    if model.chat_template is None:
        return model.tokenize(f"\n\n{question}\n\nAnswer: {answer_prefix}")
    place = "-the-answer-"
    turns = [("user", "-the-message-"), ("assistant", place), ("user", question)]
    try:
        text = model.format_messages([{"role": role, "content": content} for role, content in turns])
    except Exception as error:  # a template is a program of the model's author
        raise DapqError(f"the chat template of the model fails: {error}") from error
    return model.tokenize(text.rpartition(place)[2] + answer_prefix, special=True)


def _template_parts(model: Model) -> tuple[str, str]:
    """Return what the chat template puts before and after the message of a user."""
    if model.chat_template is None:
        return "", "\n\nAnswer: "
    place = "-the-message-"
    try:
        prompt = model.format_user_message(place)
    except Exception as error:  # a template is a program of the model's author
        raise DapqError(f"the chat template of the model fails: {error}") from error
    head, found, tail = prompt.partition(place)
    if not found:
        raise DapqError("the chat template of the model drops the message of the user")
    return head, tail
