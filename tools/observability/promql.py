"""Queries as the dashboards write them again and again."""

from __future__ import annotations

WINDOW = "$__rate_interval"
SCOPE = 'job="genadapter"'
ENGINE = 'job="genadapter-engine"'
REDIS = 'job="genadapter-redis"'


def rate(metric: str, by: str = "", where: str = SCOPE) -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({metric}{{{where}}}[{WINDOW}]))"


def quantile(q: float, metric: str, by: str = "", where: str = SCOPE) -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{WINDOW}])))"


def quantiles(
    metric: str, by: str = "", where: str = SCOPE, levels: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> list[tuple[str, str]]:
    legend = f"{{{{{by}}}}} " if by else ""
    return [(quantile(q, metric, by, where), f"{legend}p{q * 100:g}") for q in levels]


def mean(metric: str, by: str = "", where: str = SCOPE) -> str:
    return f"{rate(f'{metric}_sum', by, where)} / {rate(f'{metric}_count', by, where)}"
