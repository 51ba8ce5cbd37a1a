"""Tests of unprompt.encoding."""
