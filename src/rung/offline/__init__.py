"""Work that can wait: requests that are answered later, data sets that are scored."""
