"""Settings of the site; what differs from machine to machine comes from the environment."""

import os
from pathlib import Path

import dj_database_url

BASE_DIR = Path(__file__).parent.parent
DEBUG = "DEBUG" in os.environ
SECRET_KEY = os.environ.get("SECRET_KEY", "for development only")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", *os.environ.get("ALLOWED_HOSTS", "").split()]

# PostgreSQL for site and briefs alike; without it, a file of SQLite for each.
DATABASE_URL = os.environ.get("DATABASE_URL")
DATABASES = {"default": dj_database_url.config(default=f"sqlite:///{BASE_DIR / 'site.db'}")}
# Without a broker, run_briefs makes the briefs from cron.
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL")
BRIEFS_LEDGER = BASE_DIR / "briefs.db"
BRIEFS_OUTBOX = BASE_DIR / "outbox"

ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "digests"]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
