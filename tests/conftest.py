"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# The same cases in every run, and as slow as the machine happens to be: a test that fails fails
# again, and none fails because other programs are at work.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")
