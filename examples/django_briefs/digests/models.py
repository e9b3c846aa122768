"""What the site knows: projects with their members and news, and who wants a brief of them when."""

from __future__ import annotations

from datetime import time

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone

from fanout_briefs import InvalidSchedule, Schedule


class Project(models.Model):
    """Something that several people work on."""

    name = models.CharField(max_length=200)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, related_name="projects")

    def __str__(self) -> str:
        return self.name


class Update(models.Model):
    """Something that happened in a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="updates")
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return self.text


class BriefPreference(models.Model):
    """Whether and when somebody wants a brief. Without a row nobody gets one."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, primary_key=True)
    is_active = models.BooleanField(default=True)
    frequency = models.CharField(max_length=10, default="weekdays")
    time_of_day = models.TimeField(default=time(9))
    timezone = models.CharField(max_length=64, default="UTC")

    def __str__(self) -> str:
        return f"{self.frequency} at {self.time_of_day} in {self.timezone}"

    def clean(self) -> None:
        """Forms and the admin refuse what makes no schedule; every bad field is named."""
        try:
            Schedule.parse(self.frequency, self.time_of_day, self.timezone)
        except InvalidSchedule as error:
            raise ValidationError({problem.field: problem.reason for problem in error.problems}) from error
