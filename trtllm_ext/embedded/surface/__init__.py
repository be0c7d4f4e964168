"""What completes the module: interfaces that applications implement, and names of what the embedded engine lacks."""
