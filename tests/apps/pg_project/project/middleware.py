"""Middleware of every kind; settings.MIDDLEWARE_EXTRA names them. Those called Hop... note who runs each of their hooks."""

import threading

from django.http import HttpResponse
from django.utils.decorators import async_only_middleware, sync_only_middleware
from django.utils.deprecation import MiddlewareMixin

from . import hops


class HopOld(MiddlewareMixin):
    """As before Django 1.10: process_request and process_response, with every other hook. Turns the notes of signals on too."""

    def __init__(self, get_response):
        super().__init__(get_response)
        hops.listen()

    def process_request(self, request):
        hops.current.set(request.GET.get("id"))
        hops.note("old.process_request")

    def process_view(self, request, view, args, kwargs):
        hops.note("old.process_view")

    def process_exception(self, request, exception):
        hops.note("old.process_exception")
        return HttpResponse(f"caught {exception}", status=418)

    def process_template_response(self, request, response):
        hops.note("old.process_template_response")
        return response

    def process_response(self, request, response):
        hops.note("old.process_response")
        return response


class HopMixin(MiddlewareMixin):
    def process_request(self, request):
        hops.note("mixin.process_request")

    def process_response(self, request, response):
        hops.note("mixin.process_response")
        return response


@sync_only_middleware
def hop_sync(get_response):
    """Django can put it above an async view only by holding its thread for as long as the view runs."""

    def middleware(request):
        hops.note("sync.in")
        response = get_response(request)
        hops.note("sync.out")
        return response

    return middleware


@async_only_middleware
def hop_async(get_response):
    async def middleware(request):
        hops.note("async.in", on_loop=True)
        response = await get_response(request)
        hops.note("async.out", on_loop=True)
        return response

    return middleware


class Local(MiddlewareMixin):
    """Keeps the request's name in a thread-local, as much code of old does, and compares on the way out."""

    data = threading.local()

    def process_request(self, request):
        Local.data.name = request.GET.get("id")

    def process_response(self, request, response):
        response["x-local"] = str(getattr(Local.data, "name", None))
        return response


@sync_only_middleware
def plain_sync(get_response):
    def middleware(request):
        return get_response(request)

    return middleware
