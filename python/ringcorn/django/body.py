"""The body of a request, read before its view runs."""

import io
import tempfile

from django.conf import settings
from django.core.exceptions import RequestAborted


async def read(receive, loop):
    """As Django's read_body(): a file that spills over to the disk. Raises RequestAborted where the client leaves before the end."""
    message = await receive()
    if message["type"] == "http.disconnect":
        raise RequestAborted
    data = message.get("body", b"")
    limit = settings.FILE_UPLOAD_MAX_MEMORY_SIZE
    if not message.get("more_body", False) and len(data) <= limit:
        return io.BytesIO(data)
    file = tempfile.SpooledTemporaryFile(max_size=limit, mode="w+b")
    size = 0
    try:
        while True:
            size += len(data)
            if 0 < limit < size:  # on the disk: not here
                await loop.run_in_executor(None, file.write, data)
            else:
                file.write(data)
            if not message.get("more_body", False):
                break
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestAborted
            data = message.get("body", b"")
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file
