from pydantic import BaseModel

class CreateCompletionRequest(BaseModel):
    stream: bool
    suffix: str | None
    model: str | None
    grammar: str | None
    user: str | None

class CreateChatCompletionRequest(BaseModel):
    stream: bool
    model: str | None
    grammar: str | None
    user: str | None
