"""WebSockets in Starlette and FastAPI: text, bytes, JSON, a subprotocol, a denial, dependencies, a broadcast."""

import json

from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect, WebSocketException
from starlette.responses import PlainTextResponse

app = FastAPI()
rooms = {}  # name -> sockets
ended = {}


@app.get("/ended")
def read_ended():
    return ended


@app.websocket("/echo/{name}")
async def echo(websocket: WebSocket, name: str):
    await websocket.accept(subprotocol=next(iter(websocket.scope["subprotocols"]), None))
    try:
        while True:
            message = await websocket.receive()
            websocket._raise_on_disconnect(message)
            if "text" in message:
                await websocket.send_json({"you": json.loads(message["text"]), "name": name})
            else:
                await websocket.send_bytes(message["bytes"][::-1])
    except WebSocketDisconnect as e:
        ended[name] = [e.code, e.reason]


@app.websocket("/room/{name}")
async def room(websocket: WebSocket, name: str):
    await websocket.accept()
    members = rooms.setdefault(name, set())
    members.add(websocket)
    try:
        async for text in websocket.iter_text():
            for one in list(members):
                await one.send_text(text)
    finally:
        members.discard(websocket)


async def needs_token(websocket: WebSocket, token: str = ""):
    if token != "right":
        raise WebSocketException(code=1008, reason="token")
    return token


@app.websocket("/guarded")
async def guarded(websocket: WebSocket, token: str = Depends(needs_token)):
    await websocket.accept()
    await websocket.send_text(token)
    await websocket.close(code=4002, reason="done")


@app.websocket("/denied")
async def denied(websocket: WebSocket):
    await websocket.send_denial_response(PlainTextResponse("come later", status_code=429))
