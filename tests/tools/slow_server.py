"""A server elsewhere that takes its time: whoever sends a line with a number of milliseconds gets an answer after so long."""

import socketserver
import threading
import time


class _Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            time.sleep(int(line) / 1000)
            self.wfile.write(b"done\n")


class SlowServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.thread.start()

    @property
    def address(self):
        return "%s:%d" % self.server_address

    def __exit__(self, *exc_info):
        self.shutdown()
        self.thread.join()
        self.server_close()
