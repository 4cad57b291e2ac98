"""Middleware of every kind, which notes what it does. The query says who is to answer or to fail: ?answer=Outer.process_request, ?fail=..."""

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.core.exceptions import MiddlewareNotUsed, PermissionDenied
from django.http import HttpResponse
from django.utils.decorators import async_only_middleware, sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

from . import trace


class Hooks(MiddlewareMixin):
    made = 0

    def __init__(self, get_response):
        super().__init__(get_response)
        self.name = type(self).__name__
        self.served = 0  # what an instance knows is the same for sync and async views
        type(self).made += 1

    def _act(self, request, hook):
        what = f"{self.name}.{hook}"
        trace.note(what)
        trace.add(what[0] + hook[8:10])
        if request.GET.get("fail") == what:
            raise ValueError(f"{what} failed")
        if request.GET.get("deny") == what:
            raise PermissionDenied(what)
        if request.GET.get("answer") == what:
            return HttpResponse(f"answer of {what}")
        return None

    def process_request(self, request):
        self.served += 1
        if urlconf := request.GET.get("urlconf"):
            request.urlconf = f"views_project.{urlconf}"
        return self._act(request, "process_request")

    def process_view(self, request, view, args, kwargs):
        return self._act(request, "process_view")

    def process_exception(self, request, exception):
        trace.note(f"{self.name} saw {exception!r}")
        return self._act(request, "process_exception")

    def process_template_response(self, request, response):
        response.context_data["value"] = f"{response.context_data.get('value', '')}<{self.name}"
        self._act(request, "process_template_response")
        return response

    def process_response(self, request, response):
        response.headers.setdefault(f"X-{self.name}", f"{self.served} {type(self).made} {response.status_code}")
        if request.GET.get("none") == f"{self.name}.process_response":
            return None
        return self._act(request, "process_response") or response


class Outer(Hooks):
    pass


class Middle(Hooks):
    pass


class Inner(Hooks):
    pass


class AsyncViewHook(Hooks):
    async def process_view(self, request, view, args, kwargs):
        return self._act(request, "process_view")


class Unused(Hooks):
    def __init__(self, get_response):
        raise MiddlewareNotUsed


class SyncOnly:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        trace.note("SyncOnly in")
        response = self.get_response(request)
        trace.note("SyncOnly out")
        response.headers["X-SyncOnly"] = "1"
        return response


@sync_and_async_middleware
def both(get_response):
    if iscoroutinefunction(get_response):

        async def middleware(request):
            trace.note("both in")
            response = await get_response(request)
            trace.note("both out")
            response.headers["X-Both"] = "1"
            return response
    else:

        def middleware(request):
            trace.note("both in")
            response = get_response(request)
            trace.note("both out")
            response.headers["X-Both"] = "1"
            return response

    return middleware


class BothClass:
    sync_capable = True
    async_capable = True

    def __init__(self, get_response):
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request):
        if self.is_async:
            return self.__acall__(request)
        trace.note("BothClass in")
        response = self.get_response(request)
        trace.note("BothClass out")
        return response

    async def __acall__(self, request):
        trace.note("BothClass in")
        response = await self.get_response(request)
        trace.note("BothClass out")
        return response

    def process_exception(self, request, exception):
        trace.note(f"BothClass saw {exception!r}")


@async_only_middleware
def async_only(get_response):
    async def middleware(request):
        trace.note("async_only in")
        response = await get_response(request)
        trace.note("async_only out")
        return response

    return middleware
