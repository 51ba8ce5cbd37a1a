"""The pairs table, and every step that makes or cleans one."""
