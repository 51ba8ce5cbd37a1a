"""The server behind `unprompt serve`: a REST API and a web page."""
