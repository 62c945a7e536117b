"""What every test shares."""

import hypothesis

# A deadline measures the machine's load; speed is the benchmarks' business.
hypothesis.settings.register_profile("harness", deadline=None)
hypothesis.settings.load_profile("harness")
