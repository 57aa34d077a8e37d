"""How much hypothesis tries: little in every run, since each run tries other examples; more when asked.

``pytest tests/unit --hypothesis-profile thorough`` takes minutes; for changes to state machines and decoders.
"""

from hypothesis import settings

# No deadline: on a shared machine it fails tests that are right.
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=2000, deadline=None)
settings.load_profile("quick")
