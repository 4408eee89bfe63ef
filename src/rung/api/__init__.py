"""The control API: FastAPI over the functions of `catalog`, `jobs` and `fleet`."""
