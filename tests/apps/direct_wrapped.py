"""direct_django inside of something of its own."""

from direct_django import application as inner


async def application(scope, receive, send):
    await inner(scope, receive, send)
