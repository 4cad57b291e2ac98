"""Imported before an application (quiet.py): whatever a guardrail notices is written to QUIET_EVENTS, but for imports, which are counted."""

import os

import ringcorn.guard


@ringcorn.guard.on
def tell(event):
    if event.kind == "block" and any("<frozen importlib" in line for line in event.stack):
        with open(os.environ["QUIET_EVENTS"] + ".imports", "a") as f:
            f.write("x")
        return
    with open(os.environ["QUIET_EVENTS"], "a") as f:
        f.write(f"{event.kind}: {event.message}\n" + "".join(f"    {line}\n" for line in event.stack))
