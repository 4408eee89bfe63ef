"""Commands as Typer reads them, a file a noun. Their bodies are in `rung.cli` and import what they need when run."""
