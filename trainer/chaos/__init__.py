"""Kills and their proof."""
