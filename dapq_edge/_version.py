"""Versions of the package and of what it is built for; scripts/setup.sh reads this file."""

__version__ = "0.1.0"

# the version that llama_dapq_version() of a build with our patches reports
PATCH_VERSION = 8

# the llama.cpp that llama-cpp-python 0.3.36 vendors
LLAMA_CPP_COMMIT = "0c1e57098"
