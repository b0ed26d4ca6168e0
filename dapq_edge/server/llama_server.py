"""Endpoints that llama-server has beside OpenAI's, in its form."""

from collections.abc import Generator
from typing import Annotated, Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from .._version import __version__
from ..errors import UsageError
from ..llama import Llama
from .answering import one_result
from .responses import ERRORS, NotSupportedError
from .tasks import check_length
from .worker import Task, Worker

# what a model that answers cannot do, and clients ask for all the same
NOT_SERVED = {
    "embeddings": "embeddings: its model writes answers; serve an embedding model with llama-server beside it",
    "rerank": "reranking: its model writes answers; serve a reranking model with llama-server beside it",
    "responses": "Responses API: use /v1/chat/completions",
    "messages": "Messages API: use /v1/chat/completions",
    "audio/transcriptions": "audio",
    "images/generations": "images",
    "moderations": "moderation",
}


class TokenizeRequest(BaseModel):
    """`POST /tokenize`. add_special: whether the start token comes first. parse_special: whether a text may spell
    control tokens. with_pieces: whether to say what each token spells.
    """

    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(BaseModel):
    """`POST /detokenize`."""

    tokens: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=2**20)]


def add_llama_server(app: FastAPI, worker: Worker, model: str, n_predict: int) -> None:
    """Add the endpoints. model, n_predict: as in `create_app`."""

    @app.get("/props", responses=ERRORS)
    async def props(request: Request) -> dict[str, Any]:
        properties: dict[str, Any] = await one_result(worker, request, _props_task(model, n_predict))
        return properties

    @app.get("/slots", responses=ERRORS)
    async def slots() -> list[dict[str, Any]]:
        usage = worker.usage
        return [{"id": 0, "n_ctx": worker.n_ctx, "is_processing": worker.is_busy, "n_prompt_tokens": usage.n_tokens}]

    @app.post("/tokenize", responses=ERRORS)
    async def tokenize(request: Request, body: TokenizeRequest) -> dict[str, Any]:
        return {"tokens": await one_result(worker, request, _tokenize_task(body))}

    @app.post("/detokenize", responses=ERRORS)
    async def detokenize(request: Request, body: DetokenizeRequest) -> dict[str, str]:
        return {"content": await one_result(worker, request, _detokenize_task(body.tokens))}

    for name, what in NOT_SERVED.items():
        for path in (f"/v1/{name}", f"/{name}"):
            app.post(path, include_in_schema=False)(_refusing(what))


def _refusing(what: str) -> Any:
    async def refuse() -> None:
        raise NotSupportedError(501, f"this server has no {what}")

    return refuse


def _props_task(model: str, n_predict: int) -> Task:
    def task(llama: Llama) -> Generator[Any, None, None]:
        own = llama.engine.model
        yield {
            "default_generation_settings": {"n_ctx": llama.n_ctx(), "params": {"n_predict": n_predict}},
            "total_slots": 1,
            "model_alias": model,
            "model_path": str(own.path),
            "chat_template": own.chat_template or "",
            "modalities": {"vision": False, "audio": False},
            "build_info": f"dapq-edge {__version__}",
        }

    return task


def _tokenize_task(body: TokenizeRequest) -> Task:
    def task(llama: Llama) -> Generator[Any, None, None]:
        check_length(llama, body.content)
        own = llama.engine.model
        tokens = own.tokenize(body.content, special=body.parse_special, add_bos=body.add_special)
        pieces = own.pieces(tokens) if body.with_pieces else []
        yield (
            [{"id": token, "piece": _text_or_bytes(piece)} for token, piece in zip(tokens, pieces, strict=True)]
            if body.with_pieces
            else tokens
        )

    return task


def _text_or_bytes(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _detokenize_task(tokens: list[int]) -> Task:
    def task(llama: Llama) -> Generator[Any, None, None]:
        if max(tokens, default=0) >= llama.n_vocab():
            raise UsageError(f"has a token id that is not below {llama.n_vocab():,}", param="tokens")
        yield llama.engine.model.detokenize(tokens).decode("utf-8", "replace")

    return task
