"""Work that can wait: a table of jobs, workers that do them, schedules that add to them."""
