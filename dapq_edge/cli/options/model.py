"""Options of a model, and of how it runs."""

import os
from dataclasses import dataclass
from typing import Any

from ...cells import MIN_BATCH
from .arguments import option, positive_or, whole

# GGML_MAX_N_THREADS
MAX_THREADS = 512


def threads_option() -> Any:
    """Return the option of how many threads compute."""
    return option(
        "-t",
        "--threads",
        type=whole(1, MAX_THREADS, others=[-1]),
        default=-1,
        metavar="N",
        help="CPU threads, no more than cores are free (default: physical cores)",
    )


@dataclass(frozen=True)
class Source:
    """Source of a model."""

    model: str | None = option(
        "-m", "--model", is_source=True, metavar="MODEL", help="GGUF file, or an alias: smollm2-135m, gemma3-270m"
    )
    hf_repo: str | None = option(
        "-hf",
        "--hf-repo",
        is_source=True,
        metavar="USER/REPO[:QUANT]",
        help="GGUF model of Hugging Face",
    )
    offline: bool = option("--offline", action="store_true", help="use only what is in the cache of Hugging Face")


@dataclass(frozen=True)
class _Memory:
    """Options that the memory of a model depends on."""

    batch_size: int = option(
        "-b",
        "--batch-size",
        type=whole(MIN_BATCH),
        default=512,
        metavar="N",
        help=f"tokens read at once, {MIN_BATCH} or more (default: 512)",
    )
    n_gpu_layers: int = option(
        "-ngl", "--n-gpu-layers", type=whole(-1), default=-1, metavar="N", help="layers on the GPU (default: all)"
    )
    rpc: str | None = option(
        "--rpc",
        metavar="SERVERS",
        help="host:port of RPC servers whose devices are GPUs, with commas between them (default: LLAMA_ARG_RPC)",
    )
    cache_type_k: str = option(
        "-ctk", "--cache-type-k", default="f16", metavar="TYPE", help="type of the K cache (default: f16)"
    )
    cache_type_v: str = option(
        "-ctv", "--cache-type-v", default="f16", metavar="TYPE", help="type of the V cache (default: f16)"
    )

    @property
    def servers(self) -> list[str]:
        """Addresses of RPC servers."""
        servers = os.environ.get("LLAMA_ARG_RPC", "") if self.rpc is None else self.rpc
        return servers.split(",") if servers else []


@dataclass(frozen=True)
class Model(_Memory, Source):
    """A model that is not loaded."""


@dataclass(frozen=True)
class RunningModel(_Memory, Source):
    """A model that is loaded."""

    threads: int = threads_option()
    flash_attn: str = option(
        "-fa", "--flash-attn", choices=["on", "off", "auto"], default="auto", help="flash attention (default: auto)"
    )


@dataclass(frozen=True)
class _Sized:
    """The length of texts."""

    ctx_size: int = option(
        "-c",
        "--ctx-size",
        type=positive_or(0),
        default=0,
        metavar="N",
        help="tokens of prompt and answer (default: from the model)",
    )


@dataclass(frozen=True)
class PlannedModel(_Sized, Model):
    """A model that is not loaded, for texts of some length."""


@dataclass(frozen=True)
class SizedModel(_Sized, RunningModel):
    """A model that is loaded, for texts of some length."""
