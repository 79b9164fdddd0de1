"""`genadapter` with spans: `traced.py [ARGUMENTS of genadapter]`. start.py runs it in place of the plain command when an OTLP
endpoint is set, and not `opentelemetry-instrument`, which cannot be told to leave the pieces of bodies out: a stream of a
thousand tokens would be a thousand spans.
"""

import os

from opentelemetry.instrumentation.auto_instrumentation import initialize
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "fastapi"  # done by hand below
initialize(swallow_exceptions=False)  # a collector that is set up wrongly stops the start
FastAPIInstrumentor().instrument(exclude_spans=["receive", "send"])

# Only now: what is imported from here on is instrumented.
from service.cli import app  # noqa: E402

app()
