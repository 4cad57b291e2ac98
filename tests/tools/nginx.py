"""An nginx of one's own, with a configuration of conf/nginx/ in it, word for word but for what is replaced.

    with Nginx("websocket.conf", {"unix:/run/mysite.sock": f"unix:{path}"}) as nginx:
        nginx.port

`listen 80;` becomes the free port. A sample may also be a path, of a file elsewhere. Every word to replace must be there. It runs as whoever runs the tests. A sample that speaks of
the `stream` block goes there (Nginx(..., block="stream")).
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
events {{ worker_connections 1024; }}
{block}
"""

BLOCKS = {
    "http": """
http {{
    include /etc/nginx/mime.types;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
""",
    "stream": """
stream {{ include {folder}/site.conf; }}
""",
}

# Debian's; where nginx has it built in there is no such file.
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


class Nginx(programs.Program):
    name = package = "nginx"

    def __init__(self, sample, replaced=(), block="http", port=None):
        super().__init__(port)
        self.sample, self.replaced, self.block = sample, dict(replaced), block

    def command(self):
        text = (SAMPLES / self.sample).read_text()
        for old, new in {"listen 80;": f"listen 127.0.0.1:{self.port};", **self.replaced}.items():
            assert old in text, f"{self.sample} does not say {old!r}"
            text = text.replace(old, str(new))
        (self.folder / "site.conf").write_text(text)
        # Workers of a master that is root become nobody, who may not enter the folder.
        user = "user root;" if os.geteuid() == 0 else ""
        block = BLOCKS[self.block].format(folder=self.folder)
        if self.block == "stream" and STREAM_MODULE.exists():
            user = f"load_module {STREAM_MODULE};\n{user}"
        (self.folder / "nginx.conf").write_text(MAIN.format(folder=self.folder, user=user, block=block))
        return ["-p", self.folder, "-e", "stderr", "-c", self.folder / "nginx.conf"]
