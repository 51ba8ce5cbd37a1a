"""The pairs table, its conversion to other formats, and files of prompts."""
