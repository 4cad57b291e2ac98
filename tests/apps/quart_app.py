"""Quart: Flask's interface on asyncio."""

import asyncio
import hashlib

from quart import Quart, Response, jsonify, make_response, request

app = Quart(__name__, static_folder="static", static_url_path="/static")
app.config["MAX_CONTENT_LENGTH"] = 256 * 1024 * 1024
STATE = {"endless": "none", "started": False}


@app.before_serving
async def before_serving():
    STATE["started"] = True


@app.route("/")
async def index():
    return "Hello, World!"


@app.route("/cookies")
async def cookies():
    response = await make_response(jsonify(dict(request.cookies)))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@app.post("/upload")
async def upload():
    file = (await request.files)["file"]
    data = file.read()
    note = (await request.form).get("note")
    return jsonify(name=file.filename, size=len(data), sha256=hashlib.sha256(data).hexdigest(), note=note)


@app.post("/body")
async def body():
    digest, size = hashlib.sha256(), 0
    async for chunk in request.body:
        digest.update(chunk)
        size += len(chunk)
    return jsonify(size=size, sha256=digest.hexdigest())


@app.route("/stream")
async def stream():
    n = int(request.args.get("n", 5))

    async def pieces():
        for i in range(n):
            yield f"piece {i}\n".encode()
            await asyncio.sleep(0)

    return Response(pieces(), mimetype="text/plain")


@app.route("/endless")
async def endless():
    async def pieces():
        STATE["endless"] = "sending"
        try:
            while True:
                yield b"x" * 1000
                await asyncio.sleep(0.01)
        finally:
            STATE["endless"] = "ended"

    response = Response(pieces(), mimetype="text/plain")
    response.timeout = None
    return response


@app.route("/state")
async def state():
    return jsonify(STATE)


@app.route("/large")
async def large():
    return "x" * int(request.args["size"])


@app.route("/sync")
def sync():
    return "from a thread"


@app.route("/boom")
async def boom():
    raise RuntimeError("boom from quart")
