"""Counters and gauges that Prometheus scrapes: ours, and those of llama-server by its names."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..reading.stats import Usage
from ..reading.timings import Timings


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
        self.rereads = Counter("dapq_rereads", "prompts read again, for whatever reason", registry=self.registry)
        self.waiting = Gauge("dapq_queue_waiting", "requests that wait", registry=self.registry)
        self.requests = Counter("dapq_requests", "requests", ["path", "status"], registry=self.registry)
        self.tokens = Counter("dapq_tokens_generated", "tokens of answers", registry=self.registry)
        buckets = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
        self.first_token = Histogram(
            "dapq_time_to_first_token_seconds",
            "from the request on, of answers that are streamed",
            buckets=buckets,
            registry=self.registry,
        )
        self._llama_server = _LlamaServer(self.registry)

    def set_usage(self, usage: Usage, before: Usage) -> None:
        """before: the usage of the last call."""
        for field, gauge in self._usage.items():
            gauge.set(getattr(usage, field))
        self.evictions.inc(usage.n_evictions - before.n_evictions)
        self.rereads.inc(usage.n_rereads - before.n_rereads)
        self._llama_server.note_length(usage.n_tokens)

    def add_answer(self, timings: Timings) -> None:
        """Count an answer that has ended, in whatever way."""
        self.tokens.inc(timings.n_predicted)
        self._llama_server.add_answer(timings)

    def set_tasks(self, n_tasks: int) -> None:
        """Say how many requests there are: one runs, the others wait."""
        self.waiting.set(max(0, n_tasks - 1))
        self._llama_server.processing.set(min(1, n_tasks))
        self._llama_server.deferred.set(max(0, n_tasks - 1))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _LlamaServer:
    """Counters and gauges of llama-server, by its names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"llamacpp:{name}", text, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"llamacpp:{name}", text, registry=registry)

        self.prompt_tokens = counter("prompt_tokens", "tokens of prompts, without those that were in the cache")
        self.cached_tokens = counter("prompt_tokens_cached", "tokens of prompts that were in the cache")
        self.prompt_seconds = counter("prompt_seconds", "seconds until the first tokens of answers")
        self.tokens = counter("tokens_predicted", "tokens of answers")
        self.seconds = counter("tokens_predicted_seconds", "seconds from the first tokens of answers on")
        self.prompt_speed = gauge("prompt_tokens_seconds", "tokens of the last prompt in a second")
        self.speed = gauge("predicted_tokens_seconds", "tokens of the last answer in a second")
        self.processing = gauge("requests_processing", "requests that are answered")
        self.deferred = gauge("requests_deferred", "requests that wait")
        self.longest = gauge("n_tokens_max", "tokens of the longest sequence")
        self._n_longest = 0

    def note_length(self, n_tokens: int) -> None:
        self._n_longest = max(self._n_longest, n_tokens)
        self.longest.set(self._n_longest)

    def add_answer(self, timings: Timings) -> None:
        fields = timings.fields
        self.prompt_tokens.inc(fields["prompt_n"])
        self.cached_tokens.inc(fields["cache_n"])
        self.prompt_seconds.inc(timings.prompt_seconds)
        self.tokens.inc(timings.n_predicted)
        self.seconds.inc(timings.predicted_seconds)
        self.prompt_speed.set(fields["prompt_per_second"])
        self.speed.set(fields["predicted_per_second"])
