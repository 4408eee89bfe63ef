"""What was answered and what turned out to be right: from log segments to tables that can be asked."""
