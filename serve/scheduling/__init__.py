"""Admission, queues, batches, and the plan by which a model is executed."""
