"""Tree plans: which host is linked to by which. Pure functions; entry point ``plan.plan_tree``."""
