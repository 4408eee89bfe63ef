"""A fleet on paper: what a load would take."""
