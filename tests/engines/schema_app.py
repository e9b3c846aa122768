"""A Procrastinate app without tasks, to make its tables with."""

import os

import procrastinate

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ["PGDSN"]))
