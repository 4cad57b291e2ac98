"""Three small Django projects with a race each, and the same without it: what ringcorn.shake has to find, and must not find.

One file is all of them: models, views, URLs. RACES_DB names the file of the database."""

import asyncio
import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="races",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["RACES_DB"]}},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.db import IntegrityError, connection, models, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from django.http import HttpResponse, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402


class Counter(models.Model):
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "races"


class Account(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "races"


class UniqueAccount(models.Model):
    name = models.CharField(max_length=50, unique=True)

    class Meta:
        app_label = "races"


class Outbox(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "races"


MODELS = (Counter, Account, UniqueAccount, Outbox)
mails = []


def make_tables():
    with connection.schema_editor() as editor:
        for model in MODELS:
            editor.create_model(model)


def reset():
    """Each run makes its own state."""
    mails.clear()
    for model in MODELS:
        model.objects.all().delete()
    Counter.objects.create(pk=1)


# --- a counter that is read, and written after an await


async def add(request):
    counter = await Counter.objects.aget(pk=1)
    counter.value += 1
    await counter.asave()
    return HttpResponse()


async def add_mended(request):
    await Counter.objects.filter(pk=1).aupdate(value=F("value") + 1)
    return HttpResponse()


async def value(request):
    return JsonResponse({"value": (await Counter.objects.aget(pk=1)).value})


# --- a name that is looked for, and taken after an await


async def sign_up(request, name):
    if await Account.objects.filter(name=name).aexists():
        return HttpResponse(status=409)
    await Account.objects.acreate(name=name)
    return HttpResponse(status=201)


async def sign_up_mended(request, name):
    try:
        await UniqueAccount.objects.acreate(name=name)
    except IntegrityError:
        return HttpResponse(status=409)
    return HttpResponse(status=201)


async def accounts(request):
    names = [account.name for model in (Account, UniqueAccount) async for account in model.objects.all()]
    return JsonResponse(names, safe=False)


# --- a mail that is sent after an account was made: Django cancels a view whose client has gone


async def send_mail(name):
    await asyncio.sleep(0.1)
    mails.append(name)


async def welcome(request, name):
    await Account.objects.acreate(name=name)
    await send_mail(name)
    return HttpResponse(status=201)


@sync_to_async
@transaction.atomic
def make_account(name):
    Account.objects.create(name=name)
    Outbox.objects.create(name=name)


async def welcome_mended(request, name):
    await make_account(name)
    return HttpResponse(status=201)


async def deliver(request):
    """What a service does from time to time."""
    async for entry in Outbox.objects.all():
        await send_mail(entry.name)
        await entry.adelete()
    return HttpResponse()


async def lost(request):
    names = {account.name async for account in Account.objects.all()}
    return JsonResponse(sorted(names - set(mails)), safe=False)


urlpatterns = [
    path("add", csrf_exempt(add)),
    path("mended/add", csrf_exempt(add_mended)),
    path("", value),
    path("sign-up/<str:name>", sign_up),
    path("mended/sign-up/<str:name>", sign_up_mended),
    path("accounts", accounts),
    path("welcome/<str:name>", welcome),
    path("mended/welcome/<str:name>", welcome_mended),
    path("deliver", deliver),
    path("lost", lost),
]

application = get_asgi_application()
