"""Ringcorn: an application server for Python web applications that runs on a ring.

This package is the server's Python part. Its event loop can be used alone:

    import ringcorn.loop
    loop = ringcorn.loop.new_event_loop()
"""
