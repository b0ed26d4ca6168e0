from typing import Any

llama_log_callback: Any
