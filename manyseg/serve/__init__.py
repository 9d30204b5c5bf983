"""A trained run as a web page and a JSON API, with limits."""
