"""From documents to adapters: stages, tokens, queue, reuse."""

from __future__ import annotations

from grafana import Panel
from promql import SCOPE, mean, quantile, quantiles, rate

PANELS = [
    Panel(
        "Adapters made",
        "New adapters each second, all replicas together.",
        "ops",
        [(rate("genadapter_adapters_total", where=f'{SCOPE},outcome="created"'), "")],
        "stat",
        6,
    ),
    Panel(
        "Reuse, last hour",
        "Share of requests that asked for an adapter which their caller had already: they cost no forward pass.",
        "percentunit",
        [("genadapter:reuse:ratio_rate1h", "")],
        "stat",
        6,
    ),
    Panel(
        "Tokens read",
        "Tokens of the documents that went through the base model.",
        "short",
        [(rate("genadapter_document_tokens_sum"), "")],
        "stat",
        6,
    ),
    Panel(
        "Documents that wait",
        "In front of the generator, all replicas together. A replica refuses above MAX_QUEUE.",
        "short",
        [(f"sum(genadapter_queue_depth{{{SCOPE}}})", "")],
        "stat",
        6,
        thresholds=[],
    ),
    Panel(
        "Stages, 95th percentile",
        "Where a document's time goes, from parsing to the store.",
        "s",
        [(quantile(0.95, "genadapter_contextualize_stage_seconds", "stage"), "{{stage}}")],
    ),
    Panel(
        "Stages, mean, added up",
        "Their sum is the mean time of a document.",
        "s",
        [(mean("genadapter_contextualize_stage_seconds", "stage"), "{{stage}}")],
        stack=True,
    ),
    Panel(
        "Queue by replica",
        "Documents that wait in front of each replica's generator.",
        "short",
        [(f"genadapter_queue_depth{{{SCOPE}}}", "{{instance}}")],
    ),
    Panel(
        "Tokens that wait, by replica",
        "Divided by the speed below it is the time that a new document waits.",
        "short",
        [(f"genadapter_queue_tokens{{{SCOPE}}}", "{{instance}}")],
    ),
    Panel(
        "Speed of the generator",
        "Tokens of documents for each second of the forward pass.",
        "short",
        [
            (
                f"{rate('genadapter_document_tokens_sum')} / "
                + rate("genadapter_contextualize_stage_seconds_sum", where=f'{SCOPE},stage="forward"'),
                "tokens/s",
            )
        ],
    ),
    Panel("Tokens of a document", "How long the documents are.", "short", quantiles("genadapter_document_tokens")),
    Panel(
        "Documents in one pass",
        "Batching: how many documents share a pass of the base model.",
        "short",
        [(mean("genadapter_batch_documents"), "mean"), (quantile(0.95, "genadapter_batch_documents"), "p95")],
    ),
    Panel(
        "Passes of the base model",
        "Begun each second. A document longer than the generator's window takes several.",
        "ops",
        [(rate("genadapter_chunks_total"), "passes")],
    ),
    Panel(
        "Uploaded files",
        "By kind and by how reading them ended.",
        "ops",
        [(rate("genadapter_documents_parsed_total", "kind, outcome"), "{{kind}} {{outcome}}")],
        stack=True,
    ),
    Panel(
        "Trouble",
        "Passes that failed, and documents whose callers left while they waited.",
        "ops",
        [
            (rate("genadapter_generator_failures_total"), "failed passes"),
            (rate("genadapter_jobs_dropped_total", "reason"), "dropped: {{reason}}"),
        ],
    ),
    Panel("Size of an adapter", "As stored.", "bytes", quantiles("genadapter_adapter_bytes")),
]
