"""``manage.py ringcorn``: the project served as ``runserver`` would, by Ringcorn. For development.

With "ringcorn" in INSTALLED_APPS. Checks first, as runserver does; static files where django.contrib.staticfiles is installed and DEBUG
is on; a change of a source replaces the worker. Then the program takes the place of this process.
"""

import os
import sys

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ringcorn.launch import execute


class Command(BaseCommand):
    help = "Serves the project for development by Ringcorn, with reload on changes and static files. Behind --: options of ringcorn."
    more = ()
    requires_system_checks = []
    stealth_options = ("shutdown_message",)

    def add_arguments(self, parser):
        parser.add_argument("addrport", nargs="?", default="", help="port, or address:port (127.0.0.1:8000)")
        parser.add_argument("--noreload", action="store_false", dest="use_reloader", help="changes of sources replace no worker")
        parser.add_argument("--nostatic", action="store_false", dest="use_static", help="static files are not served")
        parser.add_argument("--insecure", action="store_true", help="static files are served although DEBUG is off")
        parser.add_argument("--skip-checks", action="store_true", help="no system checks")

    def run_from_argv(self, argv):
        """What stands behind -- is for ringcorn."""
        at = argv.index("--") if "--" in argv else len(argv)
        self.more = argv[at + 1 :]
        super().run_from_argv(argv[:at])

    def handle(self, *args, addrport, use_reloader, use_static, insecure, skip_checks, **rest):
        if not settings.DEBUG and not settings.ALLOWED_HOSTS:
            raise CommandError("You must set settings.ALLOWED_HOSTS if DEBUG is False.")
        if not skip_checks:
            self.stdout.write("Performing system checks...\n\n")
            self.check(display_num_errors=True)
        self.check_migrations()
        # Development servers are for one person: nobody waits for requests of a browser that keeps its connections.
        found = ["--bind", bind(addrport), "--graceful-timeout", "3s"]
        if use_reloader:
            found += ["--reload"]
        if use_static and "django.contrib.staticfiles" in settings.INSTALLED_APPS and (settings.DEBUG or insecure):
            found += ["ringcorn.django.development:insecure()" if insecure else "ringcorn.django.development:application()"]
        else:
            found += ["ringcorn.django.development:plain()"]
        found += ["--app-dir", sys.path[0] or os.getcwd()]
        execute([*found, *self.more])


def bind(addrport):
    if not addrport:
        return "127.0.0.1:8000"
    return f"127.0.0.1:{addrport}" if addrport.isdigit() else addrport
