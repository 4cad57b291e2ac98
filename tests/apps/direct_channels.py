"""direct_django behind Channels' router."""

from channels.routing import ProtocolTypeRouter
from direct_django import application as inner

application = ProtocolTypeRouter({"http": inner})
