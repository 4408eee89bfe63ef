"""How a model runs: one file per framework, each with `load`, `predict` and `close`."""
