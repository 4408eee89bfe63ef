"""What stands before several replicas."""
