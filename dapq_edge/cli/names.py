"""Names of options, for messages that speak of parameters."""

# parameters whose option is not their name with two dashes
FLAGS = {
    "flash_attn": "-fa",
    "hf_repo": "-hf",
    "n_batch": "-b",
    "n_ctx": "-c",
    "n_gpu_layers": "-ngl",
    "n_predict": "-n",
    "n_threads": "-t",
    "type_k": "-ctk",
    "type_v": "-ctv",
}


def flag_of(param: str) -> str:
    """Return the option that sets a parameter."""
    return FLAGS.get(param, f"--{param.replace('_', '-')}")
