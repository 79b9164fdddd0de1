"""What users see: are they served, how fast, and what are they refused?"""

from __future__ import annotations

from grafana import Panel
from promql import SCOPE, quantile, quantiles, rate

PANELS = [
    Panel(
        "Availability, last hour",
        "Share of users' requests that were not answered with a 5xx. The objective is 99.5 %.",
        "percentunit",
        [("1 - genadapter:request_errors:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.995, 0.999],
    ),
    Panel(
        "First token in time, last hour",
        "Share of completions whose first token came within 2.5 s. The objective is 95 %.",
        "percentunit",
        [("1 - genadapter:first_token_late:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.95, 0.98],
    ),
    Panel(
        "Documents in time, last hour",
        "Share of documents that were adapters within 10 s. The objective is 95 %.",
        "percentunit",
        [("1 - genadapter:contextualize_late:ratio_rate1h", "")],
        "stat",
        6,
        thresholds=[0.95, 0.98],
    ),
    Panel(
        "Requests in flight",
        "Requests being answered now, all replicas together.",
        "short",
        [(f"sum(genadapter_requests_in_flight{{{SCOPE}}})", "")],
        "stat",
        6,
    ),
    Panel(
        "Requests",
        "Requests by route.",
        "reqps",
        [(rate("genadapter_requests_total", "route"), "{{route}}")],
        stack=True,
    ),
    Panel(
        "Errors",
        "Answers with a 4xx or 5xx, by status. 499: the client left; 429: too much was waiting.",
        "reqps",
        [(rate("genadapter_requests_total", "status", f'{SCOPE},status=~"[45].."'), "{{status}}")],
        stack=True,
    ),
    Panel(
        "Refused, by route",
        "401: no key or a wrong one; 404: no adapter of this caller; 413: too large; 429: a queue, or a tenant's limit.",
        "reqps",
        [
            (
                rate("genadapter_requests_total", "status, route", f'{SCOPE},status=~"401|404|409|413|415|422|429"'),
                "{{status}} {{route}}",
            )
        ],
        stack=True,
    ),
    Panel(
        "Latency by route, 95th percentile",
        "From the request's first byte to the answer's last; streams count to their end.",
        "s",
        [(quantile(0.95, "genadapter_request_seconds", "route"), "{{route}}")],
    ),
    Panel(
        "Latency of a document",
        "POST /contextualize as its caller sees it.",
        "s",
        quantiles("genadapter_request_seconds", where=f'{SCOPE},route="/contextualize"'),
    ),
    Panel(
        "Time to first token, with an adapter and without",
        "The difference is what adapters cost: the check of the id, a load on first use, and the LoRA product.",
        "s",
        quantiles("genadapter_first_token_seconds", "adapter", levels=(0.5, 0.95)),
    ),
    Panel(
        "Time of a completion, with an adapter and without",
        "From the request to the last token.",
        "s",
        quantiles("genadapter_generate_seconds", "adapter", levels=(0.5, 0.95)),
    ),
    Panel(
        "Error budget, how fast it burns",
        "1 is the speed that uses the month's budget up in a month; alerts fire at 14.4, 6 and 1.",
        "short",
        [
            ("genadapter:request_errors:ratio_rate1h / 0.005", "availability"),
            ("genadapter:first_token_late:ratio_rate1h / 0.05", "first token"),
            ("genadapter:contextualize_late:ratio_rate1h / 0.05", "contextualize"),
        ],
    ),
    Panel(
        "Tokens",
        "Tokens read and written for POST /generate.",
        "short",
        [(rate("genadapter_tokens_total", "kind"), "{{kind}}")],
    ),
]
