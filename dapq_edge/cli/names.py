"""Names of options, for messages that speak of parameters."""

from ..errors import DapqError

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


def message_of(error: DapqError) -> str:
    """Return the message of an error, with options for the parameters that it names."""
    return error.say(flag_of, " ")
