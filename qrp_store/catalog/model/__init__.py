"""The tables and the views."""
