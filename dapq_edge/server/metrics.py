"""Counters and gauges that Prometheus scrapes."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..reading.stats import Usage


class Metrics:
    """Counters and gauges of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = {
            "n_cells_used": ("dapq_kv_cells_used", "cells of the sequence"),
            "n_cells": ("dapq_kv_cells_allocated", "cells of the context"),
            "bytes_used": ("dapq_kv_bytes_used", "bytes of K and V of the sequence"),
            "bytes_allocated": ("dapq_kv_bytes_allocated", "bytes of K and V of the context"),
        }
        self._usage = {field: Gauge(*name, registry=self.registry) for field, name in names.items()}
        self.evictions = Counter("dapq_evictions", "evictions", registry=self.registry)
        self.rereads = Counter("dapq_rereads", "prompts read again for a question", registry=self.registry)
        self.waiting = Gauge("dapq_queue_waiting", "requests that wait", registry=self.registry)
        self.requests = Counter("dapq_requests", "requests", ["path", "status"], registry=self.registry)
        self.tokens = Counter("dapq_tokens_generated", "tokens of answers", registry=self.registry)
        buckets = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
        self.first_token = Histogram(
            "dapq_time_to_first_token_seconds", "from the request on", buckets=buckets, registry=self.registry
        )

    def set_usage(self, usage: Usage, before: Usage) -> None:
        """before: the usage of the last call."""
        for field, gauge in self._usage.items():
            gauge.set(getattr(usage, field))
        self.evictions.inc(usage.n_evictions - before.n_evictions)
        self.rereads.inc(usage.n_rereads - before.n_rereads)

    def text(self) -> bytes:
        return generate_latest(self.registry)
