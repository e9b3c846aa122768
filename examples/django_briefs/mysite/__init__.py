"""The site."""

from .celery import app as celery_app

__all__ = ["celery_app"]  # So that it is there before any task is sent.
