"""The OpenAI-compatible server: `python -m tributary.serve --help`. docs/openai.md says what it answers."""
