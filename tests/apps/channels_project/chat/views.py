from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt


def me(request):
    return JsonResponse({"user": request.user.get_username(), "said": request.session.get("said")})


@csrf_exempt
def tell(request, room):
    """A synchronous view that sends to a group."""
    async_to_sync(get_channel_layer().group_send)(room, {"type": "said", "message": {"text": request.body.decode(), "by": "a view"}})
    return HttpResponse(status=204)
