"""Socket.IO: acknowledgements, bytes, rooms, a namespace. With REDIS_URL what one worker says reaches the clients of all, and only
WebSockets are served: polling has its session in one worker's memory, and its next request may come to another."""

import os

import socketio

REDIS_URL = os.environ.get("REDIS_URL")

sio = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(REDIS_URL) if REDIS_URL else None,
    transports=["websocket"] if REDIS_URL else ["polling", "websocket"],
    ping_interval=20,
)
GREETINGS = 10  # a client takes no more than 16 packets in one answer to a poll


@sio.event
async def connect(sid, environ, auth):
    if auth and auth.get("token") == "wrong":
        raise socketio.exceptions.ConnectionRefusedError("wrong token")
    await sio.save_session(sid, {"agent": environ.get("HTTP_USER_AGENT"), "name": (auth or {}).get("name")})
    sio.start_background_task(greet, sid)


async def greet(sid):
    """While a client that began with polling becomes a WebSocket: none may be lost, or come twice."""
    for i in range(GREETINGS):
        await sio.emit("greeting", i, to=sid)
        await sio.sleep(0.005)


@sio.event
async def echo(sid, data):
    return data


@sio.event
async def who(sid):
    return {"pid": os.getpid(), "transport": sio.transport(sid), "name": (await sio.get_session(sid))["name"]}


@sio.event
async def join(sid, room):
    await sio.enter_room(sid, room)
    return sorted(sio.rooms(sid), key=lambda name: name != sid)[1:]


@sio.event
async def leave(sid, room):
    await sio.leave_room(sid, room)


@sio.event
async def say(sid, room, what):
    await sio.emit("said", what, room=room, skip_sid=sid)


@sio.event
async def bye(sid):
    """Ends the transport, and with it the poll that waits: for a client that leaves by itself nobody does, until it times out."""
    sio.start_background_task(sio.eio.disconnect, sio.manager.eio_sid_from_sid(sid, "/"))


@sio.event
async def disconnect(sid, reason):
    name = (await sio.get_session(sid))["name"]
    await sio.emit("left", [name, reason], room="all")


app = socketio.ASGIApp(sio)
