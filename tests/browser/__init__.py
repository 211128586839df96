"""Tests that drive a real Chromium against a real server, as labelers and admins do."""
