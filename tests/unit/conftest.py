"""Hypothesis for all unit tests: a busy machine is slow, and that is no fault of the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("fleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("fleet")
