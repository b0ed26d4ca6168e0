"""An OpenAI-compatible server, and a page to ask about a document."""
