"""Map, combine, shuffle and reduce over many files: chunks are jobs, and the result does not depend on who did them."""
