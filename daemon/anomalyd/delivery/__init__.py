"""Delivery: from what the outbox owes to what a receiver took, and what keeps people in peace on the way."""
