"""An nginx of one's own, with a configuration of conf/nginx/ in it, word for word but for what is replaced.

    with Nginx("websocket.conf", {"unix:/run/mysite.sock": f"unix:{path}"}) as nginx:
        nginx.port

`listen 80;` becomes the free port. Every word to replace must be there. It runs as whoever runs the tests.
"""

import os
from pathlib import Path

import programs

SAMPLES = Path(__file__).resolve().parents[2] / "conf" / "nginx"

# The pid file is a real one: nginx removes it at its end.
MAIN = """
daemon off;
{user}
worker_processes 1;
pid {folder}/pid;
error_log stderr info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


class Nginx(programs.Program):
    name = package = "nginx"

    def __init__(self, sample, replaced=()):
        super().__init__()
        self.sample, self.replaced = sample, dict(replaced)

    def command(self):
        text = (SAMPLES / self.sample).read_text()
        for old, new in {"listen 80;": f"listen 127.0.0.1:{self.port};", **self.replaced}.items():
            assert old in text, f"{self.sample} does not say {old!r}"
            text = text.replace(old, str(new))
        (self.folder / "site.conf").write_text(text)
        # Workers of a master that is root become nobody, who may not enter the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder, user=user))
        return ["-p", self.folder, "-e", "stderr", "-c", self.folder / "nginx.conf"]
