"""A host on FastAPI and PostgreSQL, whose briefs are made by workers of Procrastinate."""
