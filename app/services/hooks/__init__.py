"""Webhooks: telling other systems of events, from an outbox, signed, to allow-listed addresses only."""
