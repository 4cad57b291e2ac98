"""What a visitor of the example project does, in a headless Chromium: logs in to the admin, uploads a file, watches the live dashboard.

    tour(browser, "http://127.0.0.1:8080", "admin", "admin", Path("build/demo"))    # screenshots are kept there

It goes through nginx to wherever the project is served. What is not as it should be is an AssertionError.
"""

import base64
import hashlib
import json

WORDS = "A picture of the way in"
FETCH = """fetch({}).then(async r => {{
    const bytes = new Uint8Array(await r.arrayBuffer());
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return {{status: r.status, type: r.headers.get("content-type"), policy: r.headers.get("content-security-policy"),
             cache: r.headers.get("cache-control"), sha256: Array.from(digest, b => b.toString(16).padStart(2, "0")).join("")}};
}})"""


def fetched(page, path):
    return page.evaluate(FETCH.format(json.dumps(path)))


def figure(page, name):
    return page.evaluate(f"document.getElementById('{name}').textContent")


def fill(page, **values):
    for name, value in values.items():
        page.evaluate(f"document.querySelector('[name={name}]').value = {json.dumps(value)}")


def tour(browser, url, user, password, shots, say=lambda text: None):
    shots.mkdir(parents=True, exist_ok=True)

    def shot(page, name):
        page.screenshot(shots / f"{name}.png")
        say(f"{shots / name}.png")

    with browser.page() as page, browser.page() as board:
        say("log in to the admin")
        page.open(f"{url}/admin/")
        assert "/admin/login/" in page.evaluate("location.href")
        style = fetched(page, "/static/admin/css/base.css")
        assert (style["status"], style["type"], style["cache"]) == (200, "text/css", "max-age=3600"), style
        assert page.evaluate("getComputedStyle(document.querySelector('#header')).display") == "flex", "the style sheet is in force"
        shot(page, "login")
        fill(page, username=user, password=password)
        page.follow("document.getElementById('login-form').requestSubmit()")
        assert "Site administration" in page.text(), page.text()
        shot(page, "admin")

        say("watch the live dashboard")
        board.open(f"{url}/live/")
        board.wait("document.getElementById('state').dataset.state == 'connected'")
        board.wait("document.getElementById('watchers').textContent == '1'")
        before = int(figure(board, "count"))
        shot(board, "dashboard")

        say("upload a file in the admin")
        picture = shots / "login.png"
        page.open(f"{url}/admin/guestbook/entry/add/")
        fill(page, name="Ada", text=WORDS)
        page.choose("[name=picture]", picture)
        page.follow("document.querySelector('[name=_continue]').click()")
        assert "was added successfully" in page.text(), page.text()
        shot(page, "uploaded")
        link = page.evaluate("document.querySelector('.file-upload a').getAttribute('href')")
        assert link.startswith("/media/pictures/"), link
        file = fetched(page, link)
        assert (file["status"], file["type"], file["policy"]) == (200, "image/png", "sandbox"), file
        assert file["sha256"] == hashlib.sha256(picture.read_bytes()).hexdigest(), "what comes back is what was sent"

        say("see the dashboard change")
        board.wait(f"document.querySelector('#entries p')?.textContent == {json.dumps(WORDS)}")
        board.wait(f"document.getElementById('count').textContent == '{before + 1}'")
        requests = int(figure(board, "requests").replace(",", ""))
        for i, (name, text) in enumerate((("Grace", "Was here, too"), ("Ed", "<b>is</b> no markup"))):
            page.open(url)
            fill(page, name=name, text=text)
            page.follow("document.forms[0].requestSubmit()")
            board.wait(f"document.getElementById('count').textContent == '{before + 2 + i}'")
        page.evaluate("(async () => { for (let i = 0; i < 300; i++) await fetch('/async/'); })()")
        board.wait(f"parseInt(document.getElementById('requests').textContent.replaceAll(',', '')) > {requests + 300}")
        names = board.evaluate("Array.from(document.querySelectorAll('#entries b'), e => e.textContent)")
        assert names[:3] == ["Ed", "Grace", "Ada"], names
        assert board.evaluate("performance.getEntriesByType('navigation').length") == 1, "it is the page from before"
        shot(board, "dashboard-changed")
        page.open(url)
        page.wait("document.querySelector('li img')?.naturalWidth > 0")
        shot(page, "guestbook")
        problems = page.problems + board.problems
    assert not problems, problems
