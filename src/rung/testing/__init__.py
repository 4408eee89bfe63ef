"""For tests, ours and yours: conformance suites of the ports, small real models, a scripted one."""
