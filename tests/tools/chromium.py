"""A headless Chromium of one's own, driven over the DevTools protocol.

    with Chromium() as browser, browser.page() as page:
        page.open("http://127.0.0.1:8000/")
        page.wait("document.querySelector('h1').textContent == 'Guest book'")
        page.evaluate("fetch('/').then(r => r.status)")     # of a promise, what comes out of it
        page.choose("[type=file]", "picture.png")           # as a visitor chooses a file
        page.follow("document.forms[0].requestSubmit()")    # until the next page is loaded
        page.screenshot("page.png")

Each page has cookies and storage of its own. What a script throws or fails to load is in page.problems.
"""

import base64
import contextlib
import json
import time
from pathlib import Path

import programs
from websockets.sync.client import connect

PATIENCE_S = 30


class ScriptError(Exception):
    pass


class Chromium(programs.Program):
    name = package = "chromium"

    def __init__(self, width=1280, height=900):
        super().__init__()
        self.size, self.number, self.pages = (width, height), 0, {}
        self.socket, self.connection = None, contextlib.ExitStack()

    def command(self):
        # It writes the port it chose, and the path of its socket, into its data folder.
        (self.folder / "data").mkdir(exist_ok=True)
        width, height = self.size
        return [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
            "--disable-extensions", "--disable-breakpad", "--no-proxy-server", "--remote-debugging-port=0",
            f"--window-size={width},{height}", f"--user-data-dir={self.folder / 'data'}", "about:blank",
        ]  # fmt: skip

    def is_ready(self):
        try:
            port, path = (self.folder / "data" / "DevToolsActivePort").read_text().split()
        except (FileNotFoundError, ValueError):
            return False
        self.port = int(port)
        self.socket = self.connection.enter_context(
            connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None, ping_interval=None)
        )
        return True

    def end(self):
        self.connection.close()
        super().end()

    # -- the protocol

    def ask(self, method, session=None, **params):
        """One command; events that come before its answer go to the pages they belong to."""
        self.number += 1
        number = self.number
        message = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps({**message, "sessionId": session} if session else message))
        deadline = time.monotonic() + PATIENCE_S
        while (answer := self.next_message(deadline - time.monotonic(), method)).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def next_message(self, seconds, awaited):
        try:
            message = json.loads(self.socket.recv(max(seconds, 0.001)))
        except TimeoutError:
            raise AssertionError(f"Chromium says nothing, awaited was {awaited}") from None
        if (page := self.pages.get(message.get("sessionId"))) is not None and "method" in message:
            page.on_event(message["method"], message["params"])
        return message

    @contextlib.contextmanager
    def page(self):
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        try:
            target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
            session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            page = self.pages[session] = Page(self, session)
            for domain in ("Page", "Runtime", "Log", "Network"):
                page.ask(f"{domain}.enable")
            yield page
            del self.pages[session]
        finally:
            self.ask("Target.disposeBrowserContext", browserContextId=context)


class Page:
    def __init__(self, browser, session):
        self.browser, self.session = browser, session
        self.problems, self.is_loaded = [], False

    def ask(self, method, **params):
        return self.browser.ask(method, self.session, **params)

    def on_event(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Page.loadEventFired":
            self.is_loaded = True
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def open(self, url):
        """Until the page and what it names are loaded."""
        self.is_loaded = False
        result = self.ask("Page.navigate", url=url)
        if "errorText" in result:
            raise RuntimeError(f"{url}: {result['errorText']}")
        self.wait_loaded(url)

    def follow(self, expression):
        """What leads to another page, until that and what it names are loaded."""
        self.is_loaded = False
        self.evaluate(expression)
        self.wait_loaded(expression)

    def wait_loaded(self, awaited):
        deadline = time.monotonic() + PATIENCE_S
        while not self.is_loaded:
            self.browser.next_message(deadline - time.monotonic(), awaited)

    def choose(self, selector, *paths):
        """The files of an <input type=file>."""
        found = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.ask("DOM.setFileInputFiles", files=[str(Path(path).absolute()) for path in paths], objectId=found["objectId"])

    def evaluate(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise ScriptError(details.get("exception", {}).get("description") or details["text"])
        return result["result"].get("value")

    def wait(self, expression, seconds=PATIENCE_S):
        """Until the expression is true; what it then is."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {expression}\n{self.text()}\n{self.problems}")
            time.sleep(0.05)
        return value

    def text(self):
        return self.evaluate("document.body ? document.body.innerText : ''")

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))
