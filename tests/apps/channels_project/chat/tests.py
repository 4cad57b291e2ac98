"""The project's own tests, as a user of Channels writes them; the server that they talk to is Ringcorn."""

import json
import socket
import urllib.request

from channels.routing import get_default_application
from channels.testing import ChannelsLiveServerTestCase
from django.contrib.auth.models import User
from django.test import SimpleTestCase, override_settings
from ringcorn.testing import RingcornProcess
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

PATIENCE = 20


def fails():
    raise LookupError("no application")


class LiveTestCase(ChannelsLiveServerTestCase):
    ProtocolServerProcess = RingcornProcess

    def open(self, path, **headers):
        return connect(self.live_server_ws_url + path, origin=self.live_server_url, additional_headers=headers)

    def log_in(self, name):
        self.client.force_login(User.objects.create_user(name))
        return f"sessionid={self.client.cookies['sessionid'].value}"


class ChatTests(LiveTestCase):
    def test_two_clients_of_a_room(self):
        with self.open("/rooms/a/") as one, self.open("/sync-rooms/a/") as other:
            for client in (one, other):
                self.assertEqual(json.loads(client.recv(PATIENCE))["greeting"], "welcome")
            one.send('"hello"')
            for client in (one, other):
                self.assertEqual(json.loads(client.recv(PATIENCE)), {"text": "hello", "by": ""})

    def test_the_user_of_the_test_database(self):
        with self.open("/me/", Cookie=self.log_in("ringo")) as client:
            self.assertEqual(json.loads(client.recv(PATIENCE)), {"user": "ringo", "said": None})
            client.send('"hello"')
            self.assertEqual(json.loads(client.recv(PATIENCE)), "kept")
        self.assertEqual(self.client.session["said"], "hello")  # what the server has written

    def test_nobody(self):
        self.assertEqual(User.objects.count(), 0)  # the one of the other test is gone
        with self.assertRaises(InvalidStatus) as refused, self.open("/me/"):
            pass
        self.assertEqual(refused.exception.response.status_code, 403)

    def test_static_files(self):
        with urllib.request.urlopen(self.live_server_url + "/static/chat/style.css", timeout=PATIENCE) as answer:
            self.assertIn(b"sans-serif", answer.read())


@override_settings(GREETING="from the test")
class OverriddenSettingsTests(LiveTestCase):
    serve_static = False

    def test_overridden_settings_reach_the_server(self):
        with self.open("/rooms/a/") as client:
            self.assertEqual(json.loads(client.recv(PATIENCE))["greeting"], "from the test")


class ProcessTests(SimpleTestCase):
    def test_a_server_that_does_not_start(self):
        class Refused(RingcornProcess):
            options = ("--threads", "none")

        for process in (RingcornProcess("127.0.0.1", fails), Refused("127.0.0.1", get_default_application)):
            process.start()
            self.assertFalse(process.ready.wait(PATIENCE))
            self.assertFalse(process.is_alive())
            self.assertGreater(process.exitcode, 0)
            process.join()

    @override_settings(GREETING=lambda: "pickled by nobody")
    def test_an_overridden_setting_that_cannot_be_handed_over(self):
        with self.assertRaisesMessage(TypeError, "the overridden setting GREETING"):
            RingcornProcess("127.0.0.1", get_default_application).start()

    def test_a_port_of_ones_own(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = RingcornProcess("127.0.0.1", get_default_application, port=port)
        process.start()
        try:
            self.assertTrue(process.ready.wait(PATIENCE))
            with self.assertRaises(InvalidStatus), connect(f"ws://127.0.0.1:{port}/me/"):
                pass
        finally:
            process.terminate()
            process.join()
        self.assertEqual((process.port.value, process.exitcode), (port, 0))
