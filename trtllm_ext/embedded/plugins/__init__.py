"""Plugins: layers whose computation is the application's own code."""
