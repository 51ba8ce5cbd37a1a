"""Bodies that arrive slowly get 408; those that keep arriving do not."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from unprompt.serving import body_deadline
from unprompt.serving.body_deadline import BodyDeadlineMiddleware


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(body)(scope, receive, send)


def status_of(chunks: list[bytes], pause: float) -> int:
    """The status of a request that sends chunks with pauses; an empty chunk never arrives."""
    left = list(chunks)

    async def receive() -> Message:
        await asyncio.sleep(pause)
        chunk = left.pop(0)
        if not chunk:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await echo(scope, receive, send)
        except Exception:  # a client that left; FastAPI answers it with 400
            await PlainTextResponse("", 400)(scope, receive, send)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(BodyDeadlineMiddleware(answer)(scope, receive, send))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("chunks", "rate", "status"),
    [
        ([b"x" * 100] * 3, 10, 200),
        ([b"x" * 100] * 3, 100_000, 408),
        ([b"x", b""], 10, 408),
    ],
    ids=["keeps arriving", "too slow", "stops"],
)
def test_a_body_must_keep_arriving(
    monkeypatch: pytest.MonkeyPatch, chunks: list[bytes], rate: int, status: int
) -> None:
    monkeypatch.setattr(body_deadline, "BODY_SECONDS", 1)
    monkeypatch.setattr(body_deadline, "BODY_RATE", rate)
    assert status_of(chunks, 0.6) == status
